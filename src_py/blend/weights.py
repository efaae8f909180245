"""Which members a blend has, their weights, and what its score is on prompts that had no say in them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from src_py.blend.elimination import FEW_ROWS, judge
from src_py.blend.rows import PARTS, Rows
from src_py.blend.search import KNOWS, Found, find
from src_py.blend.stacker import Stacker, fit_stacker
from src_py.evaluation.baselines import class_shares
from src_py.evaluation.blend import logarithms, mix
from src_py.evaluation.calibration import Calibration, CalibrationChoice, fit_calibration
from src_py.evaluation.metrics import standard_error

CALIBRATION_ROWS = 10_000  # for the honest score alone: the calibration is fitted five more times, and it is slow


@dataclass(frozen=True)
class Blend:
    """What is needed to blend the predictions of new rows.

    Args:
        weights: of the members that stay, summing to 1.
        space: "probabilities" (weighted mean) or "logits" (weighted geometric mean, made to sum to 1 again).
        stacker: applied last; None where it does not help.
    """

    weights: dict[str, float]
    space: str
    calibration: Calibration
    stacker: Stacker | None = None

    def apply(self, predictions: Mapping[str, np.ndarray], lengths: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (rows, classes) from those of the members; others than the blend's are not looked at.

        Swapping A and B in all members swaps the first two probabilities, to the last bit.

        Args:
            predictions: by member, (rows, classes).
            lengths: (rows, 2) of answers A and B, as in `choose_blend`; for a blend with a stacker.

        Raises:
            KeyError: a member of the blend has no predictions.
            ValueError: a blend with a stacker without lengths.
        """
        parts = [np.asarray(predictions[name], dtype=np.float64) for name in self.weights]
        blended = self.calibration.apply(mix(parts, np.array(list(self.weights.values())), self.space))
        if self.stacker is None:
            return blended
        if lengths is None:
            raise ValueError("The blend has a stacker, which needs the lengths of the answers.")
        return self.stacker.apply(blended, lengths)


@dataclass(frozen=True)
class BlendChoice:
    """What `choose_blend` chose.

    Args:
        blend: chosen and fitted on all rows.
        cross_fitted: (rows, classes) the honest blend: a row's was chosen, fitted and calibrated on other prompts.
        uncalibrated: (rows, classes) the same before calibration.
        same_rows: (rows, classes) the blend of the rows that it was fitted on: its score flatters.
        table: by member, in the given order: `log loss` and its `+-` (half of the 95 % interval, with prompts as
            independent), `weight`, `cost of leaving out` and its `+-` (`cost +-`): the log loss without the member
            minus that with it, both beside the other members that stay, on parts of the prompts that had no say.
        reason: what was chosen and why, in a few sentences.
    """

    blend: Blend
    cross_fitted: np.ndarray
    uncalibrated: np.ndarray
    same_rows: np.ndarray
    table: pd.DataFrame
    reason: str


def choose_blend(
    members: Mapping[str, np.ndarray],
    labels: np.ndarray,
    prompts: np.ndarray,
    groups: Mapping[str, np.ndarray],
    seed: int = 0,
    lengths: np.ndarray | None = None,
    calibrate: bool = True,
) -> BlendChoice:
    """Choose the members of a blend, the space in which they are blended, their weights, and a calibration.

    1. Of members with the same predictions the first stays, and of all only those whose logits clearly point towards
       the labels.
    2. Those that are not worth their place leave, one after another: see `eliminate`.
    3. Weighted means of probabilities and of logits go through this separately; the one with the lower log loss wins.
    4. Fitted weights replace equal ones only if they are better by more than the standard error of the difference.

    All of this is judged on fifths of the prompts that had no say in the weights. The whole of it is then repeated
    without each fifth, for `cross_fitted`.

    Args:
        members: by name, probabilities (rows, classes) of the same rows, from models that did not train on them.
        labels: (rows,) class numbers.
        prompts: (rows,) number of the prompt.
        groups: by grouping, the group of every row, (rows,); for `fit_calibration`.
        lengths: (rows, 2) of answers A and B, in any unit. With them, a stacker is tried; it stays if it is better by
            more than two standard errors.
        calibrate: whether to calibrate the blend.

    Raises:
        ValueError: no member, arrays of different lengths, or predictions that are not finite.
    """
    rows = Rows.of(members, labels, prompts, groups, seed, lengths)
    names = list(members)
    found = find(rows)
    calibration = _calibrate(found, rows) if calibrate else None
    blend = _blend(found, names, calibration)
    stacker, stacked = _stack(found, rows, blend.calibration)
    blend = replace(blend, stacker=stacker)
    same_rows = blend.apply(members, lengths)
    cross_fitted, uncalibrated = same_rows.copy(), _blend(found, names, None).apply(members)
    for number in rows.parts if len(rows.parts) > 1 else []:
        rest, held = rows.take(rows.part != number), rows.part == number
        other = find(rest)
        plain = _blend(other, names, None)
        fitted = _blend(other, names, _calibrate(other, rest, CALIBRATION_ROWS) if calibrate else None)
        fitted = replace(fitted, stacker=_stack(other, rest, fitted.calibration)[0])
        own = {name: predicted[held] for name, predicted in members.items()}
        uncalibrated[held] = plain.apply(own)
        cross_fitted[held] = fitted.apply(own, None if lengths is None else lengths[held])
    table = _table(found, rows, names, blend.weights)
    last = f"{calibration.reason if calibration else 'Not calibrated.'}{stacked}"
    reason = f"{_who(found, names)} {_weighing(found, rows)} {last}"
    return BlendChoice(blend, cross_fitted, uncalibrated, same_rows, table, reason)


