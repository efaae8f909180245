"""Grids of trials whose losses are known before they are run, to see what an order finds out when."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.curves_recorded import FOLDER
from benchmarks.curves_simulated import TRUTHS, draw_curve
from src_py.ablation.arms import REPAIRS
from src_py.ablation.problem import Trial
from src_py.ablation.schedule import list_trials

ARMS = ("posted", "recipe")
OLD = (
    "flat",
    "same",
    "slower",
)  # the first arm learns nothing; as the last; needs two to six times the rows
FIRST_SEED, SEEDS = 500, 3
LARGEST_MINUTES, OVERHEAD = 30.0, (0.01, 0.1)  # of the longest trial, and the share of it that does not grow with rows


@dataclass(frozen=True)
class KnownGrid:
    """`trials` in the fixed order, `minutes` and `losses` of each (NaN for arms other than `ARMS` and the control arm,
    which no verdict looks at), and the constant predictor's loss."""

    kind: str
    sizes: tuple[int, ...]
    constant: float
    trials: tuple[Trial, ...]
    minutes: dict[Trial, float]
    losses: dict[Trial, float]


def simulated(default: bool, seeds: int) -> Iterator[KnownGrid]:
    """Grids of three seeds and four to six sizes; with `default` as the notebook's, with control arm and repairs."""
    kind = "simulated, with control arm and repairs" if default else "simulated, two arms alone"
    for shape in TRUTHS:
        for old in OLD:
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                yield _simulate(kind, shape, old, seed, default)


def _simulate(kind: str, shape: str, old: str, seed: int, default: bool) -> KnownGrid:
    rng = np.random.default_rng([seed, *shape.encode(), *old.encode()])
    count, ratio = int(rng.integers(4, 7)), rng.choice([2.0, 2.5, 3.16])
    sizes = tuple(int(size) for size in np.round(10 ** rng.uniform(2, 3) * ratio ** np.arange(count)))
    constant = float(rng.choice([np.log(2), np.log(3) - 0.02]))
    new, deep = draw_curve(shape, rng, constant, sizes[0], sizes[-1])
    above, lag = rng.uniform(0, 0.03), rng.uniform(2, 6)
    first = {"flat": lambda n: constant + above + 0 * n, "same": new, "slower": lambda n: new(n / lag)}[old]
    noise, shared = 10 ** rng.uniform(np.log10(0.002), np.log10(0.02)), (rng.normal(0, 0.006), rng.normal(0, 0.02))
    trials = list_trials(ARMS, tuple(REPAIRS) if default else (), sizes, 3, default)

    def loss(trial: Trial) -> float:
        if trial.arm not in ARMS or trial.as_rows:
            return np.nan
        expected = float((new if trial.arm == ARMS[1] else first)(np.asarray(trial.rows, float)))
        learned = np.clip((constant - expected) / deep, 0, 1)  # as in `curves_simulated`
        return expected + (1 - learned) * shared[0] + learned * shared[1] + rng.normal(0, noise)

    minutes = _minutes(trials, sizes[-1], rng.uniform(*OVERHEAD))
    losses = {trial: loss(trial) for trial in trials}
    return KnownGrid(kind, sizes, constant + shared[0], tuple(trials), minutes, losses)


def recorded(folder: Path = FOLDER) -> Iterator[KnownGrid]:
    """Two curves of one data set each, neighbours in their file, as the two arms: the second is the one that is
    continued. Minutes that were not recorded are taken to grow with the rows."""
    for path in sorted(folder.glob("*.json")):
        curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
        pairs = [pair for pair in pairwise(curves) if pair[0]["data"] == pair[1]["data"]]
        for pair in pairs:
            yield _recorded(f"recorded, {path.stem}", *pair)


def _recorded(kind: str, old: dict, new: dict) -> KnownGrid:
    sizes, found, measured = tuple(new["rows"]), dict[Trial, float](), dict[Trial, float]()
    for arm, curve in zip(ARMS, (old, new)):
        for place, rows in enumerate(curve["rows"]):
            own = [Trial(arm, rows, seed) for seed in range(len(curve["losses"][place]))] if rows in sizes else []
            found |= dict(zip(own, curve["losses"][place]))
            measured |= dict(zip(own, curve["minutes"][place])) if "minutes" in curve else {}
    trials = [trial for trial in list_trials(ARMS, (), sizes, 5, False) if trial in found]
    minutes = measured or _minutes(trials, sizes[-1], float(np.mean(OVERHEAD)))
    return KnownGrid(kind, sizes, new["constant"], tuple(trials), minutes, found)


def _minutes(trials: list[Trial], largest: int, overhead: float) -> dict[Trial, float]:
    share = {trial: (trial.as_rows or trial.rows) / largest for trial in trials}
    return {trial: LARGEST_MINUTES * (overhead + (1 - overhead) * share[trial]) for trial in trials}
