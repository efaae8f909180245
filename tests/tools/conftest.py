"""A stub of Kaggle's service on loopback, and an account there; nobody's credentials are read."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Stub(ThreadingHTTPServer):
    """Keeps what is asked, and answers as told.

    Attributes:
        requests: (call, body, authorization), in order.
        answers: for each call the answers to come, of which the last is repeated: a body, or (status, the service's
            reason or None).
        archive: the bytes of a contest's files, packed.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests, self.refuse, self.invalid, self.version = [], "", [], 1
        self.answers, self.archive = {}, b""

    def calls(self):
        return [call for call, _, _ in self.requests]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        """The archive, at the address that the service redirects to."""
        self.server.requests.append(("archive", {}, self.headers.get("Authorization", "")))
        self.send_response(200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(len(self.server.archive)))
        self.end_headers()
        self.wfile.write(self.server.archive)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rsplit("/", 1)[-1]
        self.server.requests.append((call, body, self.headers.get("Authorization", "")))
        status, answer = 200, {}
        if call == "DownloadDataFiles" and call not in self.server.answers:
            self.send_response(302)
            self.send_header("Location", "http://localhost/storage/files.zip?signature=x")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if call in self.server.answers:
            queue = self.server.answers[call]
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
            if isinstance(answer, tuple):
                # As the real service words a refusal; a bare one has a page as its body.
                status, reason = answer
                answer = {"error": {"code": status, "message": reason}} if reason else "<html></html>"
        elif call == "SaveKernel":
            answer = {"ref": "/code/x", "url": "http://localhost/x", "versionNumber": self.server.version}
            answer |= {"error": self.server.refuse, "invalidDatasetSources": self.server.invalid}
        elif call == "GetKernel":
            saved = next(body for call, body, _ in reversed(self.server.requests) if call == "SaveKernel")
            blob = {"source": saved["text"], "language": "python", "kernelType": "notebook", "slug": "nb"}
            answer = {"metadata": {"ref": saved["slug"]}, "blob": blob}
        text = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    server = Stub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def account(stub, tmp_path, monkeypatch):
    """A home folder with a made-up key, and an environment in which the client talks to the stub."""
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle/kaggle.json").write_text(json.dumps({"username": "someone", "key": "made-up-key"}))
    (home / ".kaggle/kaggle.json").chmod(0o600)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    # The client then talks to http://localhost, port 80; the stub stands in as that host's proxy, on a free port.
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{stub.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return home / ".kaggle"
