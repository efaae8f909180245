"""Refuse every connection that leaves this machine (see tools/offline.py)."""

import socket

_connect = socket.socket.connect


def _guarded(self, address):
    host = address[0] if isinstance(address, tuple) else "localhost"
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(101, f"Network is off: {host}")
    return _connect(self, address)


socket.socket.connect = _guarded  # type: ignore[method-assign]  # replacing it is the point
