"""How probable each curve of a form is, given the losses of models on several numbers of rows.

For a given exponent, start and kind of noise the curve is linear in what is left (floor and height), so that these and
the noise's scale are integrated in closed form; exponent and start lie on a grid that closes in on what is probable.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import gammaincinv, gammaln, ndtri, stdtr, stdtrit

from src_py.ablation.curve_forms import EXPONENTS, FORMS, START_AFTER, START_BEFORE, USUAL_EXPONENT, Form

SEED_NOISE = 0.006  # nats: what the standard deviation over seeds is taken for before it is measured,
SEED_MODELS = 3  # with the weight of so many degrees of freedom
SHRINKS = {0.0: 0.5, 0.5: 0.3, 1.0: 0.2}  # the seeds' deviation goes as rows ** -shrink; with its probability
# A real curve wanders about every form, smoothly over the logarithm of the rows: by a variance of so many times the
# seeds'; with its probability.
WANDERS = {0.0: 0.75, 3.0: 0.0625, 30.0: 0.0625, 300.0: 0.0625, 3000.0: 0.0625}
WANDER_LENGTH = 2.0  # e-fold of the rows over which it is alike
ANCHOR_NOISE = 1.0  # variance, in the seeds', of a model that learned nothing about the constant predictor
SMALL_HEIGHT = 0.02  # nats: heights above it are as likely in every order of magnitude, those below alike
GRID, ZOOMS, KEPT = (12, 14), 3, 12.0  # cells; how often they close in; on what has exp(-12) of the best's probability


@dataclass(frozen=True)
class Measured:
    """Losses by size: `sizes` ascending, `means` over the seeds, `counts` of them, and `squares`, the sum of squared
    deviations from the mean, each (sizes,); `constant` is the log loss of the constant predictor."""

    sizes: np.ndarray
    means: np.ndarray
    counts: np.ndarray
    squares: np.ndarray
    constant: float

    @classmethod
    def of(cls, rows: np.ndarray, losses: np.ndarray, constant: float) -> "Measured":
        sizes, group, counts = np.unique(rows, return_inverse=True, return_counts=True)
        means = np.bincount(group, losses) / counts
        return cls(sizes, means, counts, np.bincount(group, (losses - means[group]) ** 2), constant)


class Noise:
    """Every kind of noise that a curve may have, in units of the seeds' variance at the largest size.

    Attributes:
        prior: (kinds,) log probability.
        shrink, wander: (kinds,).
    """

    def __init__(self, measured: Measured):
        self.measured = measured
        kinds = [(shrink, wander) for shrink in SHRINKS for wander in WANDERS]
        self.prior = np.log([SHRINKS[shrink] * WANDERS[wander] for shrink, wander in kinds])
        self.shrink, self.wander = np.array(kinds).T

    def of_seed(self, rows: np.ndarray) -> np.ndarray:
        """(kinds, rows) variance of a model."""
        return (np.asarray(rows) / self.measured.sizes[-1]) ** (-2 * self.shrink[:, None])

    def shared(self, rows: np.ndarray, others: np.ndarray, anchored: bool) -> np.ndarray:
        """(kinds, rows, others) covariance of what the models of a size have in common."""
        apart = np.abs(np.log(rows)[:, None] - np.log(others)) * np.sqrt(3) / WANDER_LENGTH
        return self.wander[:, None, None] * (1 + apart) * np.exp(-apart) + ANCHOR_NOISE * anchored

    def covariance(self, anchored: bool) -> np.ndarray:
        """(kinds, sizes, sizes), of the means."""
        sizes, counts = self.measured.sizes, self.measured.counts
        seeds = (self.of_seed(sizes) / counts)[:, :, None] * np.eye(len(sizes))
        return seeds + self.shared(sizes, sizes, anchored)

    @cached_property
    def within(self) -> tuple[np.ndarray, np.ndarray]:
        """(kinds,) Squared deviations from the means of the sizes, and the logarithm of their determinant."""
        seeds = self.of_seed(self.measured.sizes)
        return (self.measured.squares / seeds).sum(1), ((self.measured.counts - 1) * np.log(seeds)).sum(1)


class Posterior:
    """The curves of one form: `log_evidence` (kinds of noise, shapes), and draws of them."""

    def __init__(self, form: Form, noise: Noise, exponent: np.ndarray, start: np.ndarray, cell: float):
        """`exponent` and `start` (shapes,); `cell` is the logarithm of the grid's cell in their logarithms."""
        self.form, self.noise, self.exponent, self.start = form, noise, exponent, start
        measured, degrees = noise.measured, 0
        covariance = noise.covariance(form.anchored)
        whiten = np.linalg.inv(np.linalg.cholesky(covariance))
        falls = form.falls(measured.sizes[None], exponent[:, None], start[:, None])
        column = np.einsum("kij,sj->ksi", whiten, 1 - falls if form.anchored else falls)
        goal = (whiten @ (measured.constant - measured.means if form.anchored else measured.means))[:, None]
        squares, spread = noise.within
        # The log density of everything but the residuals, up to what all forms share.
        log = np.log(form.weight) + noise.prior + np.log(np.diagonal(whiten, axis1=1, axis2=2)).sum(1) - spread / 2
        log = np.repeat(log[:, None], len(exponent), axis=1)
        if not form.anchored:  # the floor is whatever fits
            one = whiten.sum(2)[:, None]
            self.ones = (one**2).sum(2)
            self.column_floor, self.goal_floor = (column * one).sum(2) / self.ones, (goal * one).sum(2) / self.ones
            column = column - self.column_floor[..., None] * one
            goal = goal - self.goal_floor[..., None] * one
            degrees += 1
            log += -np.log(self.ones) / 2 - np.log(measured.constant)
        self.height, self.precision = np.zeros(log.shape), np.ones(log.shape)
        if form.exponents:
            self.precision = (column**2).sum(2) + 1e-12
            self.height = (column * goal).sum(2) / self.precision
            goal = goal - self.height[..., None] * column
            degrees += 1
            log -= np.log(self.precision) / 2
        self.alpha = (SEED_MODELS + measured.counts.sum() - degrees) / 2
        self.beta = (SEED_MODELS * SEED_NOISE**2 + (goal**2).sum(2) + squares[:, None]) / 2
        log += degrees * np.log(2 * np.pi) / 2 + gammaln(self.alpha) - self.alpha * np.log(self.beta)
        self.error = np.sqrt(self.beta / self.alpha / self.precision)
        if form.exponents:
            low, usual = np.maximum(self.height, self.error), (USUAL_EXPONENT, form.exponent_spread)
            log += np.log(np.maximum(stdtr(2 * self.alpha, self.height / self.error), 1e-300))  # no curve rises
            log -= np.log(low + SMALL_HEIGHT) + np.log(np.log(measured.constant / SMALL_HEIGHT + 1))
            log += cell - (np.log(exponent / usual[0]) / usual[1]) ** 2 / 2 - np.log(usual[1] * np.sqrt(2 * np.pi))
        if form.starts:
            log -= np.log(np.log(START_AFTER * measured.sizes[-1] / (START_BEFORE * measured.sizes[0])))
        self.log_evidence = log

    def draw(self, picked: np.ndarray, numbers: np.ndarray) -> "Draws":
        """Floors, heights and noise of the curves at the positions `picked` of the flattened `log_evidence`; `numbers`
        (picked,) tell them from those of other forms. Curves with a floor below zero are left out, because no log loss
        is."""
        # Evenly spread and always the same for a number, so that losses that hardly differ have answers that hardly do.
        first, second, third = (np.sqrt([[2], [3], [5]]) * (numbers + 1)) % 1
        kind, shape = np.unravel_index(picked, self.log_evidence.shape)
        height, error, beta = self.height[kind, shape], self.error[kind, shape], self.beta[kind, shape]
        alpha, scale = self.alpha, beta
        if self.form.exponents:
            falling = stdtr(2 * alpha, -height / error)
            share = falling + first * (1 - falling)
            off = error * stdtrit(2 * alpha, np.minimum(share, 1 - 1e-12))
            height, alpha, scale = height + off, alpha + 0.5, beta + off**2 * self.precision[kind, shape] / 2
        variance = scale / gammaincinv(alpha, second)
        if self.form.anchored:
            floor = self.noise.measured.constant - height
        else:
            floor = self.goal_floor[kind, 0] - height * self.column_floor[kind, shape]
            floor = floor + ndtri(third) * np.sqrt(variance / self.ones[kind, 0])
        known = floor > 0 if (floor > 0).any() else np.full(len(floor), True)
        chosen = (numbers, kind, floor, height, self.exponent[shape], self.start[shape], variance)
        return Draws(self.form, self.noise, *(values[known] for values in chosen))


