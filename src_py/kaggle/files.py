"""Write result files so that a reader sees the old one or the new one, never half of one; and digests of folders."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from src_py.errors import InputError

WEIGHTS = (".json", ".safetensors", ".bin")
ENCODER_FILES = (*WEIGHTS, ".model", ".txt")  # the tokenizer's files too


def folder_digest(folder: str | Path, suffixes: tuple[str, ...]) -> str:
    """SHA-256 (first 24 hex digits) of the files in `folder` with these suffixes, names and contents."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in suffixes and path.is_file():
            with open(path, "rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]


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
