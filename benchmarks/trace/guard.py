"""A CUDA device that computes nothing: compile guard.cpp for the installed torch, and load it before torch.

torch asks once whether there is a CUDA backend, so the library has to be there first: nothing in this module imports
torch, and a program calls `load` before anything else does.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")
CACHE = Path(__file__).resolve().parents[2] / "build" / "trace"


def missing() -> str:
    """Why nothing can be traced on this machine, in one sentence; empty when it can."""
    if platform.system() != "Linux":
        return "The trace needs Linux, so nothing was counted."
    if not shutil.which("g++"):
        return "The trace needs a C++ compiler, so nothing was counted; install g++."
    if (_torch() / "lib" / "libtorch_cuda.so").exists():
        return "The trace needs a build of torch without CUDA, so nothing was counted; this torch has its own CUDA."
    return ""


def load() -> None:
    """Register the device with torch, compiling the library first unless it is in the cache (about 6 s).

    Raises:
        RuntimeError: torch is already loaded, or the compiler failed; `missing` names what a machine can lack.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the trace's device was loaded; call load() first.")
    ctypes.CDLL(str(build()), ctypes.RTLD_GLOBAL)


def build() -> Path:
    """The compiled library for this torch and this guard.cpp."""
    made_from = f"{_torch_version()} {hashlib.sha256(SOURCE.read_bytes()).hexdigest()}"
    library = CACHE / f"guard-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    CACHE.mkdir(parents=True, exist_ok=True)
    include, lib = _torch() / "include", _torch() / "lib"
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        made = Path(scratch) / library.name
        command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-D_GLIBCXX_USE_CXX11_ABI=1", str(SOURCE)]
        command += [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}", f"-L{lib}", f"-Wl,-rpath,{lib}"]
        done = subprocess.run([*command, "-ltorch_cpu", "-lc10", "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ could not compile {SOURCE.name} for torch {_torch_version()}:\n{done.stderr}")
        os.replace(made, library)  # at once: another process may be doing the same
    return library


def _torch() -> Path:
    found = find_spec("torch")
    if not found or not found.origin:
        raise RuntimeError("torch is not installed.")
    return Path(found.origin).parent


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "unknown"
