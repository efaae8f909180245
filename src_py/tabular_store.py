"""A trained fold of features and heads on disk, without pickles."""

import json
from pathlib import Path

import numpy as np

from src_py.env import find_named
from src_py.errors import InputError
from src_py.feature_groups import FoldFeatures
from src_py.tabular_heads import load_head

MARKER = "tabular.json"


def save_fold(folder: Path, fold: int, features: FoldFeatures, heads: dict[tuple[str, str], object]) -> None:
    """Arrays of one fold as fold_<n>.npz.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    arrays = {f"features/{name}": array for name, array in features.arrays().items()}
    for (groups, head), one in heads.items():
        arrays |= {f"heads/{groups}/{head}/{name}": array for name, array in one.arrays().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).unlink(missing_ok=True)  # written again at the end: never a folder half new
        np.savez_compressed(folder / f"fold_{fold}.npz", **arrays)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); free some space.") from error


def load_fold(folder: Path, fold: int) -> tuple[FoldFeatures, dict[tuple[str, str], object]]:
    """What `save_fold` wrote."""
    path = folder / f"fold_{fold}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zip and numpy raise many kinds
        raise InputError(f"{path} cannot be read ({error}); attach the complete output of a finished run.") from error
    features = {name.split("/", 1)[1]: array for name, array in arrays.items() if name.startswith("features/")}
    heads: dict[tuple[str, str], dict] = {}
    for name, array in arrays.items():
        if name.startswith("heads/"):
            _, groups, head, rest = name.split("/", 3)
            heads.setdefault((groups, head), {})[rest] = array
    return FoldFeatures.from_arrays(features), {key: load_head(key[1], mine) for key, mine in heads.items()}


def save_settings(folder: Path, settings: dict) -> None:
    """Written last: a folder with it is complete."""
    (folder / MARKER).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def find_tabular(root: str | Path) -> tuple[Path, dict] | None:
    """A folder below `root` that an earlier run saved, and its settings; None when there is none."""
    found = find_named(root, MARKER)
    if len(found) > 1:
        raise InputError(f"Several trained folders are attached ({', '.join(str(p.parent) for p in found)}); keep one.")
    if not found:
        return None
    return found[0].parent, json.loads(found[0].read_text(encoding="utf-8"))
