"""Weighted means of predictions, with weights fitted out of fold."""

import numpy as np

NEGLIGIBLE = 0.01  # a member with less weight is left out: it need not be computed for the test rows


def fit_weights(predictions: list[np.ndarray], labels: np.ndarray, steps: int = 500) -> np.ndarray:
    """Weights (predictions,), none negative, summing to 1, for which the mean of the predictions (rows, classes) has
    the least log loss: those of a mixture, by expectation maximisation (Dempster, Laird and Rubin 1977)."""
    true = np.stack([p[np.arange(len(labels)), labels] for p in predictions], axis=1).clip(1e-12)
    weights = np.full(len(predictions), 1 / len(predictions))
    for _ in range(steps):
        weights = weights * (true / (true @ weights)[:, None]).mean(0)
    weights[weights < NEGLIGIBLE] = 0.0
    return weights / weights.sum()


def mix(predictions: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted mean, (rows, classes)."""
    return np.tensordot(weights, np.stack(predictions), axes=1)


def cross_fitted(predictions: list[np.ndarray], labels: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """The blend of every row with weights fitted on the other folds: what its score honestly is."""
    blended = np.empty_like(predictions[0])
    for fold in np.unique(fold_of):
        rest, rows = fold_of != fold, fold_of == fold
        weights = fit_weights([p[rest] for p in predictions], labels[rest])
        blended[rows] = mix([p[rows] for p in predictions], weights)
    return blended
