"""What finished trials say: losses, intervals and effects."""

from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.evaluation.baselines import class_shares, length_only

Group = tuple[str, int, int]  # arm, rows, as_rows


class Comparison(NamedTuple):
    """Nats by which one log loss is lower than another: mean, 95 % interval, and over how many seeds."""

    gain: float
    at_least: float
    at_most: float
    seeds: int


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


def results_table(problem: Problem, outcomes: dict[Trial, Outcome]) -> pd.DataFrame:
    """One row a finished trial: its losses, its accuracy at the end, the largest share of one predicted class, and
    whether its last predictions are NaN."""
    constant = baselines(problem)["constant predictor"].mean()
    labels, rows = problem.valid["label"].to_numpy(), []
    for trial, outcome in outcomes.items():
        last = outcome.probabilities[-1]
        diverged = not np.isfinite(last).all()
        predicted = class_shares(last.argmax(1), problem.n_classes)
        loss = row_losses(problem, outcome).mean()
        rows.append(
            asdict(trial)
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


def curve_table(problem: Problem, outcomes: dict[Trial, Outcome]) -> pd.DataFrame:
    """One row an arm, size and control (`as_rows`, 0 for the own epochs): mean and spread over seeds, and the gain over
    the constant predictor with its 95 % interval. Trials that diverged before any evaluation are not in it."""
    constant = baselines(problem)["constant predictor"]
    rows = []
    for (arm, size, as_rows), losses in _by_group(problem, outcomes).items():
        each = np.stack(list(losses.values()))
        gain, low, high = mean_interval(constant - each, problem.prompts)
        means = each.mean(1)
        spread = float(means.std(ddof=1)) if len(means) > 1 else np.nan
        rows.append((arm, size, as_rows, len(means), means.mean(), spread, gain, low, high))
    columns = ["arm", "rows", "as_rows", "seeds", "log loss", "spread", "gain", "at least", "at most"]
    return pd.DataFrame(rows, columns=columns).sort_values(["as_rows", "arm", "rows"], ignore_index=True)


def compare(problem: Problem, outcomes: dict[Trial, Outcome], worse: Group, better: Group) -> Comparison | None:
    """How much lower the log loss of `better` is than that of `worse`, over the seeds that both have; None when they
    have none in common."""
    groups = _by_group(problem, outcomes)
    first, second = groups.get(worse, {}), groups.get(better, {})
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    gains = np.stack([first[seed] - second[seed] for seed in seeds])
    return Comparison(*mean_interval(gains, problem.prompts), len(seeds))


def repair_table(problem: Problem, outcomes: dict[Trial, Outcome]) -> pd.DataFrame:
    """What each repair is worth at each size: added to the posted settings, and taken from the recipe."""
    rows = []
    for arm, size, as_rows in _by_group(problem, outcomes):
        if as_rows or arm in ("posted", "recipe"):
            continue
        base, sign = ("posted", "+") if arm.startswith("posted") else ("recipe", "-")
        pair = ((base, size, 0), (arm, size, 0))
        found = compare(problem, outcomes, *(pair if sign == "+" else pair[::-1]))
        if found:
            how = "added to posted" if sign == "+" else "taken from recipe"
            rows.append((arm.split(sign, 1)[1], how, size, *found))
    columns = ["repair", "how", "rows", "worth", "at least", "at most", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["rows", "how", "worth"], ignore_index=True)


def _by_group(problem: Problem, outcomes: dict[Trial, Outcome]) -> dict[Group, dict[int, np.ndarray]]:
    """Row losses by group and seed; runs that diverged before any evaluation are left out here and counted in the
    results."""
    groups: dict[Group, dict[int, np.ndarray]] = {}
    for trial, outcome in outcomes.items():
        losses = row_losses(problem, outcome)
        if np.isfinite(losses).all():
            groups.setdefault((trial.arm, trial.rows, trial.as_rows), {})[trial.seed] = losses
    return groups
