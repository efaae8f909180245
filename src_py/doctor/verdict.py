"""After training: did it learn? A name and a sentence, from figures with intervals."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.doctor.reported import by_heart as learned_by_heart
from src_py.doctor.reported import not_as_reported, unstable
from src_py.doctor.settings import setting
from src_py.errors import InputError
from src_py.evaluation.banner import LEAST_PROMPTS
from src_py.evaluation.baselines import at_shares_of, class_shares, constant_log_loss, length_only
from src_py.pairs.contest import TEXT_COLUMNS

RESAMPLES = 2000
NAMES = (
    "learned",
    "learned little more than answer length",
    "learned little more than the counts",
    "constant predictor",
    "overfitted",
    "worse than the constant predictor",
    "unstable",
    "not what was evaluated",
    "not enough rows to tell",
    "not checked",
)
# Below the counts alone, in nats: less may be surely there on many rows, and is still nothing.
LEAST_READING = 0.003
NO_SPREAD = 0.02  # standard deviation over rows, mean of the classes: predictions that tell no rows apart


class _AtSameShares(NamedTuple):
    """Model and baselines compared once more, all of them with the class shares of the validation rows: a model that
    knows only that these have other shares than the training rows has learned nothing of a pair."""

    constant: float
    over_constant: tuple[float, float]
    length: float | None = None
    length_gain: float | None = None
    over_length: tuple[float, float] | None = None


@dataclass
class Verdict:
    """`name` is one of `NAMES`; `sentence` says why; the figures are log losses in nats. `counts` is of the counts of
    length and format that the model has beside the text; None without any. `length_only` is None where the rows are no
    pairs of answers; of what cannot be judged all figures are NaN. `constant` always predicts the training rows' class
    shares; for `learned`, a model has to tell more than a constant predictor with those of the validation rows, too."""

    name: str
    sentence: str
    model: float
    constant: float
    length_only: float | None
    over_constant: tuple[float, float]
    over_length: tuple[float, float] | None
    counts: float | None = None
    over_counts: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.name.upper()}: {self.sentence}"

    @property
    def table(self) -> pd.DataFrame:
        rows: dict[str, tuple] = {}
        if self.name != "not checked":
            rows["model"] = (self.model, "", "")
        if self.length_only is not None and self.over_length is not None:
            rows["length-only logistic regression"] = (self.length_only, *self._form(self.over_length))
        if self.name != "not checked":
            rows["constant predictor"] = (self.constant, *self._form(self.over_constant))
        if self.counts is not None and self.over_counts is not None:
            rows["counts of length and format alone"] = (self.counts, *self._form(self.over_counts))
        columns = ["log loss", "model better by at least", "at most"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(4)

    @property
    def lines(self) -> dict[str, float]:
        """Log losses to compare a curve with."""
        lines = {"constant predictor": self.constant}
        lines |= {} if self.length_only is None else {"length only": self.length_only}
        return lines if self.counts is None else lines | {"counts alone": self.counts}

    @staticmethod
    def _form(interval: tuple[float, float]) -> tuple[str, str]:
        return f"{interval[0]:+.4f}", f"{interval[1]:+.4f}"


def judge_training(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    probabilities: np.ndarray,
    prompts: pd.Series | None = None,
    history: pd.DataFrame | None = None,
    counts: np.ndarray | None = None,
    trainer=None,
) -> Verdict:
    """Say whether a model learned. Of labels that are not one class a row it says that they are not checked.

    Args:
        train, valid: tables from `load_pairs`, or any with a column `label` of class numbers; without two answers the
            comparison with their lengths is left out.
        probabilities: the model's for `valid`, (rows, classes).
        prompts: one key a validation row; rows with the same prompt are resampled together. None: every row is alone.
        history: from `history_table`; without it, overfitting and instability show only in the figures.
        counts: (rows, classes) probabilities of the counts of length and format alone, from `without_text`, where the
            model has them beside the text: it starts there, and has to beat them.
        trainer: whose settings the advice names; without it those of CFG.

    Raises:
        InputError: when rows, probabilities and prompts are not equally many.
        ValueError: when rows of probabilities do not sum to 1.
    """
    if why := _no_classes(train, valid, probabilities):
        nothing = float("nan")
        return Verdict("not checked", why, nothing, nothing, None, (nothing, nothing), None)
    prompts = pd.Series(np.arange(len(valid))) if prompts is None else prompts
    labels, classes = valid["label"].to_numpy(), probabilities.shape[1]
    if not len(labels) == len(probabilities) == len(prompts):
        raise InputError(
            f"`valid` has {len(labels):,} rows, and there are {len(probabilities):,} predictions and {len(prompts):,} "
            "prompts: pass the table that was predicted, and one prompt a row."
        )
    sums = probabilities.sum(1)
    if np.isfinite(sums).all() and np.abs(sums - 1).max(initial=0) > 1e-3:
        raise ValueError(f"Probabilities of a row sum to {sums.min():.3f} to {sums.max():.3f}, not to 1.")
    rows = np.arange(len(labels))
    # A class that training has never seen gets a row's share, so that the figures stay finite.
    shares = class_shares(train["label"], classes).clip(1 / (len(train) + 1))
    losses = {
        "model": -np.log(probabilities[rows, labels].clip(1e-15)),
        "constant": -np.log(shares.clip(1e-15))[labels],
    }
    over_constant = interval(losses["constant"] - losses["model"], prompts)
    over_length = None
    lengths = None
    if set(TEXT_COLUMNS) <= set(train) & set(valid):
        lengths = length_only(train, valid, classes)
        losses["length"] = -np.log(lengths[rows, labels])
        over_length = interval(losses["length"] - losses["model"], prompts)
    over_counts = None
    if counts is not None:
        losses["counts"] = -np.log(counts[rows, labels].clip(1e-15))
        over_counts = interval(losses["counts"] - losses["model"], prompts)
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    spread = float(probabilities.std(0).mean())
    sizes = len(labels), pd.Series(np.asarray(prompts, dtype=object)).nunique()
    terms = partial(setting, trainer)
    broken = int((~np.isfinite(probabilities).all(1)).sum())
    alike = _at_same_shares(labels, probabilities, lengths, prompts)
    name, why = _decide(means, over_constant, over_length, over_counts, alike, spread, history, *sizes, terms)
    error = float(losses["model"].std() / np.sqrt(len(rows)))
    if history is not None and name != "unstable":
        accuracy = float((probabilities.argmax(1) == labels).mean())
        if other := not_as_reported(history, means["model"], error, accuracy, len(rows)):
            name, why = "not what was evaluated", other
    if broken:
        name, why = (
            "unstable",
            f"{broken:,} of {len(rows):,} predictions are NaN or infinite: the model diverged; lower {terms('lr')}.",
        )
    elif absent := sorted(set(labels) - set(train["label"])):
        # Almost anything beats a constant predictor that rules out what happens.
        name = "not enough rows to tell"
        why = f"labels {', '.join(map(str, absent))} occur in validation only: check the labels and the split."
    figures = means["model"], means["constant"], means.get("length"), over_constant, over_length
    return Verdict(name, why, *figures, means.get("counts"), over_counts)


def interval(gains: np.ndarray, groups: pd.Series, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean gain; whole groups (prompts) are resampled, since their rows are alike."""
    codes = pd.factorize(np.asarray(groups))[0]
    sums, counts = np.bincount(codes, weights=gains), np.bincount(codes)
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _no_classes(train: pd.DataFrame, valid: pd.DataFrame, probabilities: np.ndarray | None) -> str | None:
    """Why nothing can be said: what is judged are probabilities of classes, one a row; None if they are."""
    shape = np.shape(probabilities) if probabilities is not None else ()
    if len(shape) != 2 or shape[1] < 2:
        return f"only probabilities of classes are judged, (rows, classes), and these have the shape {shape}."
    for labels in (train["label"], valid["label"]):
        if not np.issubdtype(labels.dtype, np.integer):
            return f"only classes, one a row, are judged, and labels are {labels.dtype}."
        if labels.min() < 0 or labels.max() >= shape[1]:
            return f"labels are {labels.min()} to {labels.max()}, and there are {shape[1]} classes of probabilities."
    return None


