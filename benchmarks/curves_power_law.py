"""The power law that the ablation fitted before `src_py.ablation.curves`, to compare with."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

EXPONENTS = np.geomspace(0.02, 4, 600)


@dataclass(frozen=True)
class PowerLaw:
    """loss(n) = floor + scale * n ** -exponent, fitted to the `losses` of models on `sizes` rows; intervals at
    `level`.

    An interval of the exponent that reaches the edge of what was searched (0.02 to 4) has no bound on that side.
    """

    floor: float
    scale: float
    exponent: float
    exponent_interval: tuple[float, float]
    level: float
    sizes: np.ndarray
    losses: np.ndarray

    def __call__(self, rows) -> np.ndarray:
        return self.floor + self.scale * np.asarray(rows, float) ** -self.exponent

    def change(self, start: float, stop: float) -> tuple[float, float, float]:
        """Change of the log loss from `start` to `stop` rows: best estimate, and its interval."""
        profile = _Profile(self.sizes, self.losses)
        slack = profile.limit(self.level) - profile.rss
        inside = slack >= 0
        factor = stop**-EXPONENTS - start**-EXPONENTS
        reach = np.abs(factor) * np.sqrt(slack.clip(0) / profile.spread)
        low, high = factor * profile.scale - reach, factor * profile.scale + reach
        return float(self(stop) - self(start)), float(low[inside].min()), float(high[inside].max())

    def level_at(self, rows: float) -> tuple[float, float, float]:
        """The same for the log loss at `rows`."""
        profile = _Profile(self.sizes, self.losses)
        slack = profile.limit(self.level) - profile.rss
        inside = slack >= 0
        powers = self.sizes ** -EXPONENTS[:, None]
        off = rows**-EXPONENTS - powers.mean(1)
        reach = np.sqrt(slack.clip(0) * (1 / len(self.sizes) + off**2 / profile.spread))
        middle = profile.floor + profile.scale * rows**-EXPONENTS
        return float(self(rows)), float((middle - reach)[inside].min()), float((middle + reach)[inside].max())


def fit_power_law(sizes: np.ndarray, losses: np.ndarray, level: float = 0.9) -> PowerLaw | None:
    """Least squares over floor, scale and exponent, one entry a trained model (several a size: the seeds).

    For a given exponent the curve is a straight line in n ** -exponent, so the exponent's interval comes from the
    residual sum of squares profiled over the other two, by the F test (Bates and Watts 1988, Nonlinear Regression
    Analysis, section 6.1). What all sizes share, such as easy validation rows, shifts the floor only.

    Returns:
        None where nothing can be fitted: fewer than three different sizes, or fewer than four models.
    """
    sizes, losses = np.asarray(sizes, float), np.asarray(losses, float)
    known = np.isfinite(losses)
    sizes, losses = sizes[known], losses[known]
    if len(np.unique(sizes)) < 3 or len(sizes) < 4:
        return None
    profile = _Profile(sizes, losses)
    best = int(profile.rss.argmin())
    inside = EXPONENTS[profile.rss <= profile.limit(level)]
    interval = (float(inside.min()), float(inside.max()))
    floor, scale = float(profile.floor[best]), float(profile.scale[best])
    return PowerLaw(floor, scale, float(EXPONENTS[best]), interval, level, sizes, losses)


class _Profile:
    """Straight-line fits of the losses on n ** -exponent, for every exponent: `floor`, `scale`, residual sum of squares
    `rss`, and `spread`, the sum of squares of the abscissa about its mean."""

    def __init__(self, sizes: np.ndarray, losses: np.ndarray):
        x = sizes ** -EXPONENTS[:, None]
        centred, y = x - x.mean(1, keepdims=True), losses - losses.mean()
        self.spread = (centred**2).sum(1)
        self.scale = centred @ y / self.spread
        self.floor = losses.mean() - self.scale * x.mean(1)
        self.rss = ((y - self.scale[:, None] * centred) ** 2).sum(1)
        self.freedom = len(sizes) - 3

    def limit(self, level: float) -> float:
        """The largest residual sum of squares that the F test allows."""
        smallest = float(self.rss.min())
        return smallest * (1 + f_distribution.ppf(level, 1, self.freedom) / self.freedom) + 1e-18
