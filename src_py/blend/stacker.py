"""A small regression on top of a blend: its logits, and which answer is longer."""

from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

from src_py.evaluation.blend import logarithms
from src_py.evaluation.calibration import TIE

ANSWERS = ("response_a", "response_b")
_STEPS = 20  # of Newton's method; it ends much earlier


@dataclass(frozen=True)
class Stacker:
    """softmax(sharpness log p + what the lengths say): a swap of A and B stays a swap of the first two classes.

    Args:
        sharpness: of the blend's logits.
        longer: added to A's logit and taken from B's, by the logarithm of A's length over B's.
        tie, tie_apart: added to the tie's logit, always and by how many times longer one answer is, as a logarithm;
            0 where there is no tie class.
    """

    sharpness: float = 1.0
    longer: float = 0.0
    tie: float = 0.0
    tie_apart: float = 0.0

    def apply(self, probabilities: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Probabilities (rows, classes) from those of the blend and the lengths of answers A and B, (rows, 2), in any
        unit."""
        return softmax(_columns(probabilities, lengths) @ np.array(astuple(self)), axis=1)


def fit_stacker(probabilities: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> Stacker:
    """The stacker with the least log loss, pulled by one row to changing nothing.

    Args:
        probabilities: (rows, classes) of rows that the blend was not fitted on.
        lengths: (rows, 2) of answers A and B, in any unit.
        labels: (rows,) class numbers.
    """
    columns, rows = _columns(probabilities, lengths), np.arange(len(labels))
    neutral = np.array(astuple(Stacker()))
    x = neutral
    for _ in range(_STEPS):
        known = np.exp(log_softmax(columns @ x, axis=1))
        residual = known.copy()
        residual[rows, labels] -= 1
        centred = (columns - np.einsum("nc,ncp->np", known, columns)[:, None]) * np.sqrt(known)[:, :, None]
        flat = centred.reshape(-1, len(x))
        step = np.linalg.solve(flat.T @ flat + np.eye(len(x)), np.tensordot(residual, columns, axes=2) + x - neutral)
        x = x - step
        if np.abs(step).max() < 1e-8:
            break
    return Stacker(*x.tolist())


def answer_lengths(table: pd.DataFrame) -> np.ndarray:
    """Characters of answers A and B, (rows, 2), of a table from `load_pairs`."""
    sides = [table[name].map(lambda turns: sum(map(len, turns))).to_numpy(float) for name in ANSWERS]
    return np.stack(sides, axis=1)


def _columns(probabilities: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(rows, classes, parameters)."""
    logs = np.log1p(np.asarray(lengths, dtype=np.float64))
    longer = logs[:, 0] - logs[:, 1]
    columns = np.zeros((*probabilities.shape, 4))
    columns[:, :, 0] = logarithms(probabilities)
    columns[:, 0, 1], columns[:, 1, 1] = longer, -longer
    if probabilities.shape[1] > TIE:
        columns[:, TIE, 2], columns[:, TIE, 3] = 1.0, np.abs(longer)
    return columns