def _stack(found: Found, rows: Rows, calibration: Calibration) -> tuple[Stacker | None, str]:
    """A stacker if it is worth it, and a sentence; judged on parts that had no say in it."""
    if rows.lengths is None or len(rows.parts) < 2:
        return None, ""
    held, every = calibration.apply(found.blend.blended), np.arange(len(rows.labels))
    gains = np.empty(len(held))
    for number in rows.parts:
        own, rest = np.flatnonzero(rows.part == number), rows.part != number
        stacker = fit_stacker(held[rest], rows.lengths[rest], rows.labels[rest])
        after = logarithms(stacker.apply(held[own], rows.lengths[own]))
        gains[own] = after[every[: len(own)], rows.labels[own]]
    gains -= logarithms(held)[every, rows.labels]
    gain, noise = gains.mean(), standard_error(gains, rows.prompt)
    change = f"{'saves' if gain > 0 else 'costs'} {abs(gain):.4f} nats (standard error {noise:.4f})"
    if gain <= 2 * noise:
        return None, f" No stacker: one on the lengths {change}."
    return fit_stacker(held, rows.lengths, rows.labels), f" A stacker on the lengths {change}."


def _calibrate(found: Found, rows: Rows, limit: int | None = None) -> CalibrationChoice:
    """Fitted on the blend with weights from other parts; on about `limit` rows, the same whole prompts each time."""
    held = found.blend.blended
    if limit and len(held) > limit:
        some = rows.prompt % -(-len(held) // limit) == 0
        held, rows = held[some], rows.take(some)
    return fit_calibration(held, rows.labels, rows.groups, rows.prompt)


def _blend(found: Found, names: list[str], calibration: CalibrationChoice | None) -> Blend:
    weights = {
        names[member]: weight for member, weight in zip(found.blend.chosen, found.blend.weights.tolist()) if weight
    }
    return Blend(weights, found.blend.space, calibration.calibration if calibration else Calibration())


def _who(found: Found, names: list[str]) -> str:
    """The sentence on who stays."""
    known = "No member is surely better than the constant predictor: " if found.signal < KNOWS else ""
    if len(names) == 1:
        return f"{known}there is one member." if known else "There is one member."
    sentence = f"{known}{len(found.blend.chosen)} of {len(names)} members stay"
    for why in dict.fromkeys(found.left_out.values()):
        left = [names[member] for member, own in found.left_out.items() if own == why]
        sentence += f"; left out, {why}: {', '.join(left)}"
    return sentence + "."


def _weighing(found: Found, rows: Rows) -> str:
    """The sentence on the weights and their space."""
    if len(found.blend.chosen) == 1:
        return "A single member needs no weights."
    if len(rows.parts) < 2:
        return f"Equal weights: the rows have fewer than {PARTS} prompts, too few to fit any."
    count = len(rows.labels)
    space = f"of {found.blend.space}, {found.space_gain:.4f} nats better than that of the other kind"
    if not found.equal:
        return (
            f"The mean {space}, has fitted weights: on {count:,} rows they save {found.gain:.4f} nats "
            f"against equal ones (standard error {found.noise:.4f})."
        )
    few = ", too few to tell" if count < FEW_ROWS else ""
    change = f"save only {found.gain:.4f}" if found.gain > 0 else f"cost {-found.gain:.4f}"
    return (
        f"The mean {space}, has equal weights: on {count:,} rows{few}, fitted ones {change} nats "
        f"(standard error {found.noise:.4f})."
    )


def _table(found: Found, rows: Rows, names: list[str], weights: Mapping[str, float]) -> pd.DataFrame:
    """The table of `BlendChoice`."""
    table = {}
    for (member, name), costs in zip(enumerate(names), _costs(found, rows)):
        losses = -logarithms(rows.predictions[np.arange(len(rows.labels)), rows.labels, member])
        half = [1.96 * standard_error(values, rows.prompt) for values in (losses, costs)]
        table[name] = (losses.mean(), half[0], weights.get(name, 0.0), costs.mean(), half[1])
    columns = ["log loss", "+-", "weight", "cost of leaving out", "cost +-"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("member")


def _costs(found: Found, rows: Rows) -> list[np.ndarray]:
    """By member, what the blend loses without it, (rows,): beside all others that stay. NaN where nothing is judged."""
    members = range(rows.predictions.shape[2])
    if len(rows.parts) < 2:
        return [np.full(len(rows.labels), np.nan) for _ in members]
    now, costs = found.blend, []
    for member in members:
        others = [other for other in now.chosen if other != member]
        if member not in now.chosen:
            costs.append(now.losses - judge(rows, [*now.chosen, member], now.space, found.equal).losses)
        else:
            without = judge(rows, others, now.space, found.equal).losses if others else _constant_losses(rows)
            costs.append(without - now.losses)
    return costs


def _constant_losses(rows: Rows) -> np.ndarray:
    """Log loss (rows,) of the class shares of the other parts."""
    losses = np.empty(len(rows.labels))
    for number in rows.parts:
        held = rows.part == number
        shares = class_shares(rows.labels[~held], rows.predictions.shape[1])
        losses[held] = -logarithms(shares)[rows.labels[held]]
    return losses
