"""Find what is attached."""

import os
from pathlib import Path
from typing import NamedTuple

from src_py.errors import InputError

DATA_SUFFIXES = (".csv", ".parquet")
TRAINED_MARKER = "preference.json"


class DataFiles(NamedTuple):
    """Paths of one contest's files."""

    train: Path
    test: Path


def find_data(root: str | Path) -> DataFiles:
    """Find the folder below `root` that holds train and test (csv or parquet), wherever Kaggle mounts it.

    Raises:
        InputError: when `root` is missing, or no folder or more than one holds both files.
    """
    found = []
    for folder, _, names in _walk(root):
        files = [_first(folder, stem, names) for stem in ("train", "test")]
        if all(files):
            found.append(DataFiles(*files))
    if not found:
        raise InputError(
            f"No folder below {root} holds both train and test as {' or '.join(DATA_SUFFIXES)}; "
            "attach the competition data (Add Input), which may take a minute to appear, or set CFG.input_dir."
        )
    if len(found) > 1:
        folders = ", ".join(str(files.train.parent) for files in found)
        raise InputError(f"Several folders hold train and test ({folders}); set CFG.input_dir to one of them.")
    return found[0]


def find_trained(root: str | Path) -> list[Path]:
    """Folders below `root` that this recipe saved after training, one a fold, in order of their path."""
    return sorted(folder for folder, _, names in _walk(root) if TRAINED_MARKER in names)


def find_named(root: str | Path, name: str) -> list[Path]:
    """All files called `name` below `root`, in order of their path."""
    return sorted(folder / name for folder, _, names in _walk(root) if name in names)


def find_extra(root: str | Path, name: str) -> Path:
    """A further training file below `root`, by its name; or a path, which is taken as it is.

    Raises:
        InputError: when there is none, or more than one.
    """
    if Path(name).is_file():
        return Path(name)
    found = find_named(root, name)
    if len(found) != 1:
        where = f"several files are ({', '.join(map(str, found))})" if found else "no file is"
        raise InputError(f"CFG.extra_files: {where} called {name} below {root}; give its whole path, or attach it.")
    return found[0]


def _walk(root: str | Path):
    if not Path(root).is_dir():
        raise InputError(
            f"The input folder {root} does not exist; set CFG.input_dir, or run this cell again if the inputs were "
            "attached just now."
        )
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        yield Path(folder), subfolders, set(names)


def _first(folder: Path, stem: str, names: set[str]) -> Path | None:
    return next((folder / f"{stem}{suffix}" for suffix in DATA_SUFFIXES if f"{stem}{suffix}" in names), None)
