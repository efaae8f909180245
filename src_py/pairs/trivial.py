"""Pairs that need no reading: equal or empty answers, predicted by a prior of their kind."""

import numpy as np
import pandas as pd

from src_py.errors import InputError

KINDS = ("identical", "a empty", "b empty", "both empty")
PSEUDO_COUNTS = 5.0  # rows' worth of the overall class shares in the prior of every kind
_SWAPPED = {"a empty": "b empty", "b empty": "a empty"}


def trivial_kinds(table: pd.DataFrame) -> np.ndarray:
    """The kind of every pair, one of `KINDS`, or "" for an ordinary one; (rows,). White space does not count."""
    a, b = (
        table[column].map(lambda turns: " ".join(" ".join(turns).split())) for column in ("response_a", "response_b")
    )
    conditions = [(a == "") & (b == ""), a == "", b == "", a == b]
    return np.select([c.to_numpy(bool) for c in conditions], ["both empty", "a empty", "b empty", "identical"], "")


def fit_trivial(table: pd.DataFrame, n_classes: int) -> dict[str, list[float]]:
    """Class probabilities for each of `KINDS`, a plain dict of lists that JSON can hold.

    Class shares of the kind's rows and of their swaps, smoothed towards the overall shares (symmetric too) with the
    weight of five rows. Swapping A and B swaps the first two probabilities exactly.

    Args:
        table: labelled rows that do not include those to be predicted.

    Raises:
        InputError: a table without rows.
    """
    if table.empty:
        raise InputError("The prior of empty and identical answers needs labelled rows, but there are none.")
    kinds, labels = trivial_kinds(table), table["label"].to_numpy()
    overall = _mirrored(np.bincount(labels, minlength=n_classes) + 1.0)  # a class without rows stays possible
    overall /= overall.sum()
    counts = {kind: np.bincount(labels[kinds == kind], minlength=n_classes).astype(float) for kind in KINDS}
    priors = {}
    for kind in KINDS:
        counted = counts[kind] + _swap(counts[_SWAPPED.get(kind, kind)])
        if kind not in _SWAPPED:
            counted /= 2  # every row was counted with its own swap
        smoothed = counted + PSEUDO_COUNTS * overall
        priors[kind] = smoothed / smoothed.sum()
    priors["b empty"] = _swap(priors["a empty"])
    return {kind: prior.tolist() for kind, prior in priors.items()}


def apply_trivial(probabilities: np.ndarray, table: pd.DataFrame, priors: dict[str, list[float]]) -> np.ndarray:
    """A copy of the probabilities (rows, classes) in which trivial pairs have the prior of their kind.

    Raises:
        InputError: priors of another form or number of classes than `fit_trivial` makes.
    """
    probabilities = np.array(probabilities, dtype=np.float64)
    check_priors(priors, probabilities.shape[1])
    kinds = trivial_kinds(table)
    for kind in KINDS:
        probabilities[kinds == kind] = priors[kind]
    return probabilities


def check_priors(priors: dict[str, list[float]], n_classes: int) -> None:
    """Raise `InputError` unless there are positive probabilities of `n_classes` classes for each of `KINDS`."""
    if not isinstance(priors, dict) or set(priors) != set(KINDS):
        raise InputError(f"The prior of trivial pairs names {sorted(priors)}; it must name {', '.join(KINDS)}.")
    for kind, prior in priors.items():
        values = np.asarray(prior, dtype=object)
        numbers = values.shape == (n_classes,) and all(isinstance(v, (int, float)) for v in values)
        if not numbers or not (min(prior) > 0 and abs(sum(prior) - 1) < 1e-6):
            raise InputError(f"The prior of pairs with {kind} is {prior}; it must be {n_classes} shares that sum to 1.")


def judge_trivial(probabilities: np.ndarray, table: pd.DataFrame, fold_of: np.ndarray, n_classes: int) -> pd.DataFrame:
    """Log loss of the trivial pairs with the model and with the prior, each fold's prior fitted on the others.

    Args:
        probabilities: (rows, classes) out of fold; rows of NaN have no prediction and only serve to fit the prior.
        table: all labelled rows.
        fold_of: (rows,) the fold of every row.

    Returns:
        Indexed by kind, with `rows`, `model` and `prior` (nats), only for kinds that occur, and last "all trivial".
        Empty where there are none.

    Raises:
        InputError: when all rows lie in one fold.
    """
    folds = np.unique(fold_of)
    if len(folds) < 2:
        raise InputError("The prior of trivial pairs is judged on the other folds, but all rows lie in one; use two.")
    kinds, labels = trivial_kinds(table), table["label"].to_numpy()
    known = np.isfinite(probabilities).all(1) & (kinds != "")
    prior = np.full(probabilities.shape, np.nan)
    for fold in np.unique(fold_of[known]):
        rows = known & (fold_of == fold)
        prior[rows] = apply_trivial(probabilities[rows], table[rows], fit_trivial(table[fold_of != fold], n_classes))
    places = np.arange(len(labels))
    losses = {
        name: -np.log(np.clip(values[places, labels], 1e-12, 1))
        for name, values in (("model", probabilities), ("prior", prior))
    }
    found = {kind: known & (kinds == kind) for kind in KINDS if (known & (kinds == kind)).any()}
    found |= {"all trivial": known} if known.any() else {}
    rows = {
        name: [int(where.sum()), *(loss[where].mean() for loss in losses.values())] for name, where in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["rows", "model", "prior"]).rename_axis("pairs")


def _swap(values: np.ndarray) -> np.ndarray:
    return values[[1, 0, *range(2, len(values))]]


def _mirrored(values: np.ndarray) -> np.ndarray:
    return (values + _swap(values)) / 2
