"""One fold of the LightGBM recipe: fit features and models inside it, and keep them on disk."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src_py.errors import InputError
from src_py.kaggle.files import write_arrays, write_text
from src_py.kaggle.inputs import find_named
from src_py.pairs.split import grouped_folds
from src_py.tabular.groups import Counted, FoldFeatures
from src_py.tabular.models import Boosted, Rows, double, fit_head, learning_rate, load_head
from src_py.tabular.sides import Sides, join

STOPPING_FOLDS = 5


@dataclass
class FoldResult:
    """`predictions` of the held-out rows (rows, classes) by (set of groups, head); `heads` the fitted ones by the same
    key."""

    features: FoldFeatures
    heads: dict[tuple[str, str], object]
    predictions: dict[tuple[str, str], np.ndarray]


def group_sets(groups: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Every group alone, and all together."""
    return {group: (group,) for group in groups} | {"all": groups}


def fit_fold(
    counted: Counted,
    labels: np.ndarray,
    prompts: np.ndarray,
    fold_of: np.ndarray,
    fold: int,
    heads: tuple[str, ...],
    seed: int,
    options: dict | None = None,
    sets: dict[str, tuple[str, ...]] | None = None,
) -> FoldResult:
    """Fit on all rows outside `fold`, predict the rows inside.

    Args:
        labels, prompts, fold_of: (rows,) class, number of the prompt, and fold of every row.
        heads: some of `HEADS`.
        options: LightGBM settings that differ from the defaults (`LIGHTGBM`, and `learning_rate` by the rows).
        sets: which groups go together; `group_sets` of all unless told otherwise.
    """
    n_classes = int(labels.max()) + 1
    rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
    features, own = FoldFeatures.fit(counted.take(rest), labels[rest], prompts[rest], seed)
    sides = features.transform(counted.take(held))
    fit, stop = split_for_stopping(own, labels[rest], prompts[rest], seed)
    predictions, kept = {}, {}
    for name, groups in (sets or group_sets(tuple(counted.parts))).items():
        chosen = [Rows(join([part.sides[g] for g in groups]), part.labels) for part in (fit, stop)]
        for head in heads:
            fitted = fit_head(head, *chosen, n_classes, seed, options)
            predictions[name, head] = fitted.predict(join([sides[group] for group in groups]))
            kept[name, head] = fitted
    return FoldResult(features, kept, predictions)


def split_for_stopping(
    sides: dict[str, Sides], labels: np.ndarray, prompts: np.ndarray, seed: int
) -> tuple[Rows, Rows]:
    """Rows to fit on, and a fifth, of other prompts, to stop by; `sides` by group."""
    stop = grouped_folds(labels, prompts, STOPPING_FOLDS, seed) == 0
    return tuple(
        Rows({group: part.take(rows) for group, part in sides.items()}, labels[rows]) for rows in (~stop, stop)
    )


def search_options(fit: Rows, stop: Rows, n_classes: int, seed: int, minutes: float) -> tuple[dict, list[dict]]:
    """LightGBM settings with the least log loss on `stop`, drawn at random until `minutes` have passed; and all trials.

    The defaults are always the first trial. What is drawn depends on the seed alone, how many on the time.
    """
    rng, begun, trials = np.random.default_rng(seed), time.monotonic(), []
    rate = learning_rate(len(fit.labels) + len(stop.labels))
    fit, stop, options = double(fit), double(stop), {"learning_rate": rate}
    while True:
        _, curve = Boosted.choose(fit, stop, n_classes, seed, options)
        trials.append({"log loss": min(curve), "rounds": int(np.argmin(curve)) + 1} | options)
        if (time.monotonic() - begun) / 60 >= minutes:
            best = min(trials, key=lambda trial: trial["log loss"])
            return {name: value for name, value in best.items() if name not in ("log loss", "rounds")}, trials
        options = {
            "num_leaves": int(rng.choice([4, 7, 15, 31])),
            "min_child_samples": int(rng.choice([10, 20, 40, 80, 160])),
            "feature_fraction": float(rng.choice([0.2, 0.35, 0.5, 0.8])),
            "lambda_l2": float(rng.choice([0.0, 1.0, 5.0, 20.0])),
            "learning_rate": rate * float(rng.choice([0.5, 1.0, 2.0])),
        }


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
    write_text(folder / OPTIONS, json.dumps(options))


def found_options(folder: Path) -> dict | None:
    """What `save_options` wrote; None when there is none."""
    path = folder / OPTIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def save_settings(folder: Path, settings: dict) -> None:
    """Written last: a folder with it is complete."""
    write_text(folder / MARKER, json.dumps(settings, indent=1))


def find_tabular(root: str | Path) -> tuple[Path, dict] | None:
    """A folder below `root` that an earlier run saved, and its settings; None when there is none."""
    found = find_named(root, MARKER)
    if len(found) > 1:
        raise InputError(f"Several trained folders are attached ({', '.join(str(p.parent) for p in found)}); keep one.")
    if not found:
        return None
    return found[0].parent, json.loads(found[0].read_text(encoding="utf-8"))
