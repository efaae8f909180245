"""A learning curve over the number of training rows: what more rows would bring, and how sure that is.

The forms of `curve_forms`, weighted by how probable they make the measured losses. Intervals leave as
much of the probability on either side. Where the curve without its largest size missed what was measured there,
intervals beyond that size widen. Everything is about the validation rows at hand: what is peculiar to them moves all
sizes alike, and shifts the floor only.
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
SYMMETRIC = 0.05  # sides of an interval that differ by less than this share of it are told as one
MOST_STRETCH = 2.0  # intervals beyond the largest size widen by as much as the hindcast missed, at most by this
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

    @property
    def miss(self) -> float:
        """How far off `best` was, as a share of the interval's side there: above 1 where the interval did not hold."""
        side = self.high - self.best if self.measured > self.best else self.best - self.low
        return abs(self.measured - self.best) / max(side, 1e-12)

    def __str__(self) -> str:
        below, above = self.best - self.low, self.high - self.best
        span = f"({self.low:.3f} to {self.high:.3f})"
        if abs(above - below) <= SYMMETRIC * (above + below):
            span = f"± {(above + below) / 2:.3f}"
        missed = "" if self.held else ", which is outside: trust this curve less"
        return (
            f"from {self.last:,} rows it would have said {self.best:.3f} {span} for {self.rows:,}; measured "
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
        begins = np.cumsum([0, *map(len, masses)])
        own = [np.flatnonzero((picks >= low) & (picks < high)) for low, high in pairwise(begins)]
        return [
            posterior.draw(picks[numbers] - begin, numbers)
            for posterior, begin, numbers in zip(self._forms, begins, own)
            if len(numbers)
        ]

    def draw(self, rows, seeds: int = 0) -> np.ndarray:
        """(draws, rows) possible log losses; the same in every call.

        Args:
            rows: (rows,) numbers of training rows.
            seeds: 0 for the expected log loss; otherwise for the mean of so many models, trained anew.
        """
        sizes = np.asarray(rows, float)
        values = self._draw_unstretched(sizes, seeds)
        if (sizes > self.largest).any():
            beyond = np.log2(sizes / self.largest).clip(0, 1)
            middle = np.median(values, axis=0)
            values = middle + (values - middle) * self._stretch**beyond
        return values.clip(0)

    def _draw_unstretched(self, sizes: np.ndarray, seeds: int) -> np.ndarray:
        chance = np.random.default_rng(1).normal(size=(2, DRAWS, len(sizes)))  # the same whichever form has a number
        return np.concatenate([drawn.at(sizes, seeds, chance) for drawn in self._draws])

    @property
    def _stretch(self) -> float:
        """By how much draws at twice the largest size are spread about their middle: as the hindcast should have been,
        as far as `MOST_STRETCH`."""
        return min(max(self.hindcast.miss, 1.0), MOST_STRETCH) if self.hindcast else 1.0

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
        before, after = self.draw([self.largest, 2 * self.largest]).T
        return interval(after), interval(after - before)

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
        foretold = fitted._draw_unstretched(self.sizes[-1:], int(self.measured.counts[-1])).clip(0)
        best, low, high = interval(foretold[:, 0])
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
    """Median of (draws,) values, and the interval that leaves half of 1 - `level` of them on each side."""
    low, best, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Forecast(float(best), float(low), float(high))
