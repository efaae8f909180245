"""Ways to say what twice the rows would bring: the ablation's, the one it had before, and two that need no thought.

Each takes the rows and losses of trained models, the constant predictor's loss and the number of rows asked for, and
returns an `Answer`.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as t_distribution

from benchmarks.curves_power_law import fit_power_law
from src_py.ablation.curves import LEVEL, NOTHING, Forecast, fit_curve, interval

SEED_SPREAD = 0.013  # nats: for one seed a size, as the ablation assumed


class Answer(NamedTuple):
    """Best estimate and interval; an interval is None where the way gives none.

    Attributes:
        level: expected log loss with so many rows.
        measured: mean log loss of as many models as there were at the largest size, trained with so many rows.
        change: of the expected log loss, from the largest size.
        tells: whether it says that more rows help, or that they do not.
    """

    level: Forecast
    measured: Forecast
    change: Forecast | None
    tells: bool


def ours(rows: np.ndarray, losses: np.ndarray, constant: float, target: float) -> Answer:
    curve = fit_curve(rows, losses, constant)
    seeds = int(curve.measured.counts[-1])
    before, level = curve.draw([curve.largest, target]).T  # `forecast` ends at twice the largest size
    measured = curve.draw([target], seeds)[:, 0]
    found = (interval(values) for values in (level, measured, level - before))
    return Answer(*found, tells=curve.verdict != "cannot tell")


def power_law_before(rows: np.ndarray, losses: np.ndarray, constant: float, target: float) -> Answer | None:
    """Without the sizes where nothing is learned yet, as it was used; None where it could not be fitted."""
    flat = 0.0
    for size, mean, deviation, _ in _by_size(rows, losses):
        if constant - mean + 2 * deviation >= NOTHING:
            break
        flat = size
    law = fit_power_law(rows[rows > flat], losses[rows > flat], LEVEL)
    if law is None:
        return None
    freedom = max(1, len(law.losses) - 3)
    noise = float(((law.losses - law(law.sizes)) ** 2).sum()) / freedom
    change = Forecast(*law.change(rows.max(), target))
    level = Forecast(*law.level_at(target))
    seeds = int((rows == rows.max()).sum())
    return Answer(level, _with_noise(level, noise / seeds, freedom), change, _tells(change))


def last_value(rows: np.ndarray, losses: np.ndarray, constant: float, target: float) -> Answer:
    """The mean at the largest size, carried forward; its interval is that of the seeds."""
    mean, deviation, freedom = _by_size(rows, losses)[-1][1:]
    reach = float(t_distribution.ppf((1 + LEVEL) / 2, freedom)) * deviation
    level = Forecast(mean, mean - reach, mean + reach)
    return Answer(level, _with_noise(level, deviation**2, freedom), None, False)


def plain_fit(rows: np.ndarray, losses: np.ndarray, constant: float, target: float) -> Answer | None:
    """floor + scale * rows ** -exponent by `scipy.optimize.curve_fit`, with the intervals of its covariance; None where
    that fails."""

    def law(n, floor, scale, exponent):
        return floor + scale * (n / rows.min()) ** -exponent

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", OptimizeWarning)
        try:
            begin = (losses.min(), max(1e-3, losses.max() - losses.min()), 0.5)
            found, covariance = curve_fit(law, rows, losses, begin, maxfev=5000)
        except (RuntimeError, TypeError, OptimizeWarning):
            return None
        freedom = len(rows) - 3
        noise = float(((losses - law(rows, *found)) ** 2).sum()) / max(1, freedom)
        steps = np.diag(1e-5 * np.maximum(np.abs(found), 1e-3))

        def told(function) -> Forecast:
            slope = [(function(found + step) - function(found - step)) / (2 * step.sum()) for step in steps]
            reach = t_distribution.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(slope @ covariance @ np.array(slope))
            return Forecast(function(found), function(found) - reach, function(found) + reach)

        level = told(lambda values: law(target, *values))
        change = told(lambda values: law(target, *values) - law(rows.max(), *values))
    if not np.isfinite([*level, *change]).all():
        return None
    seeds = int((rows == rows.max()).sum())
    return Answer(level, _with_noise(level, noise / seeds, freedom), change, _tells(change))


WAYS = {
    "here": ours,
    "power law, before": power_law_before,
    "last value": last_value,
    "curve_fit": plain_fit,
}


def _by_size(rows: np.ndarray, losses: np.ndarray) -> list[tuple[float, float, float, int]]:
    """Size, mean, its standard deviation over the seeds (pooled over sizes), and the degrees of freedom of that."""
    sizes, group, counts = np.unique(rows, return_inverse=True, return_counts=True)
    means = np.bincount(group, losses) / counts
    freedom = len(losses) - len(sizes)
    pooled = np.sqrt(((losses - means[group]) ** 2).sum() / freedom) if freedom else SEED_SPREAD
    return list(zip(sizes, means, pooled / np.sqrt(counts), [freedom or 1000] * len(sizes)))


def _with_noise(level: Forecast, variance: float, freedom: int) -> Forecast:
    """The interval for a measurement with so much noise of its own."""
    reach = t_distribution.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance)
    low, high = (np.hypot(end - level.best, reach) for end in (level.low, level.high))
    return Forecast(level.best, float(level.best - low), float(level.best + high))


def _tells(change: Forecast) -> bool:
    """By the rule of `LearningCurve.verdict`."""
    return change.high < 0 or (change.low > -NOTHING and change.low <= 0)