@dataclass(frozen=True)
class Draws:
    """Curves of one form: for each (draws,) its number, kind of noise, floor, height, exponent, start, and the seeds'
    variance at the largest size."""

    form: Form
    noise: Noise
    number: np.ndarray
    kind: np.ndarray
    floor: np.ndarray
    height: np.ndarray
    exponent: np.ndarray
    start: np.ndarray
    variance: np.ndarray

    def at(self, rows: np.ndarray, seeds: int, chance: np.ndarray) -> np.ndarray:
        """(draws, rows) expected log loss; with `seeds`, the mean of so many models. `chance` (2, numbers, rows) has
        standard normal numbers for the draws of all forms."""
        for_wander, for_seeds = chance[:, self.number]
        measured, anchored = self.noise.measured, self.form.anchored
        values = self._curve(rows)
        off = measured.means - self._curve(measured.sizes)
        deviation = np.sqrt(self.variance)[:, None]
        across = self.noise.shared(rows, measured.sizes, anchored)
        covariance, own = self.noise.covariance(anchored), self.noise.shared(rows, rows, anchored)
        for kind in np.unique(self.kind):
            mine, scale = self.kind == kind, own[kind].max()
            if not scale:
                continue
            gain = np.linalg.solve(covariance[kind], across[kind].T).T
            left = own[kind] - gain @ across[kind].T
            root = np.linalg.cholesky(left + 1e-8 * scale * np.eye(len(rows)))
            wander = for_wander[mine] @ root.T
            values[mine] += off[mine] @ gain.T + deviation[mine] * wander
        if seeds:
            values += self.spread(rows) / np.sqrt(seeds) * for_seeds
        return values

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """(draws, rows) standard deviation of one model."""
        return np.sqrt(self.variance[:, None] * self.noise.of_seed(rows)[self.kind])

    def _curve(self, rows: np.ndarray) -> np.ndarray:
        falls = self.form.falls(rows[None], self.exponent[:, None], self.start[:, None])
        return self.floor[:, None] + self.height[:, None] * falls


