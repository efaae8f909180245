"""The real `kaggle` client against a stub of the service on loopback; nobody's credentials are read."""

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest

from tools.kaggle_client import header, metadata
from tools.sync import SyncError, recipes

ROOT = Path(__file__).resolve().parents[2]
RECIPES = pytest.mark.parametrize("recipe", recipes(ROOT), ids=lambda path: path.stem)


class Stub(ThreadingHTTPServer):
    """Keeps what is saved, and gives it back."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests, self.refuse = [], ""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rsplit("/", 1)[-1]
        self.server.requests.append((call, body, self.headers.get("Authorization", "")))
        if call == "SaveKernel":
            answer = {"ref": "/code/x", "url": "http://localhost/x", "versionNumber": 1, "error": self.server.refuse}
        else:
            saved = next(body for call, body, _ in reversed(self.server.requests) if call == "SaveKernel")
            blob = {"source": saved["text"], "language": "python", "kernelType": "notebook", "slug": "nb"}
            answer = {"metadata": {"ref": saved["slug"]}, "blob": blob}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    server = Stub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(stub, tmp_path, monkeypatch):
    """Runs tools.kaggle_client in a folder's copy of the project, with a made-up key."""
    root = tmp_path / "project"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".venv", ".git", "build", ".*_cache", "__pycache__"))
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)
    (tmp_path / "home/.kaggle").mkdir(parents=True)
    (tmp_path / "home/.kaggle/kaggle.json").write_text(json.dumps({"username": "someone", "key": "made-up-key"}))
    (tmp_path / "home/.kaggle/kaggle.json").chmod(0o600)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    # The client then talks to http://localhost, port 80; the stub stands in as that host's proxy, on a free port.
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{stub.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def run(target, *words):
        command = ["make", f"VENV={sys.prefix}", target, "RECIPE=finetune_deberta", *words]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert "made-up-key" not in done.stdout + done.stderr
        return done

    run.root = root
    return run


@RECIPES
def test_the_header_is_the_source_of_the_metadata(recipe):
    told = metadata(recipe, "someone")
    assert told["id"] == f"someone/{recipe.stem.replace('_', '-')}"
    assert told["enable_internet"] is False
    assert told["enable_gpu"] is True
    assert told["machine_shape"] == "NvidiaTeslaT4"
    assert told["competition_sources"] == ["llm-classification-finetuning"]
    assert all(name.count("/") == 4 for name in told["model_sources"])
    assert told["is_private"] is True


def test_a_header_that_says_too_little_is_refused(tmp_path):
    source = (ROOT / "notebooks/finetune_deberta.py").read_text(encoding="utf-8")
    recipe = tmp_path / "finetune_deberta.py"
    recipe.write_text(source.replace("| Internet | off |", "| Internet | perhaps |"))
    assert header(recipe)["Internet"] == "perhaps"
    with pytest.raises(SyncError, match="Internet"):
        metadata(recipe, "someone")
    recipe.write_text(source.replace("competition `", "competition "))
    with pytest.raises(SyncError, match="competition"):
        metadata(recipe, "someone")
    with pytest.raises(SyncError, match="user name"):
        metadata(ROOT / "notebooks/finetune_deberta.py", "a/b")


def test_push_sends_the_notebook_and_pull_brings_an_edit_back(client, stub):
    done = client("push", "USER=someone", "SECONDS=3600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "successfully pushed" in done.stdout
    call, sent, authorization = stub.requests[-1]
    assert call == "SaveKernel"
    assert authorization
    assert sent["slug"] == "someone/finetune-deberta"
    assert sent["enableInternet"] is False
    assert (sent["machineShape"], sent["sessionTimeoutSeconds"]) == ("NvidiaTeslaT4", 3600)
    assert sent["competitionDataSources"] == ["llm-classification-finetuning"]
    notebook = nbformat.reads(sent["text"], as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)

    edited = next(cell for cell in notebook.cells if "class CFG" in cell.source)
    edited.source = edited.source.replace("epochs: float = 2.0", "epochs: float = 1.5")
    sent["text"] = nbformat.writes(notebook)
    done = client("pull-kaggle", "USER=someone")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pulled notebooks/finetune_deberta.py" in done.stdout
    assert "epochs: float = 1.5" in (client.root / "notebooks/finetune_deberta.py").read_text(encoding="utf-8")


def test_a_refusal_of_the_service_is_an_error_here(client, stub):
    stub.refuse = "Maximum weekly GPU quota of 30.00 hours reached."
    done = client("push", "USER=someone")
    assert done.returncode != 0
    assert "quota" in done.stdout


def test_without_credentials_nothing_is_sent(client, stub, tmp_path):
    shutil.rmtree(tmp_path / "home/.kaggle")
    done = client("push", "USER=someone")
    assert done.returncode != 0
    assert not stub.requests


def test_whose_account_has_to_be_said(client, stub):
    done = client("push")
    assert done.returncode != 0
    assert "Say whose account" in done.stderr
    assert not stub.requests
