"""Trained folds of features and heads on disk, without pickles."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from src_py.env import find_named
from src_py.errors import InputError
from src_py.feature_groups import FoldFeatures
from src_py.files import write_arrays, write_text
from src_py.tabular_fold import FoldResult
from src_py.tabular_heads import load_head

MARKER, OPTIONS = "tabular.json", "options.json"


def save_fold(folder: Path, fold: int, result: FoldResult) -> None:
    """Arrays of one fold as fold_<n>.npz.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    arrays = {f"features/{name}": array for name, array in result.features.arrays().items()}
    for (groups, head), one in result.heads.items():
        named = one.arrays() | {"curve": np.array(one.curve)}
        arrays |= {f"heads/{groups}/{head}/{name}": array for name, array in named.items()}
        arrays[f"predictions/{groups}/{head}"] = result.predictions[groups, head]
    with _writing(folder):
        write_arrays(folder / f"fold_{fold}.npz", arrays)


def load_fold(folder: Path, fold: int) -> FoldResult:
    """What `save_fold` wrote.

    Raises:
        InputError: when the file is missing or damaged.
    """
    path = folder / f"fold_{fold}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # zip and numpy raise many kinds
        raise InputError(f"{path} cannot be read ({error}); attach the complete output of a finished run.") from error
    features, heads, predictions = {}, {}, {}
    for name, array in arrays.items():
        kind, rest = name.split("/", 1)
        if kind == "features":
            features[rest] = array
        elif kind == "predictions":
            predictions[tuple(rest.split("/"))] = array
        else:
            groups, head, part = rest.split("/", 2)
            heads.setdefault((groups, head), {})[part] = array
    loaded = {}
    for key, mine in heads.items():
        curve = mine.pop("curve")
        loaded[key] = load_head(key[1], mine)
        loaded[key].curve = tuple(curve.tolist())
    return FoldResult(FoldFeatures.from_arrays(features), loaded, predictions)


def finished_fold(folder: Path, fold: int) -> FoldResult | None:
    """A fold that an earlier run, broken off since, has stored; None when there is none that can be read."""
    if not (folder / f"fold_{fold}.npz").is_file():
        return None
    try:
        return load_fold(folder, fold)
    except InputError as error:
        print(f"fold {fold} is fitted again: {error}")
        return None


def save_options(folder: Path, options: dict) -> None:
    """LightGBM's settings as they were searched: a search bounded by time does not find the same twice."""
    with _writing(folder):
        write_text(folder / OPTIONS, json.dumps(options))


def found_options(folder: Path) -> dict | None:
    """What `save_options` wrote; None when there is none."""
    path = folder / OPTIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def save_settings(folder: Path, settings: dict) -> None:
    """Written last: a folder with it is complete."""
    with _writing(folder):
        write_text(folder / MARKER, json.dumps(settings, indent=1))


def find_tabular(root: str | Path) -> tuple[Path, dict] | None:
    """A folder below `root` that an earlier run saved, and its settings; None when there is none."""
    found = find_named(root, MARKER)
    if len(found) > 1:
        raise InputError(f"Several trained folders are attached ({', '.join(str(p.parent) for p in found)}); keep one.")
    if not found:
        return None
    return found[0].parent, json.loads(found[0].read_text(encoding="utf-8"))


@contextmanager
def _writing(folder: Path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); free some space.") from error
