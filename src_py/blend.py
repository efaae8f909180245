"""Weighted means of predictions, with weights fitted out of fold."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax


def fit_weights(predictions: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Weights (predictions,), none negative, summing to 1, for which the mean of the predictions (rows, classes) has
    the least log loss."""
    true = np.stack([p[np.arange(len(labels)), labels] for p in predictions], axis=1)

    def loss(free: np.ndarray) -> float:
        return -np.log((true @ softmax(free)).clip(1e-12)).mean()

    found = minimize(loss, np.zeros(len(predictions)), method="Nelder-Mead", options={"maxiter": 2000, "xatol": 1e-3})
    return softmax(found.x)


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
