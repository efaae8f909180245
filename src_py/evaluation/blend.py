"""Weighted means of predictions, with weights fitted out of fold."""

import numpy as np

NEGLIGIBLE = 0.01  # a member with less weight gets none: it need not be computed for the test rows


def fit_weights(predictions: list[np.ndarray], labels: np.ndarray, steps: int = 500) -> np.ndarray:
    """Weights (predictions,), none negative, summing to 1, for which the mean of the predictions (rows, classes) has
    the least log loss: those of a mixture, by expectation maximisation (Dempster, Laird and Rubin 1977).

    Raises:
        ValueError: no rows, or predictions that are not known for all of them.
    """
    if not len(labels) or not all(np.isfinite(p).all() for p in predictions):
        raise ValueError(f"Weights need predictions for every row, but some of {len(labels)} rows have none.")
    true = np.stack([p[np.arange(len(labels)), labels] for p in predictions], axis=1).clip(1e-12)
    weights = np.full(len(predictions), 1 / len(predictions))
    for _ in range(steps):
        weights = weights * (true / (true @ weights)[:, None]).mean(0)
    weights[weights < min(NEGLIGIBLE, weights.max())] = 0.0
    return weights / weights.sum()


def mix(predictions: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted mean, (rows, classes). Added in the members' order: a swap of two classes in all of them is one in
    the mean, to the last bit."""
    total = np.zeros_like(predictions[0], dtype=np.float64)
    for weight, predicted in zip(weights, predictions):
        total += weight * predicted
    return total


def cross_fitted(predictions: list[np.ndarray], labels: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """The blend of every row with weights fitted on the other folds: its score is not flattered by the fit.

    Args:
        fold_of: (rows,) any split into at least two parts that keeps each prompt in one.

    Raises:
        ValueError: when there is only one part.
    """
    if len(np.unique(fold_of)) < 2:
        raise ValueError("Weights are fitted on the other folds, but all rows lie in one.")
    blended = np.empty_like(predictions[0])
    for fold in np.unique(fold_of):
        rest, rows = fold_of != fold, fold_of == fold
        weights = fit_weights([p[rest] for p in predictions], labels[rest])
        blended[rows] = mix([p[rows] for p in predictions], weights)
    return blended
