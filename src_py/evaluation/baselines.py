"""What a model has to beat: the constant predictor, and a regression that sees nothing but lengths."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def length_features(table: pd.DataFrame) -> np.ndarray:
    """What a model could know without reading: log lengths of prompt, A and B in characters, and A against B."""
    prompt, a, b = (
        np.log1p(table[c].map(lambda turns: sum(map(len, turns))).to_numpy(float))
        for c in ("prompt", "response_a", "response_b")
    )
    return np.stack([prompt, a, b, a - b, np.abs(a - b)], axis=1)


def length_only(train: pd.DataFrame, valid: pd.DataFrame, n_classes: int) -> np.ndarray:
    """Probabilities (rows of `valid`, classes) of a logistic regression on lengths, fitted on `train`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(
        length_features(train), train["label"]
    )
    probabilities = np.full((len(valid), n_classes), 1e-6)
    probabilities[:, model.classes_] = model.predict_proba(length_features(valid))
    return probabilities / probabilities.sum(1, keepdims=True)


def constant_log_loss(train_labels: np.ndarray, valid_labels: np.ndarray, n_classes: int) -> float:
    """Log loss of always predicting the training labels' class shares: the line a model has to beat."""
    shares = class_shares(train_labels, n_classes)
    return float(-np.log(np.clip(shares, 1e-15, 1))[np.asarray(valid_labels)].mean())


def class_shares(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of each class, shape (classes,)."""
    return np.bincount(np.asarray(labels), minlength=n_classes) / len(labels)


def at_shares_of(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (rows, classes) whose mean over the rows is the class shares of `labels`.

    For each class, one number is added to its logits in all rows: those numbers with the least log loss. A constant
    predictor becomes the best one for these rows; of a model, what it knows of each row is left to compare.
    """
    logs, shares = np.log(np.clip(probabilities, 1e-15, 1)), class_shares(labels, probabilities.shape[1])
    rows = np.arange(len(labels))

    def loss(shift: np.ndarray) -> tuple[float, np.ndarray]:
        known = log_softmax(logs + shift, axis=1)
        return float(-known[rows, labels].mean()), np.exp(known).mean(0) - shares

    # From where a constant predictor already has these shares.
    start = np.log(np.clip(shares, 1e-15, 1) / np.clip(probabilities.mean(0), 1e-15, 1))
    shift = minimize(loss, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-12}).x
    return np.exp(log_softmax(logs + shift, axis=1))
