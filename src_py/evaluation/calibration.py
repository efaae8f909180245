"""Calibration that travels: a temperature and a shift of ties that also suit groups which the fit has not seen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from src_py.errors import InputError

LOG_TEMPERATURES = (-2.5, 2.5)  # as `fit_temperature` looks: 0.08 to 12
TIE_SHIFTS = (-2.0, 2.0)
FEWEST_ROWS = 50  # to fit anything
LARGEST_GROUP = 0.75  # of the rows: without a larger one, too little is left to fit
FULL_GROUP = 30  # rows from which on a group counts as much as any other
PARTS = 5  # of the prompts, left out in turn where there are no groups
TIE = 2  # the class


@dataclass(frozen=True)
class Calibration:
    """softmax(log p / temperature + tie_shift on the tie class): a swap of A and B stays a swap of the first two."""

    temperature: float = 1.0
    tie_shift: float = 0.0

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (rows, classes).

        Raises:
            ValueError: a tie shift for probabilities of two classes.
        """
        if self == Calibration():
            return probabilities
        return softmax(self._logits(_logs(probabilities)), axis=1)

    def _logits(self, logs: np.ndarray) -> np.ndarray:
        logits = logs / self.temperature
        if self.tie_shift:
            if logits.shape[1] <= TIE:
                raise ValueError("A tie shift needs a tie class, but the probabilities have two classes.")
            logits[:, TIE] += self.tie_shift
        return logits

    def losses(self, logs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Log loss of every row, from logarithms of the probabilities."""
        return -log_softmax(self._logits(logs), axis=1)[np.arange(len(labels)), labels]


@dataclass(frozen=True)
class CalibrationChoice:
    """What `fit_calibration` chose.

    Args:
        calibration: fitted on all rows.
        reason: one sentence for the reader.
        table: by candidate: `temperature` and `tie shift` fitted on all rows; `log loss`, the mean over groups that
            were left out of the fit; `gain` against no calibration in nats, and its `standard error` over prompts.
            Empty where nothing was fitted.
    """

    calibration: Calibration
    reason: str
    table: pd.DataFrame


@dataclass(frozen=True)
class _Candidate:
    name: str
    level: int  # how rich; within a level the best is taken
    fitted: bool = True
    grouping: str = ""  # whose groups weigh the same; "": every row does
    tie: bool = False


def fit_calibration(
    probabilities: np.ndarray, labels: np.ndarray, groups: Mapping[str, np.ndarray], prompts: np.ndarray
) -> CalibrationChoice:
    """Choose between no calibration, a temperature, one for which all groups of a grouping weigh the same, and a
    temperature with a tie shift.

    Every candidate is fitted without one group and scored on it, for all groups of all groupings in turn. Groups weigh
    the same in the score, because new rows may come from a group of any size. A richer candidate replaces a simpler
    one only if it is better by more than the standard error of the difference over prompts.

    Args:
        probabilities: (rows, classes) of rows that the model was not trained on.
        labels: (rows,) class numbers.
        groups: by grouping, the group of every row, (rows,), as `pairs.calibration_groups` gives them. A grouping
            with three quarters of the rows in one group is not used: too few are left to fit. Where none is left,
            fifths of the prompts are left out instead.
        prompts: (rows,) the prompt of every row, as a number or text.

    Raises:
        InputError: probabilities that are not finite.
        ValueError: arrays of different lengths.
    """
    logs, labels, prompt = _checked(probabilities, labels, groups, prompts)
    if len(labels) < FEWEST_ROWS:
        return _nothing(f"{len(labels)} rows are too few to fit a calibration (fewer than {FEWEST_ROWS})")
    if len(np.unique(labels)) < 2:
        return _nothing(f"all {len(labels)} rows have label {labels[0]}, so that a calibration cannot be fitted")
    codes = {name: np.unique(group, return_inverse=True)[1] for name, group in groups.items()}
    codes = {n: code for n, code in codes.items() if np.bincount(code).max() <= LARGEST_GROUP * len(labels)}
    candidates = _candidates(codes, logs.shape[1] > TIE)
    left_out = codes or {"prompts": prompt % PARTS}
    losses = {candidate: _left_out_losses(candidate, logs, labels, codes, left_out) for candidate in candidates}
    means = {candidate: _mean(loss, left_out) for candidate, loss in losses.items()}
    chosen = candidates[0]
    for level in sorted({candidate.level for candidate in candidates[1:]}):
        best = min((c for c in candidates if c.level == level), key=lambda c: means[c])
        error = _standard_error(losses[chosen] - losses[best], left_out, prompt, by_group=level > 1)
        if means[chosen] - means[best] > error:
            chosen = best
    rows = {}
    for candidate in candidates:
        fitted = _fit(candidate, logs, labels, codes)
        error = _standard_error(losses[candidates[0]] - losses[candidate], left_out, prompt)
        gain = means[candidates[0]] - means[candidate]
        rows[candidate.name] = (fitted.temperature, fitted.tie_shift, means[candidate], gain, error)
    columns = ["temperature", "tie shift", "log loss", "gain", "standard error"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("calibration")
    calibration = _fit(chosen, logs, labels, codes)
    parts = "fifths of the prompts" if not codes else "groups by " + ", ".join(codes)
    return CalibrationChoice(calibration, _sentence(chosen.name, calibration, table, parts), table)


def _checked(probabilities, labels, groups, prompts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of the probabilities, labels, and numbers of the prompts."""
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    for name, values in {"labels": labels, "prompts": prompts, **groups}.items():
        if len(values) != len(probabilities):
            raise ValueError(f"{len(probabilities)} rows of probabilities, but {len(values)} of {name}.")
    bad = (~np.isfinite(probabilities).all(1)).sum()
    if bad:
        raise InputError(
            f"{bad} of {len(probabilities)} predictions are NaN or infinite, since the model has diverged; train it "
            "again with a lower learning rate, or in fp32."
        )
    return _logs(probabilities), labels, pd.factorize(np.asarray(prompts))[0]


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities, 1e-12, 1))


