"""Which members of a blend stay: those that are worth their place, judged on prompts that had no say in the weights."""

from dataclasses import dataclass

import numpy as np

from src_py.blend.rows import Rows
from src_py.evaluation.baselines import class_shares
from src_py.evaluation.blend import SMALLEST, fit_weights, logarithms, mix
from src_py.evaluation.metrics import standard_error

PULL = 10.0  # rows, towards equal weights
FEW_ROWS = 1500  # below, a good member's worth is often within noise
WORTH = 0.001  # nats: a member that brings less is not worth its computing time, however sure that is
WEAK = 0.3  # of the best member's signal: in a calibrated member, a tenth of the best one's gain


def signal(rows: Rows) -> np.ndarray:
    """By how many standard errors each member's logits point towards the labels, (members,).

    It is the score test of the member's weight beside the constant predictor: no matter how sure a member is of
    itself, it is around 0 where it knows nothing.
    """
    logs = logarithms(rows.predictions)
    shares = class_shares(rows.labels, logs.shape[1])
    towards = logs[np.arange(len(rows.labels)), rows.labels] - np.einsum("ncm,c->nm", logs, shares)
    errors = [standard_error(member, rows.prompt) for member in towards.T]
    return towards.mean(0) / np.maximum(errors, SMALLEST)


@dataclass(frozen=True)
class Judged:
    """A blend of some members.

    Args:
        chosen: numbers of the members.
        space: in which they are blended.
        weights: (members,) on all rows.
        of_part: (parts, members) their weights without each part.
        blended: (rows, classes) each row's blend, with the weights without its part.
        losses: (rows,) its log loss.
    """

    chosen: list[int]
    space: str
    weights: np.ndarray
    of_part: np.ndarray
    blended: np.ndarray
    losses: np.ndarray


def judge(rows: Rows, chosen: list[int], space: str, equal: bool = False) -> Judged:
    """The blend of the `chosen` members, with fitted or with equal weights."""
    members = [rows.predictions[:, :, member] for member in chosen]

    def weigh(where: np.ndarray) -> np.ndarray:
        if equal or not where.any():
            return np.full(len(chosen), 1 / len(chosen))
        return fit_weights([member[where] for member in members], rows.labels[where], space, PULL)

    every = np.ones(len(rows.labels), bool)
    of_part = np.array([weigh(rows.part != number) for number in rows.parts])
    return _held(rows, chosen, space, weigh(every), of_part)


def eliminate(rows: Rows, chosen: list[int], space: str, knows: np.ndarray) -> Judged:
    """Leave out one member after another, the one that costs least first, until each that stays is worth its place.

    A member leaves if that costs less than the standard error over prompts, and at most `WORTH`: where the rows cannot
    tell, a member of a few hundredths of a nat would else be lost. On fewer than `FEW_ROWS` rows it leaves only if
    that gains more than the standard error. A weak member has to prove its worth: it leaves unless that costs more
    than two standard errors. The costs of all that left may not add up to more than the limit for one.

    Args:
        knows: (members,) from `signal`.
    """
    weak = knows < WEAK * knows[chosen].max()
    now = best = judge(rows, chosen, space)
    while len(now.chosen) > 1:
        costs = {}
        for place, member in enumerate(now.chosen):
            without = _without(rows, now, place).losses
            if all(_may_leave(without - before.losses, rows.prompt, weak[member]) for before in (now, best)):
                costs[member] = without.mean()
        if not costs:
            break
        leaving = min(costs, key=lambda member: costs[member])
        now = judge(rows, [member for member in now.chosen if member != leaving], space)
        best = min(now, best, key=lambda one: one.losses.mean())
    return now


def _without(rows: Rows, blend: Judged, place: int) -> Judged:
    """The blend without one member, its weight shared among the others in proportion to theirs."""
    keep = np.arange(len(blend.chosen)) != place

    def share(weights: np.ndarray) -> np.ndarray:
        rest = weights[keep] if weights[keep].sum() > 0 else np.ones(keep.sum())
        return rest / rest.sum()

    chosen = [member for member, stays in zip(blend.chosen, keep) if stays]
    return _held(rows, chosen, blend.space, share(blend.weights), np.array([share(part) for part in blend.of_part]))


def _held(rows: Rows, chosen: list[int], space: str, weights: np.ndarray, of_part: np.ndarray) -> Judged:
    blended = np.empty(rows.predictions.shape[:2])
    for number, own in zip(rows.parts, of_part):
        where = rows.part == number
        blended[where] = mix([rows.predictions[where, :, member] for member in chosen], own, space)
    losses = -logarithms(blended[np.arange(len(rows.labels)), rows.labels])
    return Judged(chosen, space, weights, of_part, blended, losses)


def _may_leave(costs: np.ndarray, prompt: np.ndarray, weak: bool) -> bool:
    """Whether so little is lost, row by row, that it is not worth the members that have left."""
    noise = standard_error(costs, prompt)
    if weak:
        limit = 2 * noise
    else:
        limit = -noise if len(prompt) < FEW_ROWS else min(noise, WORTH)
    return costs.mean() <= limit
