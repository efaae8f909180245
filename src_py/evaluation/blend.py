"""Weighted means of predictions, with weights fitted out of fold."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

NEGLIGIBLE = 0.01  # a member with less weight gets none: it need not be computed for the test rows
SMALLEST = 1e-12  # probability, so that its logarithm is finite
SPACES = ("probabilities", "logits")


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Finite ones, of any shape."""
    return np.log(np.clip(probabilities, SMALLEST, None))


def fit_weights(
    predictions: list[np.ndarray], labels: np.ndarray, space: str = "probabilities", pull: float = 0.0
) -> np.ndarray:
    """Weights (predictions,), none negative, summing to 1, for which the mean of the predictions (rows, classes) has
    the least log loss.

    Args:
        space: "probabilities" for a weighted mean (a mixture), "logits" for a weighted geometric mean.
        pull: towards equal weights, as strong as so many rows that the members share (a Dirichlet prior).

    Raises:
        ValueError: no rows, or predictions that are not known for all of them.
    """
    if not len(labels) or not all(np.isfinite(p).all() for p in predictions):
        raise ValueError(f"Weights need predictions for every row, but some of {len(labels)} rows have none.")
    count, rows = len(predictions), np.arange(len(labels))
    if count == 1:
        return np.ones(1)
    if space == "logits":
        members = np.stack([logarithms(p) for p in predictions], axis=2)
    else:
        members = np.stack([p[rows, labels] for p in predictions], axis=1).clip(SMALLEST)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        weights = softmax(x)
        mixed = members @ weights
        if space == "logits":
            known = log_softmax(mixed, axis=1)
            residual = np.exp(known)
            residual[rows, labels] -= 1
            value, slope = -known[rows, labels].mean(), np.tensordot(residual, members, axes=2) / len(rows)
        else:
            value, slope = -np.log(mixed).mean(), -(members / mixed[:, None]).mean(0)
        share = pull / (count * len(rows))
        value -= share * np.log(weights.clip(SMALLEST)).sum()
        slope = weights * (slope - weights @ slope) - share * (1 - count * weights)
        return float(value), slope

    weights = softmax(minimize(loss, np.zeros(count), jac=True, method="L-BFGS-B").x)
    weights[weights < min(NEGLIGIBLE, weights.max())] = 0.0
    return weights / weights.sum()


def mix(predictions: list[np.ndarray], weights: np.ndarray, space: str = "probabilities") -> np.ndarray:
    """The weighted mean, (rows, classes), of probabilities or, made to sum to 1 again, of their logarithms.

    Added in the members' order: a swap of two classes in all of them is one in the mean, to the last bit.
    """
    total = np.zeros_like(predictions[0], dtype=np.float64)
    for weight, predicted in zip(weights, predictions):
        total += weight * (logarithms(predicted) if space == "logits" else predicted)
    return softmax(total, axis=1) if space == "logits" else total


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
