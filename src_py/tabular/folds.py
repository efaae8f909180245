"""One fold of the LightGBM recipe: fit features and models inside it, predict with them outside."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from src_py.errors import InputError
from src_py.pairs.split import grouped_folds
from src_py.tabular.groups import Counted, FoldFeatures, group_sets
from src_py.tabular.models import Boosted, Model, Rows, double, fit_model, learning_rate
from src_py.tabular.sides import Sides, join

STOPPING_FOLDS = 5
FEWEST_PROMPTS = 4  # outside a fold: to fit, to stop by, and for scores out of fold in both


@dataclass
class FoldResult:
    """`predictions` of the held-out rows (rows, classes) and the fitted `models`, by (set of groups, model)."""

    features: FoldFeatures
    models: dict[tuple[str, str], Model]
    predictions: dict[tuple[str, str], np.ndarray]


def check_folds(labels: np.ndarray, prompts: np.ndarray, fold_of: np.ndarray) -> None:
    """Whether every fold can be fitted and judged; arguments as for `fit_fold`.

    Raises:
        InputError: a prompt lies in two folds, a fold is empty, or too few prompts or classes lie outside one.
    """
    pairs = np.unique(np.stack([prompts, fold_of]), axis=1)
    if pairs.shape[1] > len(np.unique(prompts)):
        raise InputError(
            "The same prompt lies in two folds, so that its models would be judged by rows that they have seen; make "
            "the folds with assign_folds."
        )
    advice = f"lower CFG.n_folds or attach more than {len(labels)} training rows."
    for fold in range(int(fold_of.max()) + 1):
        rest = fold_of != fold
        if rest.all():
            raise InputError(f"Fold {fold} has no rows; {advice}")
        if len(np.unique(prompts[rest])) < FEWEST_PROMPTS:
            raise InputError(f"Only {len(np.unique(prompts[rest]))} prompts lie outside fold {fold}; {advice}")
        if len(np.unique(labels[rest])) < 2:
            raise InputError(f"All rows outside fold {fold} have the same label; {advice}")


def fit_fold(
    counted: Counted,
    labels: np.ndarray,
    prompts: np.ndarray,
    fold_of: np.ndarray,
    fold: int,
    models: tuple[str, ...],
    n_classes: int,
    seed: int,
    options: dict[str, Any] | None = None,
    sets: dict[str, tuple[str, ...]] | None = None,
) -> FoldResult:
    """Fit on all rows outside `fold`, predict the rows inside.

    Args:
        labels, prompts, fold_of: (rows,) class, number of the prompt, and fold of every row.
        models: some of `MODELS`.
        options: LightGBM settings that differ from the defaults (`LIGHTGBM`, and `learning_rate` by the rows).
        sets: which groups go together; by default `group_sets` of all.
    """
    rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
    features, own = FoldFeatures.fit(counted.take(rest), labels[rest], prompts[rest], seed)
    sides = features.transform(counted.take(held))
    fit, stop = split_for_stopping(own, labels[rest], prompts[rest], seed)
    predictions, fitted = {}, {}
    for name, groups in (sets or group_sets(tuple(counted.parts))).items():
        first, second = (Rows(join([part.sides[g] for g in groups]), part.labels) for part in (fit, stop))
        for model in models:
            fitted[name, model] = fit_model(model, first, second, n_classes, seed, options)
            predictions[name, model] = fitted[name, model].predict(join([sides[group] for group in groups]))
    return FoldResult(features, fitted, predictions)


class GroupRows(NamedTuple):
    """Features by group, and labels, of some rows."""

    sides: dict[str, Sides]
    labels: np.ndarray


def split_for_stopping(
    sides: dict[str, Sides], labels: np.ndarray, prompts: np.ndarray, seed: int
) -> tuple[GroupRows, GroupRows]:
    """Rows to fit on, and a fifth, of other prompts, to stop by; `sides` by group.

    With few rows the part to stop by is larger, and a class may be missing from either.

    Raises:
        InputError: when there are fewer than two prompts.
    """
    parts = min(STOPPING_FOLDS, len(np.unique(prompts)), int(np.bincount(labels).max()))
    if parts < 2:
        raise InputError(f"{len(labels)} rows are too few to fit on some and stop by others; attach more rows.")
    folds = grouped_folds(labels, prompts, parts, seed)
    stop = folds == folds.min()
    if stop.all():
        raise InputError(f"{len(labels)} rows are too few to fit on some and stop by others; attach more rows.")
    fit, stopping = (
        GroupRows({group: part.take(rows) for group, part in sides.items()}, labels[rows]) for rows in (~stop, stop)
    )
    return fit, stopping


def search_options(
    counted: Counted, labels: np.ndarray, prompts: np.ndarray, n_classes: int, seed: int, minutes: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """LightGBM settings drawn at random until `minutes` have passed: those with the least log loss, and all trials.

    The defaults are always the first trial. What is drawn depends on the seed alone, how many on the time.

    Args:
        counted, labels, prompts: training rows of one fold; a fifth of them compares the trials.
    """
    _, own = FoldFeatures.fit(counted, labels, prompts, seed)
    halves = split_for_stopping({"all": join(list(own.values()))}, labels, prompts, seed)
    fit, stop = (double(Rows(part.sides["all"], part.labels)) for part in halves)
    rng, begun, trials = np.random.default_rng(seed), time.monotonic(), []
    rate = learning_rate(len(labels))
    options: dict[str, Any] = {"learning_rate": rate}
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
