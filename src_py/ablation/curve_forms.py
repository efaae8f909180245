"""The forms that a learning curve may have: `floor + height * falls(rows)`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EXPONENTS = (0.1, 6.0)
USUAL_EXPONENT = 1.0  # median, before anything was measured
# Where the flat phase may end: from this share of the smallest size to so many times the largest, any order of
# magnitude alike.
START_BEFORE, START_AFTER = 0.25, 3.0


@dataclass(frozen=True)
class Form:
    """One form of curve.

    Attributes:
        weight: probability before anything was measured; chosen on simulated curves, like `WANDERS`.
        falls: function of rows, exponent and start: 1 where the curve begins, 0 with all the rows in the world.
        exponents, starts: whether it has them.
        anchored: floor and height add up to the loss of the constant predictor.
        exponent_spread: standard deviation of the exponent's logarithm, before anything was measured.
    """

    name: str
    weight: float
    falls: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    exponents: bool = True
    starts: bool = True
    anchored: bool = False
    exponent_spread: float = 1.0


def _constant(rows: np.ndarray, exponent: np.ndarray, start: np.ndarray) -> np.ndarray:
    return np.zeros(np.broadcast_shapes(rows.shape, exponent.shape))


def _power(rows: np.ndarray, exponent: np.ndarray, start: np.ndarray) -> np.ndarray:
    return (rows / start) ** -exponent  # start is the smallest size


def _rectified(rows: np.ndarray, exponent: np.ndarray, start: np.ndarray) -> np.ndarray:
    return 1 / (1 + (rows / start) ** exponent)  # flat below `start`, a power law above (arXiv 2402.02314)


def _exponential(rows: np.ndarray, exponent: np.ndarray, start: np.ndarray) -> np.ndarray:
    return np.exp(-((rows / start) ** exponent))  # falls faster than any power, then rests


FORMS = (
    Form("constant", 0.64, _constant, exponents=False, starts=False),
    Form("power law", 0.2, _power, starts=False),
    Form("rectified law", 0.04, _rectified, anchored=True),
    Form("four parameters", 0.04, _rectified),
    Form("exponential", 0.04, _exponential, anchored=True, exponent_spread=0.25),
    Form("free exponential", 0.04, _exponential, exponent_spread=0.25),
)
