"""The members, the space and the weights of a blend, found from the rows given and nothing else."""

from dataclasses import dataclass, replace

import numpy as np

from src_py.blend.elimination import Judged, eliminate, judge, signal
from src_py.blend.rows import Rows
from src_py.evaluation.blend import SPACES
from src_py.evaluation.metrics import standard_error

KNOWS = 3.0  # standard errors by which a member's logits have to point towards the labels
ALIKE = 1e-6  # the largest difference in probability up to which two members are one

COPY, IGNORANT, IDLE = "the same predictions as another", "says nothing about the labels", "not worth its place"


@dataclass(frozen=True)
class Found:
    """What `find` found.

    Args:
        blend: of the members that stay; with equal weights if those were chosen.
        equal: whether the weights are equal.
        gain, noise: what fitted weights save against equal ones in nats, and its standard error over prompts; NaN
            where none were fitted.
        space_gain: what the blend's space saves against the other in nats; NaN where there is no choice.
        left_out: by member's number, why.
        signal: of the best member, see `signal`.
    """

    blend: Judged
    equal: bool
    gain: float
    noise: float
    space_gain: float
    left_out: dict[int, str]
    signal: float = float("inf")


def find(rows: Rows) -> Found:
    """The blend that `choose_blend` describes, from these rows alone and not calibrated."""
    left_out = dict.fromkeys(_copies(rows.predictions), COPY)
    distinct = [member for member in range(rows.predictions.shape[2]) if member not in left_out]
    nan = float("nan")
    if len(rows.parts) < 2:
        return Found(judge(rows, distinct, SPACES[0], equal=True), True, nan, nan, nan, left_out)
    knows = signal(rows)
    best_known = float(knows[distinct].max())
    candidates = [member for member in distinct if knows[member] > min(KNOWS, best_known / 2)] or distinct
    left_out |= {member: IGNORANT for member in distinct if member not in candidates}
    found = [_in_space(rows, space, candidates, knows, left_out) for space in SPACES]
    best, other = sorted(found, key=lambda one: one.blend.losses.mean())
    if len(best.blend.chosen) == 1:  # it says the same in either space
        return replace(best, blend=replace(best.blend, space=SPACES[0]), signal=best_known)
    space_gain = float((other.blend.losses - best.blend.losses).mean())
    return replace(best, space_gain=space_gain, signal=best_known)


def _in_space(rows: Rows, space: str, candidates: list[int], knows: np.ndarray, left_out: dict[int, str]) -> Found:
    fitted = eliminate(rows, candidates, space, knows)
    left_out = left_out | {member: IDLE for member in candidates if member not in fitted.chosen}
    if len(fitted.chosen) == 1:
        return Found(fitted, True, float("nan"), float("nan"), float("nan"), left_out)
    equal = judge(rows, fitted.chosen, space, equal=True)
    gains = equal.losses - fitted.losses
    gain, noise = float(gains.mean()), standard_error(gains, rows.prompt)
    better = gain > noise
    return Found(fitted if better else equal, not better, gain, noise, float("nan"), left_out)


def _copies(predictions: np.ndarray) -> list[int]:
    """Members whose predictions an earlier one has."""
    members = range(predictions.shape[2])
    return [
        member
        for member in members
        if any(np.abs(predictions[:, :, member] - predictions[:, :, first]).max() <= ALIKE for first in range(member))
    ]