def search(form: Form, noise: Noise) -> Posterior:
    """The curves of a form, on a grid that has closed in on the probable ones."""
    sizes = noise.measured.sizes
    box = [np.log(EXPONENTS), np.log([START_BEFORE * sizes[0], START_AFTER * sizes[-1]])]
    cells = GRID[0] if form.exponents else 1, GRID[1] if form.starts else 1
    for _ in range(ZOOMS):
        widths = [(high - low) / count for (low, high), count in zip(box, cells)]
        centres = [low + width * (np.arange(count) + 0.5) for (low, _), width, count in zip(box, widths, cells)]
        exponent, start = (np.exp(grid.ravel()) for grid in np.meshgrid(*centres, indexing="ij"))
        start = start if form.starts else np.full(len(start), sizes[0])
        cell = sum(np.log(width) for width, used in zip(widths, (form.exponents, form.starts)) if used)
        found = Posterior(form, noise, exponent, start, cell)
        if not form.exponents:
            break
        best = found.log_evidence.max(0).reshape(cells)
        kept = [np.flatnonzero((best > best.max() - KEPT).any(1 - axis)) for axis in (0, 1)]
        box = [
            np.array([low + max(0, inside[0] - 1) * width, low + min(count, inside[-1] + 2) * width])
            for (low, _), width, count, inside in zip(box, widths, cells, kept)
        ]
    return found


def search_all(measured: Measured) -> list[Posterior]:
    """One posterior a form."""
    noise = Noise(measured)
    return [search(form, noise) for form in FORMS]
