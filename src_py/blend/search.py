"""The members, the space and the weights of a blend, found from the rows given and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import softmax

from src_py.blend.elimination import EQUAL, Staying, eliminate, judge, signal
from src_py.blend.fit import SPACES, Problem, logarithms
from src_py.evaluation.blend import mix
from src_py.evaluation.metrics import standard_error
from src_py.pairs.split import grouped_folds

PARTS = 5  # of the prompts: each is left out in turn
KNOWS = 3.0  # standard errors by which a member's logits have to point towards the labels, or half of the best's
ALIKE = 1e-6  # the largest difference in probability up to which two members are one

COPY, IGNORANT, IDLE = "the same predictions as another", "says nothing about the labels", "not worth its place"


@dataclass(frozen=True)
class Rows:
    """What a blend is fitted on.

    Args:
        predictions: (rows, classes, members).
        labels, prompt: (rows,) class numbers, and numbers of the prompts from 0 on.
        groups: by grouping, the group of every row, (rows,).
        part: (rows,) number of the part, of which each is left out in turn; a prompt's rows are in one.
        lengths: (rows, 2) of answers A and B, if known.
    """

    predictions: np.ndarray
    labels: np.ndarray
    prompt: np.ndarray
    groups: Mapping[str, np.ndarray]
    part: np.ndarray
    lengths: np.ndarray | None = None

    @classmethod
    def of(cls, members: Mapping[str, np.ndarray], labels, prompts, groups, seed: int, lengths=None) -> "Rows":
        """Raises: ValueError, as `choose_blend` says."""
        if not members:
            raise ValueError("A blend needs at least one member.")
        arrays = {name: np.asarray(predicted, dtype=np.float64) for name, predicted in members.items()}
        shape = next(iter(arrays.values())).shape
        for name, predicted in arrays.items():
            if predicted.shape != shape:
                raise ValueError(f"Member {name} has predictions of shape {predicted.shape}, the first of {shape}.")
            if bad := int((~np.isfinite(predicted).all(1)).sum()):
                raise ValueError(f"Member {name} has no finite prediction for {bad} of {shape[0]} rows.")
        given = {"labels": labels, "prompts": prompts, **groups} | ({} if lengths is None else {"lengths": lengths})
        for name, values in given.items():
            if len(values) != shape[0]:
                raise ValueError(f"{shape[0]} rows of predictions, but {len(values)} of {name}.")
        labels, prompt = np.asarray(labels), pd.factorize(np.asarray(prompts))[0]
        part = np.zeros(len(labels), dtype=np.int64)
        if len(np.unique(prompt)) >= PARTS:
            part = grouped_folds(labels, prompt, PARTS, seed)
        groups = {name: np.asarray(group) for name, group in groups.items()}
        lengths = None if lengths is None else np.asarray(lengths)
        return cls(np.stack(list(arrays.values()), axis=2), labels, prompt, groups, part, lengths)

    @property
    def parts(self) -> np.ndarray:
        """Numbers of the parts: one alone where there are too few prompts to judge by."""
        return np.unique(self.part)

    def take(self, where: np.ndarray) -> "Rows":
        """Some of the rows."""
        groups = {name: group[where] for name, group in self.groups.items()}
        lengths = None if self.lengths is None else self.lengths[where]
        return Rows(self.predictions[where], self.labels[where], self.prompt[where], groups, self.part[where], lengths)

    def problem(self, space: str) -> Problem:
        """Of finding weights in that space."""
        return Problem(self.predictions, self.labels, self.part, space)


@dataclass(frozen=True)
class Found:
    """What `find` found.

    Args:
        staying: the members that stay; with their equal weights if those were chosen.
        space: of `SPACES`.
        equal: whether the weights are equal.
        gain, noise: what fitted weights save against equal ones in nats, and its standard error over prompts; NaN
            where none were fitted.
        space_gain: what `space` saves against the other in nats; NaN where there is no choice.
        left_out: by member's number, why.
        signal: by how many standard errors the logits of the best member point towards the labels.
    """

    staying: Staying
    space: str
    equal: bool
    gain: float
    noise: float
    space_gain: float
    left_out: dict[int, str]
    signal: float = float("inf")

    @property
    def weights(self) -> np.ndarray:
        """Of the members that stay, summing to 1."""
        return self._weights(self.staying.parameters)

    def held(self, rows: Rows) -> np.ndarray:
        """(rows, classes) the blend of each of the rows it was found on, with weights from the other parts; its
        members were chosen on all of them."""
        blended = np.empty(rows.predictions.shape[:2])
        for number, parameters in zip(rows.parts, self.staying.of_part):
            where = rows.part == number
            chosen = [rows.predictions[where, :, member] for member in self.staying.chosen]
            blended[where] = weighted(chosen, self._weights(parameters), self.space)
        return blended

    def _weights(self, parameters: np.ndarray) -> np.ndarray:
        count = len(self.staying.chosen)
        weights = parameters[:count]
        if self.equal or weights.sum() <= 0:
            return np.full(count, 1 / count)
        return weights / weights.sum()


def weighted(predictions: list[np.ndarray], weights: np.ndarray, space: str) -> np.ndarray:
    """The weighted mean, (rows, classes), of probabilities or, made to sum to 1 again, of their logarithms."""
    if space == "probabilities":
        return mix(predictions, weights)
    return softmax(mix([logarithms(predicted) for predicted in predictions], weights), axis=1)


def find(rows: Rows) -> Found:
    """The blend that `choose_blend` describes, from these rows alone and not calibrated."""
    left_out = dict.fromkeys(_copies(rows.predictions), COPY)
    distinct = [member for member in range(rows.predictions.shape[2]) if member not in left_out]
    nan = float("nan")
    if len(rows.parts) < 2:
        problem = rows.problem(SPACES[0])
        x = problem.start(distinct)
        losses = problem.held_losses(distinct, x[None])
        return Found(Staying(distinct, x, x[None], losses), SPACES[0], True, nan, nan, nan, left_out)
    knows = signal(rows.predictions, rows.labels, rows.prompt)
    best_known = float(knows[distinct].max())
    candidates = [member for member in distinct if knows[member] > min(KNOWS, best_known / 2)] or distinct
    left_out |= {member: IGNORANT for member in distinct if member not in candidates}
    found = [_in_space(rows, space, candidates, knows, left_out) for space in SPACES]
    best, other = sorted(found, key=lambda one: one.staying.losses.mean())
    if len(best.staying.chosen) == 1:  # it says the same in either space
        return replace(best, space=SPACES[0], signal=best_known)
    space_gain = float((other.staying.losses - best.staying.losses).mean())
    return replace(best, space_gain=space_gain, signal=best_known)


def _in_space(rows: Rows, space: str, candidates: list[int], knows: np.ndarray, left_out: dict[int, str]) -> Found:
    problem = rows.problem(space)
    fitted = eliminate(problem, candidates, knows, rows.prompt)
    left_out = left_out | {member: IDLE for member in candidates if member not in fitted.chosen}
    if len(fitted.chosen) == 1:
        return Found(fitted, space, True, float("nan"), float("nan"), float("nan"), left_out)
    equal = judge(problem, fitted.chosen, EQUAL)
    gains = equal.losses - fitted.losses
    gain, noise = float(gains.mean()), standard_error(gains, rows.prompt)
    better = gain > noise
    return Found(fitted if better else equal, space, not better, gain, noise, float("nan"), left_out)


def _copies(predictions: np.ndarray) -> list[int]:
    """Members whose predictions an earlier one has."""
    members = range(predictions.shape[2])
    return [
        member
        for member in members
        if any(np.abs(predictions[:, :, member] - predictions[:, :, first]).max() <= ALIKE for first in range(member))
    ]
