"""One fold of the LightGBM recipe: features fitted inside it, every head on every set of groups."""

import time
from dataclasses import dataclass

import numpy as np

from src_py.feature_groups import Counted, FoldFeatures
from src_py.sides import Sides, join
from src_py.split import grouped_folds
from src_py.tabular_heads import Boosted, Rows, double, fit_head, learning_rate

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
