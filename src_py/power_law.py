"""How the log loss falls with the number of training rows: a power law, with honest intervals."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

EXPONENTS = np.geomspace(0.02, 4, 600)


@dataclass(frozen=True)
class PowerLaw:
    """loss(n) = floor + scale * n ** -exponent; intervals at `level`.

    An interval of the exponent that reaches the edge of what was searched (0.02 to 4) has no bound on that side.
    """

    floor: float
    scale: float
    exponent: float
    exponent_interval: tuple[float, float]
    level: float
    _sizes: np.ndarray
    _losses: np.ndarray

    def __call__(self, rows) -> np.ndarray:
        return self.floor + self.scale * np.asarray(rows, float) ** -self.exponent

    def change(self, start: float, stop: float) -> tuple[float, float, float]:
        """Change of the log loss from `start` to `stop` rows: best estimate, and its interval."""
        weights = np.array([0.0, 1.0])
        best = float(self(stop) - self(start))
        low, high = np.inf, -np.inf
        limit, fits = _profile(self._sizes, self._losses, self.level)
        for exponent, rss, coefficients, covariance in fits:
            if rss > limit:
                continue
            contrast = weights * (stop**-exponent - start**-exponent)
            centre = contrast @ coefficients
            reach = np.sqrt((limit - rss) * (contrast @ covariance @ contrast))
            low, high = min(low, centre - reach), max(high, centre + reach)
        return best, float(low), float(high)


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
    limit, fits = _profile(sizes, losses, level)
    exponent, _, (floor, scale), _ = min(fits, key=lambda fit: fit[1])
    inside = [fit[0] for fit in fits if fit[1] <= limit]
    return PowerLaw(float(floor), float(scale), float(exponent), (min(inside), max(inside)), level, sizes, losses)


def _profile(sizes: np.ndarray, losses: np.ndarray, level: float):
    """For every exponent: residual sum of squares, (floor, scale) and their covariance before scaling by the noise;
    and the largest residual sum of squares that `level` allows."""
    fits = []
    for exponent in EXPONENTS:
        design = np.stack([np.ones_like(sizes), sizes**-exponent], axis=1)
        covariance = np.linalg.pinv(design.T @ design)
        coefficients = covariance @ design.T @ losses
        fits.append((exponent, float(((losses - design @ coefficients) ** 2).sum()), coefficients, covariance))
    freedom = len(sizes) - 3
    smallest = min(fit[1] for fit in fits)
    limit = smallest * (1 + f_distribution.ppf(level, 1, freedom) / freedom) + 1e-18
    return limit, fits