def _at_same_shares(labels: np.ndarray, model: np.ndarray, lengths: np.ndarray | None, prompts) -> _AtSameShares:
    def loss(probabilities: np.ndarray) -> np.ndarray:
        return -np.log(at_shares_of(labels, probabilities)[np.arange(len(labels)), labels].clip(1e-15))

    def over(losses: np.ndarray) -> tuple[float, float]:
        return interval((losses - own).round(9), prompts)  # rounding errors are no gain

    best = max(0.0, constant_log_loss(labels, labels, model.shape[1]))  # of a single class it is -0.0
    if not np.isfinite(model).all():
        return _AtSameShares(best, (np.nan, np.nan))
    own, constant = loss(model), -np.log(class_shares(labels, model.shape[1])[labels])
    if lengths is None:
        return _AtSameShares(best, over(constant))
    length = loss(lengths)
    return _AtSameShares(best, over(constant), float(length.mean()), float((length - own).mean()), over(length))


def _decide(
    means, over_constant, over_length, over_counts, alike: _AtSameShares, spread, history, rows, prompts, terms
) -> tuple[str, str]:
    better = (
        f"log loss {means['model']:.4f} against {means['constant']:.4f} of the constant predictor, "
        f"a gain of {over_constant[0]:+.4f} to {over_constant[1]:+.4f} (95 %)"
    )
    if not np.isfinite(means["model"]) or (history is not None and unstable(history, means["constant"], over_constant)):
        advice = f"the validation loss broke out during training; lower {terms('lr')}"
        return "unstable", f"{advice}. Best weights: {better}."
    low, high = min(over_constant[0], alike.over_constant[0]), min(over_constant[1], alike.over_constant[1])
    if over_constant[0] > 0 >= alike.over_constant[0]:
        # The constant predictor has the shares of the training rows: another one may be as good as the model.
        better += (
            f"; with the class shares of the validation rows, a constant predictor has {alike.constant:.4f}, and over "
            f"it the model with these shares gains {alike.over_constant[0]:+.4f} to {alike.over_constant[1]:+.4f}"
        )
    if prompts < LEAST_PROMPTS:
        return "not enough rows to tell", f"{better}, on {prompts} prompts only; validate on more."
    by_heart = history is not None and learned_by_heart(history, means["constant"])
    if low <= 0 and by_heart:
        advice = f"use more rows, lower {terms('epochs')}, or raise {terms('freeze_layers')}"
        return "overfitted", f"{better}: it learned its rows by heart; {advice}."
    if alike.over_constant[0] <= 0 and spread < NO_SPREAD:
        return "constant predictor", f"{better}: nothing was learned; see {terms('table')}."
    if alike.constant == 0:
        return "not enough rows to tell", f"{better}: all validation rows have the same label; check the split."
    if over_constant[1] < 0:
        if history is not None:
            advice = "it is overconfident, or labels and columns of the predictions do not belong together"
            return (
                "worse than the constant predictor",
                f"{better}, though it did not learn its rows by heart: {advice}.",
            )
        return "overfitted", f"{better}: it is overconfident; whether it learned rows by heart, its history would say."
    if low > 0:
        if over_length is None or alike.over_length is None:
            return "learned", f"{better}."
        length = f"answer length alone ({means['length']:.4f})"
        if over_counts is not None and means["model"] < means["length"]:
            return _beyond_counts(better, means, over_counts, terms)
        if min(over_length[0], alike.over_length[0]) > 0:
            return "learned", f"{better}, and better than {length}."
        # Few rows make the interval wide: then length alone may explain it, but nothing says that it does.
        if min(means["length"] - means["model"], alike.length_gain) > 0.005:
            return (
                "learned",
                f"{better}, and on these rows better than {length}, though more rows are needed to show it.",
            )
        return (
            "learned little more than answer length",
            f"{better}, but a regression on lengths alone has {means['length']:.4f}, and {alike.length:.4f} with the "
            f"class shares of the validation rows; raise {terms('epochs')}, or train on more rows.",
        )
    if high < 0.01:
        return "constant predictor", f"{better}: nothing was learned; see {terms('table')}."
    return "not enough rows to tell", f"{better} on {rows} rows: the interval includes zero; validate on more rows."


def _beyond_counts(better: str, means: dict, over_counts: tuple[float, float], terms) -> tuple[str, str]:
    """The verdict on a model that started from counts, and so is better than the constant predictor before it reads."""
    alone = f"the counts of length and format alone ({means['counts']:.4f})"
    gain = means["counts"] - means["model"]
    if over_counts[0] > 0 and gain >= LEAST_READING:
        return "learned", f"{better}, and better than {alone}."
    if gain >= 0.005:
        # Of the checkpoints the best on these rows was kept: on few rows chance alone finds one that looks better.
        return (
            "not enough rows to tell",
            f"{better}, and {gain:.4f} better than {alone}, which so few rows cannot tell from chance: validate on "
            "more rows.",
        )
    return (
        "learned little more than the counts",
        f"{better}, but not better than {alone}: the encoder adds nothing to them; see {terms('table')}, raise "
        f"{terms('epochs')}, or train on more rows.",
    )
