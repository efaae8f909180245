"""Write result files so that a reader sees the old one or the new one, never half of one; and digests of folders."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from src_py.errors import InputError

TEMPORARY, WORKING = Path("/kaggle/temp"), "/kaggle/working"
LIMIT = 20 * 10**9  # bytes that Kaggle keeps of /kaggle/working
WEIGHTS = (".json", ".safetensors", ".bin")
ENCODER_FILES = (*WEIGHTS, ".model", ".txt")  # the tokenizer's files too


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: str | Path, suffixes: tuple[str, ...]) -> str:
    """SHA-256 (first 24 hex digits) of the files in `folder` with these suffixes, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in suffixes and path.is_file():
            with open(path, "rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]


def scratch_folder(output: str | Path) -> Path:
    """Where caches lie that no later notebook needs: outside the output on Kaggle, below it elsewhere."""
    return TEMPORARY if TEMPORARY.is_dir() else Path(output) / "scratch"


def free_bytes(output: str | Path) -> int:
    """Space left for results in `output`: what the disk has, and of Kaggle's 20 GB what earlier files leave.

    Files that cannot be read, such as links to nowhere, count as empty.
    """
    output = Path(output)
    existing = next(folder for folder in (output.resolve(), *output.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if str(output.resolve()).startswith(WORKING):
        used = sum(path.lstat().st_size for path in Path(WORKING).rglob("*"))
        free = min(free, LIMIT - used)
    return free


def require_space(output: str | Path, needed: float, purpose: str) -> None:
    """Raises InputError when `needed` bytes do not fit: before the work whose result would not."""
    free = free_bytes(output)
    if needed > free:
        raise InputError(
            f"{purpose} needs {needed / 1e9:.1f} GB, but {output} has room for {max(0, free) / 1e9:.1f} GB; remove "
            "files there, or train fewer folds at a time."
        )


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a failure to write below `path` into one sentence.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:150]
        raise InputError(f"{path} cannot be written ({reason}); free some space or set CFG.output_dir.") from error


def write_csv(path: str | Path, frame: pd.DataFrame) -> Path:
    """Write `frame` without its index to a temporary file beside `path`, then rename it.

    Raises:
        InputError: when the folder cannot be written or the disk is full; an earlier file is left as it was.
    """
    _replace(Path(path), lambda file: file.write(frame.to_csv(index=False).encode("utf-8")))
    return Path(path)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to a temporary file beside `path`, then rename it.

    Raises:
        InputError: as for `write_csv`.
    """
    _replace(Path(path), lambda file: file.write(text.encode("utf-8")))


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz file, without pickles, to a temporary file beside `path`, then rename it.

    Raises:
        InputError: as for `write_csv`.
    """
    _replace(Path(path), lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def _replace(path: Path, write: Callable) -> None:
    """The temporary name holds the process number, so that two processes never write the same one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