def _nothing(why: str) -> CalibrationChoice:
    return CalibrationChoice(Calibration(), f"No calibration: {why}.", pd.DataFrame())


def _candidates(groupings: Mapping[str, np.ndarray], ties: bool) -> list[_Candidate]:
    """From simple to rich."""
    weighted = [_Candidate(f"temperature, equal weight by {name}", 2, grouping=name) for name in groupings]
    tie = [_Candidate("temperature and tie shift", 3, tie=True)] if ties else []
    return [_Candidate("none", 0, fitted=False), _Candidate("temperature", 1), *weighted, *tie]


def _fit(candidate: _Candidate, logs: np.ndarray, labels: np.ndarray, codes: Mapping[str, np.ndarray]) -> Calibration:
    """The candidate with the least weighted log loss.

    A pull towards no calibration, as strong as one row, keeps predictions that are all right from T = 0.
    """
    if not candidate.fitted:
        return Calibration()
    weights = np.ones(len(labels))
    if candidate.grouping:
        code = codes[candidate.grouping]
        weights = 1 / np.maximum(np.bincount(code), FULL_GROUP)[code]
    weights, rows = weights / weights.sum(), np.arange(len(labels))

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        tempered = logs * np.exp(-x[0])
        logits = tempered.copy()
        if candidate.tie:
            logits[:, TIE] += x[1]
        known = log_softmax(logits, axis=1)
        residual = np.exp(known)
        residual[rows, labels] -= 1
        slopes = [-(weights @ (residual * tempered).sum(1)), weights @ residual[:, TIE] if candidate.tie else 0.0]
        slope = np.array(slopes[: len(x)]) + x / len(labels)
        return float(-(weights @ known[rows, labels]) + x @ x / (2 * len(labels))), slope

    size = 2 if candidate.tie else 1
    x = minimize(loss, np.zeros(size), jac=True, method="L-BFGS-B", bounds=(LOG_TEMPERATURES, TIE_SHIFTS)[:size]).x
    return Calibration(float(np.exp(x[0])), float(x[1]) if candidate.tie else 0.0)


def _left_out_losses(candidate: _Candidate, logs, labels, codes, left_out: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log loss (rows, groupings) of every row when its group was not in the fit."""
    losses = np.empty((len(labels), len(left_out)))
    for column, part in enumerate(left_out.values()):
        for group in np.unique(part):
            held, rest = part == group, part != group
            fitted = _fit(candidate, logs[rest], labels[rest], {name: code[rest] for name, code in codes.items()})
            losses[held, column] = fitted.losses(logs[held], labels[held])
    return losses


def _weights(left_out: Mapping[str, np.ndarray]) -> np.ndarray:
    """(rows, groupings), summing to 1: groupings weigh the same, and so do a grouping's groups (small ones less)."""
    columns = [1 / np.maximum(np.bincount(code), FULL_GROUP)[code] for code in left_out.values()]
    return np.stack([column / column.sum() for column in columns], axis=1) / len(columns)


def _mean(losses: np.ndarray, left_out: Mapping[str, np.ndarray]) -> float:
    return float((losses * _weights(left_out)).sum())


def _standard_error(differences, left_out: Mapping[str, np.ndarray], prompt: np.ndarray, by_group=False) -> float:
    """Of the weighted mean of differences (rows, groupings), with prompts as the units of the sample.

    Args:
        by_group: take the largest of this and of the standard errors with the groups of each grouping as the units.
    """
    weights = _weights(left_out)
    errors = [_clustered((weights * (differences - (weights * differences).sum())).sum(1), prompt)]
    for column, code in enumerate(left_out.values() if by_group else ()):
        own = weights[:, column] / weights[:, column].sum()
        errors.append(_clustered(own * (differences[:, column] - own @ differences[:, column]), code))
    return max(errors)


def _clustered(contributions: np.ndarray, unit: np.ndarray) -> float:
    """Standard error of a sum of centred contributions whose independent units are numbered by `unit`."""
    count = len(np.unique(unit))
    return float(np.sqrt((np.bincount(unit, contributions) ** 2).sum() * count / max(count - 1, 1)))


def _sentence(name: str, calibration: Calibration, table: pd.DataFrame, parts: str) -> str:
    if name == "none":
        others = table.drop(index="none")
        best = others["gain"].idxmax()
        gain, error = others["gain"][best], others["standard error"][best]
        change = f"saves only {gain:.4f}" if gain > 0 else f"costs {-gain:.4f}"
        return (
            f"No calibration: on left-out {parts}, the best candidate ({best}) {change} nats, "
            f"standard error {error:.4f}."
        )
    gain, error = table["gain"][name], table["standard error"][name]
    values = f"T = {calibration.temperature:.2f}"
    values += f", tie shift {calibration.tie_shift:+.2f}" if calibration.tie_shift else ""
    low, high = np.exp(LOG_TEMPERATURES)
    edge = calibration.temperature < low * 1.001 or calibration.temperature > high * 0.999
    values += ", the limit of the search" if edge else ""
    return (
        f"Calibration: {name} ({values}); on left-out {parts} the log loss is {table['log loss'][name]:.4f} where it "
        f"was {table['log loss']['none']:.4f} (gain {gain:+.4f}, standard error {error:.4f})."
    )
