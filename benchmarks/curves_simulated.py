"""Simulated learning curves of which the truth is known.

A curve is an ablation's: four to eight numbers of rows, one to five seeds at each. Its noise has two parts: each seed's
own, and that of the validation rows, which all sizes share; a model that is no better than the constant predictor
shares it with that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TRUTHS = ("power", "rectified", "plateau", "double descent", "noise only")
EXPONENTIALS = ("exponential", "slow exponential")  # looked at, on other seeds, when their forms were added
UNSEEN = ("logarithm", "sudden", "broken", "u-shape")  # nothing was chosen on these


@dataclass(frozen=True)
class Recorded:
    """A curve as it was measured, one entry a trained model, and what is known of twice the largest size.

    Attributes:
        shape: the kind of curve.
        rows, losses: (models,) number of training rows, and log loss on validation rows that all models share.
        constant: log loss of the constant predictor on these.
        largest: the largest of `rows`.
        before: expected log loss at `largest`, on these validation rows; NaN where it is not known.
        target: the number of rows that is asked for.
        truth: expected log loss at `target`, on these validation rows; NaN where it is not known.
        measured: (seeds,) log losses of models that were trained on `target` rows.
    """

    shape: str
    rows: np.ndarray
    losses: np.ndarray
    constant: float
    largest: int
    before: float
    target: int
    truth: float
    measured: np.ndarray


def simulate(shape: str, seed: int) -> Recorded:
    """One curve of a shape of `TRUTHS`, `EXPONENTIALS` or `UNSEEN`."""
    rng = np.random.default_rng([seed, *shape.encode()])
    count, ratio = int(rng.integers(4, 9)), rng.choice([1.6, 2.0, 2.5, 3.0])
    first = 10 ** rng.uniform(2, 3)
    sizes = np.round(first * ratio ** np.arange(count)).astype(int)
    largest = int(sizes[-1])
    constant = float(rng.choice([np.log(2), np.log(3) - 0.02]))
    curve, begin = draw_curve(shape, rng, constant, sizes[0], largest)

    seeds, noise = int(rng.integers(1, 6)), 10 ** rng.uniform(np.log10(0.002), np.log10(0.02))
    shared = rng.normal(0, 0.006), rng.normal(0, 0.02)  # rows that are easy for a constant; for a model

    def on_these_rows(n: np.ndarray) -> np.ndarray:
        expected = curve(np.asarray(n, float))
        learned = np.clip((constant - expected) / begin, 0, 1)
        return expected + (1 - learned) * shared[0] + learned * shared[1]

    rows = np.repeat(sizes, seeds)
    if seeds > 1 and rng.random() < 0.3:  # the last seeds of the largest sizes were not reached
        rows = rows[: -int(rng.integers(1, seeds))]
    target = 2 * largest
    return Recorded(
        shape=shape,
        rows=rows,
        losses=on_these_rows(rows) + rng.normal(0, noise, len(rows)),
        constant=constant + shared[0],
        largest=largest,
        before=float(on_these_rows(largest)),
        target=target,
        truth=float(on_these_rows(target)),
        measured=on_these_rows(np.full(seeds, target)) + rng.normal(0, noise, seeds),
    )


def draw_curve(shape: str, rng, constant: float, first: int, largest: int) -> tuple[Callable, float]:
    """The expected log loss over rows, and the most that it can fall below the constant predictor."""
    deep = rng.uniform(0.05, 0.5) * constant  # what can be learned at all
    floor = constant - deep
    if shape == "noise only":
        above = rng.choice([rng.uniform(-0.003, 0.003), rng.uniform(0, 0.03)])  # it may stay worse
        return (lambda n: constant + above + 0 * n), deep
    if shape == "rectified":
        start, exponent = _between(rng, first, largest), rng.uniform(0.5, 2)
        return (lambda n: floor + deep / (1 + (n / start) ** exponent)), deep
    if shape == "plateau":
        start, height = _between(rng, first / 2, largest / 5), rng.uniform(0.3, 1) * deep
        return (lambda n: floor + height * np.exp(-n / start)), deep
    if shape in EXPONENTIALS:
        start = largest * (rng.uniform(0.3, 1.5) if shape == "exponential" else rng.uniform(1, 4))
        return (lambda n: floor + deep * np.exp(-n / start)), deep
    if shape == "u-shape":  # falls, and rises again before or soon after the largest size
        lowest, steep = np.log(largest) - rng.uniform(0, 1.2), rng.uniform(0.01, 0.04)
        return (lambda n: np.minimum(constant, floor + steep * (np.log(n) - lowest) ** 2)), deep
    if shape == "logarithm":
        slope, begun = rng.uniform(0.1, 0.9) * deep / np.log(2 * largest / first), rng.uniform(0, 0.1) * deep
        return (lambda n: constant - begun - slope * np.log(n / first)), deep
    if shape == "sudden":
        start, width = _between(rng, first, largest), rng.uniform(0.15, 0.6)
        return (lambda n: floor + deep / (1 + np.exp((np.log(n) - np.log(start)) / width))), deep
    exponent, height = rng.uniform(0.1, 1), rng.uniform(0.3, 1) * deep
    power = lambda n: floor + height * (n / first) ** -exponent  # noqa: E731
    if shape == "broken":
        turn, later = _between(rng, first, largest), rng.uniform(-0.8, 0.8)
        return (
            lambda n: floor + (power(n) - floor) * (1 + (n / turn) ** 2) ** (-np.clip(later, -exponent, 1) / 2)
        ), deep
    if shape == "double descent":
        peak, width, bump = _between(rng, first, largest), rng.uniform(0.3, 0.8), rng.uniform(0.03, 0.15)
        return (lambda n: power(n) + bump * np.exp(-0.5 * (np.log(n / peak) / width) ** 2)), deep
    return power, deep


def _between(rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
