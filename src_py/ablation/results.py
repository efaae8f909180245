"""What finished trials say: losses, intervals and effects."""

from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from src_py.ablation.arms import has_levers
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.evaluation.baselines import class_shares, length_only

Group = tuple[str, int, int]  # arm, rows, as_rows


class Comparison(NamedTuple):
    """Nats by which one log loss is lower than another: mean, its interval (of 95 %), and over how many seeds."""

    gain: float
    at_least: float
    at_most: float
    seeds: int


def row_losses(problem: Problem, outcome: Outcome) -> np.ndarray:
    """Log loss of every validation row, (rows,), at the best evaluation: chosen on one half of the prompts and read on
    the other, both ways, so that stopping early does not flatter. Rows that are unlike the training rows are read at
    the evaluation that is best on the others. NaN where the model diverged before any."""
    labels = problem.valid["label"].to_numpy()
    losses = -np.log(outcome.probabilities[:, np.arange(len(labels)), labels].clip(1e-15))
    half = pd.factorize(np.asarray(problem.prompts))[0] % 2
    half[problem.part(unseen=True)] = 2
    best = np.full(len(labels), np.nan)
    for side in (0, 1, 2):
        elsewhere = losses[:, (half != side) & (half < 2)].mean(1)
        if np.isfinite(elsewhere).any():
            best[half == side] = losses[int(np.nanargmin(elsewhere)), half == side]
    return best


def baselines(problem: Problem, rows: int | None = None, unseen: bool = False) -> dict[str, np.ndarray]:
    """Log loss of every validation row of one kind for the constant predictor and the length-only regression, fitted on
    the first `rows` training rows.

    Args:
        unseen: the rows that are unlike the training rows, not those like them.
    """
    train, valid = problem.train.iloc[:rows], problem.valid[problem.part(unseen)]
    labels, n = valid["label"].to_numpy(), np.arange(len(valid))
    shares = class_shares(train["label"], problem.n_classes)
    lengths = length_only(train, valid, problem.n_classes)
    return {
        "constant predictor": -np.log(shares.clip(1e-15))[labels],
        "length only": -np.log(lengths[n, labels]),
    }


def results_table(problem: Problem, outcomes: dict[Trial, Outcome]) -> pd.DataFrame:
    """One row a finished trial: its losses, its accuracy at the end, the largest share of one predicted class, and
    whether its last predictions are NaN, on the rows like the training rows; and its loss on the others, if any were
    held out as a group."""
    constant = baselines(problem)["constant predictor"].mean()
    seen, apart = problem.part(unseen=False), problem.part(unseen=True)
    labels, rows = problem.valid["label"].to_numpy()[seen], []
    for trial, outcome in outcomes.items():
        last = outcome.probabilities[-1][seen]
        diverged = not np.isfinite(last).all()
        predicted = class_shares(last.argmax(1), problem.n_classes)
        each = row_losses(problem, outcome)
        loss = each[seen].mean()
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
                "minutes": minutes_of(outcome),
                "unseen_log_loss": each[apart].mean() if apart.any() else np.nan,
            }
        )
    columns = ["arm", "rows", "as_rows", "seed", "steps", "log_loss", "gain", "last_log_loss", "accuracy"]
    columns += ["largest_share", "diverged", "minutes", *(["unseen_log_loss"] if apart.any() else [])]
    return pd.DataFrame(rows, columns=columns)


def minutes_of(outcome: Outcome) -> float:
    """Minutes of training and predicting."""
    return (outcome.train_seconds + outcome.predict_seconds) / 60


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
        gain, low, high = mean_interval(constant - each, problem.prompts[problem.part(unseen=False)])
        means = each.mean(1)
        spread = float(means.std(ddof=1)) if len(means) > 1 else np.nan
        rows.append((arm, size, as_rows, len(means), means.mean(), spread, gain, low, high))
    columns = ["arm", "rows", "as_rows", "seeds", "log loss", "spread", "gain", "at least", "at most"]
    return pd.DataFrame(rows, columns=columns).sort_values(["as_rows", "arm", "rows"], ignore_index=True)


