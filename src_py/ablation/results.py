"""What finished trials say: losses, intervals, effects, and a power law over the number of rows."""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from src_py.ablation.trials import Cell, Outcome, Problem
from src_py.evaluation.baselines import class_shares, length_only


def row_losses(problem: Problem, outcome: Outcome) -> np.ndarray:
    """Log loss of every validation row, (rows,), at the best evaluation: chosen on one half of the prompts and read on
    the other, both ways, so that stopping early does not flatter. NaN where the model diverged before any."""
    labels = problem.valid["label"].to_numpy()
    losses = -np.log(outcome.probabilities[:, np.arange(len(labels)), labels].clip(1e-15))
    half = pd.factorize(np.asarray(problem.prompts))[0] % 2
    best = np.full(len(labels), np.nan)
    for side in (0, 1):
        elsewhere = losses[:, half != side].mean(1)
        if np.isfinite(elsewhere).any():
            best[half == side] = losses[int(np.nanargmin(elsewhere)), half == side]
    return best


def baselines(problem: Problem, rows: int | None = None) -> dict[str, np.ndarray]:
    """Log loss of every validation row for the constant predictor and the length-only regression, fitted on the first
    `rows` training rows."""
    train = problem.train.iloc[:rows]
    labels, n = problem.valid["label"].to_numpy(), np.arange(len(problem.valid))
    shares = class_shares(train["label"], problem.n_classes)
    lengths = length_only(train, problem.valid, problem.n_classes)
    return {
        "constant predictor": -np.log(shares.clip(1e-15))[labels],
        "length only": -np.log(lengths[n, labels]),
    }


def results_table(problem: Problem, cells: dict[Cell, Outcome]) -> pd.DataFrame:
    """One row a finished cell: its losses, its accuracy at the end, and the largest share of one predicted class."""
    constant = baselines(problem)["constant predictor"].mean()
    labels, rows = problem.valid["label"].to_numpy(), []
    for cell, outcome in cells.items():
        last = outcome.probabilities[-1]
        diverged = not np.isfinite(last).all()
        predicted = class_shares(last.argmax(1), problem.n_classes)
        loss = row_losses(problem, outcome).mean()
        rows.append(
            asdict(cell)
            | {
                "steps": outcome.at[-1],
                "log_loss": loss,
                "gain": constant - loss,
                "last_log_loss": -np.log(last[np.arange(len(labels)), labels].clip(1e-15)).mean(),
                "accuracy": np.nan if diverged else (last.argmax(1) == labels).mean(),
                "largest_share": np.nan if diverged else predicted.max(),
                "diverged": diverged,
                "minutes": (outcome.train_seconds + outcome.predict_seconds) / 60,
            }
        )
    columns = ["arm", "rows", "as_rows", "seed", "steps", "log_loss", "gain", "last_log_loss", "accuracy"]
    return pd.DataFrame(rows, columns=[*columns, "largest_share", "diverged", "minutes"])


def mean_interval(gains: np.ndarray, groups, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of `gains` (seeds, rows) and its interval over both prompts and seeds.

    The variance is that of the mean over prompts (whole prompts are the units) plus that of the seeds; degrees of
    freedom after Welch and Satterthwaite. With one seed it is the rows' alone.
    """
    gains = np.atleast_2d(gains)
    codes = pd.factorize(np.asarray(groups))[0]
    each, mean = gains.mean(0), float(gains.mean())
    sums = np.bincount(codes, weights=each - mean)
    n, k = len(sums), len(gains)
    by_row = float((sums**2).sum()) / len(codes) ** 2 * n / max(1, n - 1)
    by_seed = float(gains.mean(1).var(ddof=1)) / k if k > 1 else 0.0
    total = by_row + by_seed
    freedom = total**2 / (by_row**2 / max(1, n - 1) + (by_seed**2 / (k - 1) if k > 1 else 0.0)) if total else 1.0
    reach = float(t_distribution.ppf((1 + level) / 2, freedom) * np.sqrt(total))
    return mean, mean - reach, mean + reach


def curve_table(problem: Problem, cells: dict[Cell, Outcome]) -> pd.DataFrame:
    """One row a configuration, size and control (`as_rows`, 0 for the own epochs): mean and spread over seeds, and the
    gain over the constant predictor with its 95 % interval."""
    constant = baselines(problem)["constant predictor"]
    rows = []
    for (arm, size, as_rows), losses in _by_group(problem, cells).items():
        each = np.stack(list(losses.values()))
        gain, low, high = mean_interval(constant - each, problem.prompts)
        means = each.mean(1)
        spread = float(means.std(ddof=1)) if len(means) > 1 else np.nan
        rows.append((arm, size, as_rows, len(means), means.mean(), spread, gain, low, high))
    columns = ["arm", "rows", "as_rows", "seeds", "log loss", "spread", "gain", "at least", "at most"]
    return pd.DataFrame(rows, columns=columns).sort_values(["as_rows", "arm", "rows"], ignore_index=True)


def compare(problem: Problem, cells: dict[Cell, Outcome], worse: tuple, better: tuple) -> tuple | None:
    """How much lower the log loss of `better` is than that of `worse`, each (arm, rows, as_rows): mean, 95 % interval,
    number of seeds, over the seeds that both have; None when they have none in common."""
    groups = _by_group(problem, cells)
    one, other = groups.get(worse, {}), groups.get(better, {})
    seeds = sorted(set(one) & set(other))
    if not seeds:
        return None
    gains = np.stack([one[seed] - other[seed] for seed in seeds])
    return (*mean_interval(gains, problem.prompts), len(seeds))


def repair_table(problem: Problem, cells: dict[Cell, Outcome]) -> pd.DataFrame:
    """What each repair is worth at each size: added to the posted settings, and taken from the recipe."""
    rows = []
    for arm, size, as_rows in _by_group(problem, cells):
        if as_rows or arm in ("posted", "recipe"):
            continue
        base, sign = ("posted", "+") if arm.startswith("posted") else ("recipe", "-")
        pair = ((base, size, 0), (arm, size, 0))
        found = compare(problem, cells, *(pair if sign == "+" else pair[::-1]))
        if found:
            how = "added to posted" if sign == "+" else "taken from recipe"
            rows.append((arm.split(sign, 1)[1], how, size, *found))
    columns = ["repair", "how", "rows", "worth", "at least", "at most", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["rows", "how", "worth"], ignore_index=True)


def _by_group(problem: Problem, cells: dict[Cell, Outcome]) -> dict[tuple, dict[int, np.ndarray]]:
    """Row losses by (arm, rows, as_rows) and seed; diverged runs are left out here and counted in the results."""
    groups: dict[tuple, dict[int, np.ndarray]] = {}
    for cell, outcome in cells.items():
        losses = row_losses(problem, outcome)
        if np.isfinite(losses).all():
            groups.setdefault((cell.arm, cell.rows, cell.as_rows), {})[cell.seed] = losses
    return groups


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
        profile = _Profile(self._sizes, self._losses)
        slack = profile.limit(self.level) - profile.rss
        inside = slack >= 0
        factor = stop**-EXPONENTS - start**-EXPONENTS
        reach = np.abs(factor) * np.sqrt(slack.clip(0) / profile.spread)
        low, high = factor * profile.scale - reach, factor * profile.scale + reach
        return float(self(stop) - self(start)), float(low[inside].min()), float(high[inside].max())


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
