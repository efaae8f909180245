"""Run a command without a network: python -m tools.offline COMMAND [ARG ...]

In a network namespace of its own, with loopback only, where the machine allows one; otherwise with a guard in
Python that refuses connections to anything but loopback.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

_GUARD = Path(__file__).parent / "socket_guard"
_INSIDE = "--inside"


def main(words: list[str]) -> None:
    if words[:1] == [_INSIDE]:
        _loopback_up()
        os.execvp(words[1], words[1:])
    if _namespace_works():
        again = [sys.executable, "-m", "tools.offline", _INSIDE]
        os.execvp("unshare", ["unshare", "--map-root-user", "--net", *again, *words])
    print("No network namespace on this machine; a socket guard stands in.", flush=True)
    paths = [str(_GUARD), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.execvp(words[0], words)


def _namespace_works() -> bool:
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "--map-root-user", "--net", "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def _loopback_up() -> None:
    """What `ip link set lo up` does: the notebook's kernel is talked to over loopback."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, get_flags, struct.pack("16sh", b"lo", 0))
        flags = struct.unpack("16sh", request[:18])[1]
        fcntl.ioctl(control, set_flags, struct.pack("16sh", b"lo", flags | up))


if __name__ == "__main__":
    main(sys.argv[1:])
