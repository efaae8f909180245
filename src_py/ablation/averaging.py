"""What averaging the predictions of several seeds brings, from trials that were trained one by one."""

from itertools import combinations

import numpy as np
import pandas as pd

from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import Comparison, Group, mean_interval, row_losses

MODELS = 3  # averaged
MOST_SEEDS = 8  # looked at: 56 ways to choose three


def averaging_gain(
    problem: Problem, outcomes: dict[Trial, Outcome], group: Group, level: float = 0.95
) -> Comparison | None:
    """By how much the average of three seeds' probabilities has a lower log loss than one of them, measured on the
    stored predictions of a group of trials; None with fewer than three seeds that did not diverge."""
    part = problem.part(unseen=False)
    found = [row_losses(problem, o)[part] for t, o in outcomes.items() if (t.arm, t.rows, t.as_rows) == group]
    losses = [each for each in found if np.isfinite(each).all()][:MOST_SEEDS]
    if len(losses) < MODELS:
        return None
    return Comparison(*_gain(np.stack(losses), problem.prompts[part], level), len(losses))


def _gain(losses: np.ndarray, prompts: pd.Series, level: float) -> tuple[float, float, float]:
    """Mean over all choices of three of the (seeds, rows) losses, and its interval over prompts and seeds.

    How much seeds move it is known from leaving out one after the other (jackknife). So that three seeds suffice, that
    is done with pairs: to second order, the average of m models gains 1 - 1/m of what an endless number of them would.
    """
    seeds = range(len(losses))
    gain = np.mean([_of(losses[list(chosen)]) for chosen in combinations(seeds, MODELS)], axis=0)
    pairs = {pair: _of(losses[list(pair)]).mean() for pair in combinations(seeds, 2)}
    scale = (1 - 1 / MODELS) / (1 - 1 / 2)
    without = np.array([scale * np.mean([pairs[pair] for pair in pairs if seed not in pair]) for seed in seeds])
    off = (len(losses) - 1) * (without.mean() - without)
    return mean_interval(gain + off[:, None], prompts, level)


def _of(losses: np.ndarray) -> np.ndarray:
    """(rows,) mean loss of (models, rows), less the loss of their averaged probabilities."""
    return losses.mean(0) + np.log(np.exp(-losses).mean(0))
