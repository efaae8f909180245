"""Find what is attached."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from src_py.config import Settings, setting
from src_py.errors import InputError

DATA_SUFFIXES = (".csv", ".parquet")
TRAINED_MARKER = "preference.json"
EARLIER = "earlier_runs"  # results that another run left and that nothing may find


@dataclass(frozen=True)
class Paths(Settings):
    """Where inputs are attached and results go."""

    input_dir: str = setting("/kaggle/input", folder=True)
    data_dir: str = setting("")
    model_dir: str = setting("")
    output_dir: str = setting(".")


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


def find_model(root: str | Path, wanted: str = "") -> Path:
    """Find the encoder to fine-tune.

    Args:
        root: where inputs are attached.
        wanted: a folder with a `config.json`, which is taken as it is; or a part of the path, such as
            "base", that picks among several DeBERTa folders below `root`.

    Raises:
        InputError: when none is found, or several remain.
    """
    if wanted and (Path(wanted) / "config.json").is_file():
        return Path(wanted)
    if os.sep in wanted:
        raise InputError(f"CFG.model_dir is {wanted}, but there is no config.json in it.")
    folders = [
        folder
        for folder, _, names in _walk(root)
        if "config.json" in names and TRAINED_MARKER not in names and _model_type(folder) == "deberta-v2"
    ]
    chosen = [folder for folder in folders if wanted in str(folder.relative_to(root))] or folders
    if not chosen:
        raise InputError(
            f"No folder below {root} holds a DeBERTa-v2/v3 model (config.json with model_type deberta-v2); "
            "attach one (Add Input > Models, for example deberta-v3-base) or set CFG.model_dir."
        )
    if len(chosen) > 1:
        raise InputError(
            f"Several DeBERTa folders are attached ({', '.join(map(str, chosen))}); "
            "set CFG.model_dir to one of them, or to a part of its path."
        )
    return chosen[0]


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
        subfolders[:] = sorted(name for name in subfolders if name != EARLIER)
        yield Path(folder), subfolders, set(names)


def _first(folder: Path, stem: str, names: set[str]) -> Path | None:
    return next((folder / f"{stem}{suffix}" for suffix in DATA_SUFFIXES if f"{stem}{suffix}" in names), None)


def _model_type(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
