"""Which trial to run next: the one that narrows the question most for its minutes.

The question is that of the answer: whether the last arm is better than the first (the code), and what twice the data
would bring the last arm. Learning curves fitted to what is there say how much of the doubt each further trial is
expected to remove; a part of the question that is settled asks for no more trials.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from src_py.ablation.curves import LearningCurve, fit_curve, interval
from src_py.ablation.grid_settings import GridSettings
from src_py.ablation.problem import Problem, Trial
from src_py.ablation.results import baselines

OPENING = 3  # sizes that both arms are trained at before anything is chosen: a curve needs as many
SURE = 0.95
CONFIRMED = 2  # seeds at the largest size: a verdict that rests on one of them may be chance
CLIPPED = 0.01  # of the draws on each side: their tails would decide about correlations


@dataclass(frozen=True)
class Question:
    """What the trials are to answer.

    Attributes:
        arms: the first and the last are compared; the last one's curve is continued.
        sizes: numbers of training rows that lie on one curve, ascending.
        constant: log loss of the constant predictor.
    """

    arms: tuple[str, ...]
    sizes: tuple[int, ...]
    constant: float

    def choose(self, waiting: list[Trial], losses: Mapping[Trial, float], minutes: Mapping[Trial, float]) -> Trial:
        """The trial of `waiting` to run next; it depends on nothing but the arguments.

        First the arms with their first seed at the smallest sizes, then the last arm at its others, so that there soon
        is an answer; then what removes most doubt a minute. When all is settled, the first of `waiting`.

        Args:
            waiting: in the order in which they would be run otherwise.
            losses: log loss of each finished trial, NaN where it diverged.
            minutes: predicted, of each that waits.
        """
        new = self.arms[-1]
        asked = [trial for trial in waiting if self._asks(trial)]
        first = [trial for trial in asked if trial.seed == 0]
        opening = [trial for trial in first if trial.rows in self.sizes[:OPENING]] or [t for t in first if t.arm == new]
        if opening:
            return opening[0]
        candidates: dict[tuple[str, int], Trial] = {}
        for trial in asked:
            candidates.setdefault((trial.arm, trial.rows), trial)
        worth = self._worth(list(candidates), losses) if candidates else {}
        rates = {candidates[group]: value / max(minutes[candidates[group]], 1e-6) for group, value in worth.items()}
        return max(rates, key=lambda trial: rates[trial], default=waiting[0])

    def _asks(self, trial: Trial) -> bool:
        return trial.arm in (self.arms[0], self.arms[-1]) and trial.rows in self.sizes and not trial.as_rows

    def _worth(self, groups: list[tuple[str, int]], losses: Mapping[Trial, float]) -> dict[tuple[str, int], float]:
        """How much of the doubt one more trial of each arm and size is expected to remove, on a log scale, as what
        several trials remove multiplies; without those that concern what is settled."""
        removed = np.zeros(len(groups))
        old, new = self._fit(self.arms[0], losses), self._fit(self.arms[-1], losses)
        largest = self.sizes[-1]
        again = (self.arms[-1], largest) in groups
        if new and not self._settled(new, again):
            here, twice = new.draw([largest, 2 * largest]).T
            for number, share in _shares(new, twice - here, self.arms[-1], groups):
                removed[number] -= np.log1p(-share)
        if old and new and len(self.arms) > 1:
            ends = {self.arms[0]: old.draw([largest])[:, 0], self.arms[-1]: new.draw([largest])[:, 0]}
            if not _differ(*ends.values()):
                total = sum(_clip(end).var() for end in ends.values()) + 1e-18
                for (arm, end), law in zip(ends.items(), (old, new)):
                    for number, share in _shares(law, end, arm, groups):
                        removed[number] -= np.log1p(-share * _clip(end).var() / total)
        return {group: float(value) for group, value in zip(groups, removed) if value > 0}

    def _settled(self, law: LearningCurve, again: bool) -> bool:
        """Whether the curve tells what twice the data bring, with `CONFIRMED` seeds at the largest size, unless there
        is no further trial of that size."""
        reached = law.largest == self.sizes[-1] and law.verdict != "cannot tell"
        return reached and (law.measured.counts[-1] >= CONFIRMED or not again)

    def _fit(self, arm: str, losses: Mapping[Trial, float]) -> LearningCurve | None:
        own = [(trial.rows, loss) for trial, loss in losses.items() if trial.arm == arm and self._asks(trial)]
        known = sorted((rows, loss) for rows, loss in own if np.isfinite(loss))  # whatever order they finished in
        return _fit_curve(tuple(known), self.constant)


def ask(problem: Problem, grid: GridSettings, sizes: tuple[int, ...]) -> Question | None:
    """What the grid's trials are to answer; None where they are to run in the fixed order. Sizes that hold rows of
    extra files are no part of it, as they lie on no curve with the others."""
    own = problem.blocks[0] if problem.blocks else len(problem.train)
    on_curve = tuple(size for size in sizes if size <= own)
    if grid.order == "fixed" or grid.preset == "levers" or not on_curve:
        return None
    return Question(grid.arms, on_curve, float(baselines(problem)["constant predictor"].mean()))


@lru_cache(maxsize=4)  # a trial of one arm leaves the other's curve as it is
def _fit_curve(known: tuple[tuple[int, float], ...], constant: float) -> LearningCurve | None:
    rows, losses = np.array(known, float).reshape(-1, 2).T
    return fit_curve(rows, losses, constant)


def _shares(law: LearningCurve, answer: np.ndarray, arm: str, groups: list[tuple[str, int]]) -> list[tuple[int, float]]:
    """For each of the arm's groups its number, and the share of the variance of `answer` (draws,) that the loss of one
    more model there is expected to remove, as if both were normal: their squared correlation."""
    own = [number for number, group in enumerate(groups) if group[0] == arm]
    if not own:
        return []
    rows = np.array([groups[number][1] for number in own], float)
    noise = np.random.default_rng(2).normal(size=(len(answer), len(own)))
    seen = _clip(law.draw(rows) + law.spread(rows) * noise)
    seen, asked = seen - seen.mean(0), _clip(answer)[:, None] - _clip(answer).mean()
    shares = (seen * asked).mean(0) ** 2 / ((seen**2).mean(0) * (asked**2).mean() + 1e-18)
    return list(zip(own, shares.clip(0, 0.999)))


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether draws of two arms surely differ."""
    rng = np.random.default_rng(3)
    count = min(len(first), len(second))
    found = interval(rng.permutation(first)[:count] - rng.permutation(second)[:count], SURE)
    return found.low > 0 or found.high < 0


def _clip(draws: np.ndarray) -> np.ndarray:
    return draws.clip(*np.quantile(draws, [CLIPPED, 1 - CLIPPED], axis=0))
