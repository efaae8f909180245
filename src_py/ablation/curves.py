"""A learning curve over the number of training rows: what more rows would bring, and how sure that is.

The forms of `curve_forms`, weighted by how probable they make the measured losses. Intervals are the shortest that hold
so much of the probability. Everything is about the validation rows at hand: what is peculiar to them moves all sizes
alike, and shifts the floor only.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from src_py.ablation.curve_fit import Draws, Measured, Posterior, search_all

LEVEL = 0.9
PERCENT = f"{100 * LEVEL:.0f} %"
REACH = 2.0  # times the largest size: as far as coverage was measured (`make curves-bench`)
LEAST_SIZES = 3
DRAWS = 2000
NOTHING = 0.005  # nats: a gain whose interval stays below this counts as none


class Forecast(NamedTuple):
    """Best estimate (the median), and the interval that holds `LEVEL` of the probability."""

    best: float
    low: float
    high: float


class Hindcast(NamedTuple):
    """What the curve without its largest size said about that size: `low` to `high` for the mean of as many models as
    were `measured` there.

    Attributes:
        last: largest size that was fitted.
        rows: size that was forecast.
    """

    last: int
    rows: int
    best: float
    low: float
    high: float
    measured: float

    @property
    def held(self) -> bool:
        return self.low <= self.measured <= self.high

    def __str__(self) -> str:
        middle, reach = (self.low + self.high) / 2, (self.high - self.low) / 2
        missed = "" if self.held else ", which is outside: trust this curve less"
        return (
            f"from {self.last:,} rows it would have said {middle:.3f} ± {reach:.3f} for {self.rows:,}; measured "
            f"{self.measured:.3f}{missed}"
        )


@dataclass(frozen=True)
class LearningCurve:
    """Expected log loss over training rows.

    Attributes:
        rows, losses: (models,) those that were fitted: one entry a trained model.
        measured: the same by size.
    """

    rows: np.ndarray
    losses: np.ndarray
    measured: Measured

    @property
    def sizes(self) -> np.ndarray:
        """Measured numbers of rows, ascending."""
        return self.measured.sizes

    @property
    def largest(self) -> int:
        return int(self.sizes[-1])

    @property
    def weights(self) -> dict[str, float]:
        """Probability of each form."""
        found = {
            posterior.form.name: float(np.exp(posterior.log_evidence - self._top).sum()) for posterior in self._forms
        }
        return {name: mass / sum(found.values()) for name, mass in found.items()}

    @cached_property
    def _forms(self) -> list[Posterior]:
        return search_all(self.measured)

    @property
    def _top(self) -> float:
        return max(posterior.log_evidence.max() for posterior in self._forms)

    @cached_property
    def _draws(self) -> list[Draws]:
        masses = [np.exp(posterior.log_evidence - self._top).ravel() for posterior in self._forms]
        cumulated = np.cumsum(np.concatenate(masses))
        picks = np.searchsorted(cumulated, cumulated[-1] * (np.arange(DRAWS) + 0.5) / DRAWS)
        begins, rng = np.cumsum([0, *map(len, masses)]), np.random.default_rng(0)
        picked = [picks[(picks >= low) & (picks < high)] - low for low, high in pairwise(begins)]
        return [posterior.draw(own, rng) for posterior, own in zip(self._forms, picked) if len(own)]

    def draw(self, rows, seeds: int = 0) -> np.ndarray:
        """(draws, rows) possible log losses; the same in every call.

        Args:
            rows: (rows,) numbers of training rows.
            seeds: 0 for the expected log loss; otherwise for the mean of so many models, trained anew.
        """
        sizes, rng = np.asarray(rows, float), np.random.default_rng(1)
        return np.concatenate([drawn.at(sizes, seeds, rng) for drawn in self._draws])

    def spread(self, rows) -> np.ndarray:
        """(draws, rows) standard deviation over seeds of one model's log loss, of the same curves as `draw`."""
        sizes = np.asarray(rows, float)
        return np.concatenate([drawn.spread(sizes) for drawn in self._draws])

    def forecast(self, rows: float, seeds: int = 0) -> Forecast | None:
        """Log loss for one number of rows; None beyond `REACH`, which is not tested."""
        if rows > REACH * self.largest:
            return None
        return interval(self.draw([rows], seeds)[:, 0])

    def change(self, start: float, stop: float) -> Forecast | None:
        """Change of the expected log loss from `start` to `stop` rows; None beyond `REACH`."""
        return None if max(start, stop) > REACH * self.largest else self._change(start, stop)

    def _change(self, start: float, stop: float) -> Forecast:
        before, after = self.draw([start, stop]).T
        return interval(after - before)

    @cached_property
    def twice(self) -> tuple[Forecast, Forecast]:
        """Log loss with twice the rows of the largest size, and its change from there."""
        return interval(self.draw([2 * self.largest])[:, 0]), self._change(self.largest, 2 * self.largest)

    def band(self, points: int = 60) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of rows from the smallest size as far as forecasts go, (points,), and (points, 3) best, low, high."""
        sizes = np.geomspace(self.sizes[0], REACH * self.largest, points)
        return sizes, np.array([interval(values) for values in self.draw(sizes).T])

    @cached_property
    def rises(self) -> tuple[int, Forecast] | None:
        """The smaller size with the lowest mean, and the change from there to the largest, where that surely rises."""
        best = int(self.sizes[self.measured.means.argmin()])
        if best == self.largest:
            return None
        found = self._change(best, self.largest)
        return (best, found) if found.low > 0 else None

    @cached_property
    def verdict(self) -> str:
        """What twice the rows bring: "better", "nothing" (less than `NOTHING`), or "cannot tell"."""
        found = self.twice[1]
        if self.rises:
            return "cannot tell"
        if found.high < 0:
            return "better"
        return "nothing" if found.low > -NOTHING else "cannot tell"

    @cached_property
    def hindcast(self) -> Hindcast | None:
        """The curve without its largest size, against what was measured there; None where too few sizes are left."""
        below = self.rows < self.largest
        fitted = fit_curve(self.rows[below], self.losses[below], self.measured.constant)
        if fitted is None:
            return None
        best, low, high = interval(fitted.draw([self.largest], int(self.measured.counts[-1]))[:, 0])
        return Hindcast(fitted.largest, self.largest, best, low, high, float(self.measured.means[-1]))


def fit_curve(rows, losses, constant: float) -> LearningCurve | None:
    """Fit the curve of an arm.

    Args:
        rows, losses: (models,) one entry a trained model, several a size: the seeds. NaN are left out.
        constant: log loss of the constant predictor on the same validation rows.

    Returns:
        None with fewer than `LEAST_SIZES` different sizes.
    """
    rows, losses = np.asarray(rows, float), np.asarray(losses, float)
    known = np.isfinite(losses)
    if len(np.unique(rows[known])) < LEAST_SIZES:
        return None
    return LearningCurve(rows[known], losses[known], Measured.of(rows[known], losses[known], constant))


def interval(values: np.ndarray, level: float = LEVEL) -> Forecast:
    """Median of (draws,) values, and the shortest interval that holds a share `level` of them."""
    ordered = np.sort(values)
    count = int(np.ceil(level * len(ordered)))
    widths = ordered[count - 1 :] - ordered[: len(ordered) - count + 1]
    start = int(widths.argmin())
    return Forecast(float(np.median(ordered)), float(ordered[start]), float(ordered[start + count - 1]))