def compare(
    problem: Problem,
    outcomes: dict[Trial, Outcome],
    worse: Group,
    better: Group,
    unseen: bool = False,
    level: float = 0.95,
) -> Comparison | None:
    """How much lower the log loss of `better` is than that of `worse`, over the seeds that both have; None when they
    have none in common.

    Args:
        unseen: on the rows that are unlike the training rows, not on those like them.
        level: of the interval.
    """
    groups = _by_group(problem, {t: o for t, o in outcomes.items() if _group(t) in (worse, better)}, unseen)
    first, second = groups.get(worse, {}), groups.get(better, {})
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    gains = np.stack([first[seed] - second[seed] for seed in seeds])
    return Comparison(*mean_interval(gains, problem.prompts[problem.part(unseen)], level), len(seeds))


def reading_gain(problem: Problem, outcomes: dict[Trial, Outcome], group: Group) -> Comparison | None:
    """By how much the log loss of arms with counts is lower than if they did not read; None where none has counts."""
    seen = problem.part(unseen=False)
    labels, gains = problem.valid["label"].to_numpy(), []
    for trial, outcome in outcomes.items():
        if _group(trial) == group and outcome.blind is not None:
            blind = -np.log(outcome.blind[np.arange(len(labels)), labels].clip(1e-15))
            gain = (blind - row_losses(problem, outcome))[seen]
            gains += [gain] if np.isfinite(gain).all() else []
    return Comparison(*mean_interval(np.stack(gains), problem.prompts[seen]), len(gains)) if gains else None


def name_control(table: pd.DataFrame) -> pd.DataFrame:
    """A table for readers: the control arm is named in the column `arm`, `as_rows` becomes `steps of rows`, which is
    "own" for the own epochs, and the other columns are in words."""
    words = table.rename(columns=lambda name: name.replace("_", " "))
    control = words["as rows"] > 0
    arms = words["arm"].where(~control, words["arm"] + " (control arm)")
    steps = words["as rows"].map("{:,}".format).where(control, "own")
    return words.assign(arm=arms, **{"as rows": steps}).rename(columns={"as rows": "steps of rows"})


def repair_table(problem: Problem, outcomes: dict[Trial, Outcome]) -> pd.DataFrame:
    """What each repair is worth at each size, the largest first: added to the posted settings, and taken from the
    recipe."""
    rows = []
    for arm, size, as_rows in _by_group(problem, outcomes):
        if as_rows or arm in ("posted", "recipe") or has_levers(arm):
            continue
        base, sign = ("posted", "+") if arm.startswith("posted") else ("recipe", "-")
        pair = ((base, size, 0), (arm, size, 0))
        found = compare(problem, outcomes, *(pair if sign == "+" else pair[::-1]))
        if found:
            how = "added to posted" if sign == "+" else "taken from recipe"
            rows.append((arm.split(sign, 1)[1], how, size, *found))
    columns = ["repair", "how", "rows", "worth", "at least", "at most", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["rows", "how", "worth"], ascending=[False, True, False], ignore_index=True
    )


def repair_view(table: pd.DataFrame) -> pd.DataFrame:
    """A `repair_table` for readers: the worth and its interval in one column, so that it fits a narrow page."""
    worth = [f"{row.worth:+.3f} ({row[5]:+.3f} to {row[6]:+.3f})" for row in table.itertuples()]
    named = {"log loss saved, nats (95 %)": worth, "rows": table["rows"], "seeds": table["seeds"]}
    return table[["repair", "how"]].assign(**named)


def main_size(table: pd.DataFrame) -> int:
    """The size that most rows of a table are about; of several the largest, as on few rows nothing may be learned."""
    return int(table["rows"].mode().max())


def _group(trial: Trial) -> Group:
    return trial.arm, trial.rows, trial.as_rows


def _by_group(
    problem: Problem, outcomes: dict[Trial, Outcome], unseen: bool = False
) -> dict[Group, dict[int, np.ndarray]]:
    """Losses of one kind of rows by group and seed; runs that diverged before any evaluation are left out here and
    counted in the results."""
    groups: dict[Group, dict[int, np.ndarray]] = {}
    part = problem.part(unseen)
    for trial, outcome in outcomes.items():
        losses = row_losses(problem, outcome)[part]
        if np.isfinite(losses).all():
            groups.setdefault(_group(trial), {})[trial.seed] = losses
    return groups
