"""Write result files so that a reader sees the old one or the new one, never half of one."""

import os
from pathlib import Path

import pandas as pd

from src_py.errors import InputError


def write_csv(path: str | Path, frame: pd.DataFrame) -> Path:
    """Write `frame` without its index to a temporary file beside `path`, then rename it.

    Raises:
        InputError: when the folder cannot be written or the disk is full; an earlier file is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            frame.to_csv(file, index=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror}); free some space or set CFG.output_dir."
        ) from error
    return path
