"""Which members of a blend stay: those that are worth their place, judged on prompts that had no say in the weights."""

from dataclasses import dataclass

import numpy as np

from src_py.blend.fit import SMALLEST, Problem, logarithms
from src_py.evaluation.baselines import class_shares
from src_py.evaluation.metrics import standard_error

PULL = 30.0  # rows, towards equal weights; see `Problem`
EQUAL = 1e6  # rows: so strong a pull leaves nothing else
FEW_ROWS = 1500  # below, a good member's worth is often within noise, and equal weights are hard to beat
WORTH = 0.001  # nats: a member that brings less is not worth its computing time, however sure that is
WEAK = 0.3  # of the best member's signal: in a calibrated member, a tenth of the best one's gain


def signal(predictions: np.ndarray, labels: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """By how many standard errors each member's logits point towards the labels, (members,).

    It is the score test of the member's weight beside the constant predictor: no matter how sure a member is of
    itself, it is around 0 where it knows nothing.

    Args:
        predictions: (rows, classes, members).
    """
    logs = logarithms(predictions)
    shares = class_shares(labels, logs.shape[1])
    towards = logs[np.arange(len(labels)), labels] - np.einsum("ncm,c->nm", logs, shares)
    errors = [standard_error(member, prompt) for member in towards.T]
    return towards.mean(0) / np.maximum(errors, SMALLEST)


@dataclass(frozen=True)
class Staying:
    """A blend of some of the members.

    Args:
        chosen: their numbers.
        parameters: on all rows, as `Problem.fit` gives them.
        of_part: (parts, parameters) without each part.
        losses: (rows,) log loss with the parameters from the other parts.
    """

    chosen: list[int]
    parameters: np.ndarray
    of_part: np.ndarray
    losses: np.ndarray


def judge(problem: Problem, chosen: list[int], pull: float, start: np.ndarray | None = None) -> Staying:
    """The blend of the `chosen` members; fitted from `start` on."""
    parameters = problem.fit(chosen, pull, start)
    of_part = problem.without_parts(chosen, parameters, pull)
    return Staying(chosen, parameters, of_part, problem.held_losses(chosen, of_part))


def _losses_without(problem: Problem, staying: Staying, pull: float) -> list[np.ndarray]:
    """By place, the log loss (rows,) of the blend without that member, with parameters from the other parts. It is two
    steps from a fit: exact for members that are hardly missed, slightly too high for others."""
    losses = []
    for place, x in enumerate(problem.without_each(staying.chosen, staying.parameters, pull)):
        others = _without(staying.chosen, [place])
        losses.append(problem.held_losses(others, problem.without_parts(others, x, pull)))
    return losses


def eliminate(problem: Problem, chosen: list[int], knows: np.ndarray, prompt: np.ndarray) -> Staying:
    """Leave out one member after another, the one that costs least first, until each that stays is worth its place.

    A member leaves if that costs less than the standard error over prompts, and at most `WORTH`: where the rows cannot
    tell, a member of a few hundredths of a nat would else be lost. On fewer than `FEW_ROWS` rows it leaves only if
    that gains more than the standard error. A weak member has to prove its worth: it leaves unless that costs more
    than two standard errors. What all that left cost together may not be more than the limit for the last.

    Args:
        knows: (members,) from `signal`.
    """
    weak = knows < WEAK * knows[chosen].max()
    few = len(prompt) < FEW_ROWS
    now = best = judge(problem, list(chosen), PULL)
    while len(now.chosen) > 1:
        best = min(best, now, key=lambda staying: staying.losses.mean())
        places = range(len(now.chosen))
        # One without any weight costs nothing, and so do all such members together.
        leaving = [place for place in places if now.parameters[place] == 0 and not now.of_part[:, place].any()]
        if not leaving:
            without = _losses_without(problem, now, PULL)
            leaving = [
                place
                for place in places
                if _may_leave(without[place] - now.losses, prompt, weak[now.chosen[place]], few)
                and _may_leave(without[place] - best.losses, prompt, weak[now.chosen[place]], few)
            ]
            leaving = sorted(leaving, key=lambda place: without[place].mean())[:1]
        if not leaving:
            break
        now = judge(problem, _without(now.chosen, leaving), PULL)
    return now


def _without(chosen: list[int], places: list[int]) -> list[int]:
    return [member for place, member in enumerate(chosen) if place not in places]


def _may_leave(costs: np.ndarray, prompt: np.ndarray, weak: bool, few: bool) -> bool:
    """Whether so little is lost, row by row, that it is not worth the members that have left."""
    noise = standard_error(costs, prompt)
    if weak:
        limit = 2 * noise
    else:
        limit = -noise if few else min(noise, WORTH)
    return costs.mean() <= limit
