"""After training: did it learn? A name and a sentence, from figures with intervals."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src_py.evaluation.baselines import class_shares, length_only

RESAMPLES = 2000


@dataclass
class Verdict:
    """`name` is one of the six; `sentence` says why; the figures are log losses in nats."""

    name: str
    sentence: str
    model: float
    constant: float
    length_only: float
    over_constant: tuple[float, float]
    over_length: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.name.upper()}: {self.sentence}"

    @property
    def table(self) -> pd.DataFrame:
        rows = {
            "model": (self.model, "", ""),
            "length-only logistic regression": (self.length_only, *self._form(self.over_length)),
            "constant predictor": (self.constant, *self._form(self.over_constant)),
        }
        columns = ["log loss", "model better by at least", "at most"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(4)

    @staticmethod
    def _form(interval: tuple[float, float]) -> tuple[str, str]:
        return f"{interval[0]:+.4f}", f"{interval[1]:+.4f}"


def judge_training(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    probabilities: np.ndarray,
    prompts: pd.Series,
    history: pd.DataFrame | None = None,
) -> Verdict:
    """Say whether a model learned.

    Args:
        train, valid: tables from `load_pairs`.
        probabilities: the model's for `valid`, (rows, classes).
        prompts: one key a validation row; rows with the same prompt are resampled together.
        history: from `history_table`; without it, overfitting and instability show only in the figures.
    """
    labels, classes = valid["label"].to_numpy(), probabilities.shape[1]
    rows = np.arange(len(labels))
    shares = class_shares(train["label"], classes)
    losses = {
        "model": -np.log(probabilities[rows, labels].clip(1e-15)),
        "constant": -np.log(shares.clip(1e-15))[labels],
        "length": -np.log(length_only(train, valid, classes)[rows, labels]),
    }
    over_constant = interval(losses["constant"] - losses["model"], prompts)
    over_length = interval(losses["length"] - losses["model"], prompts)
    means = {name: float(loss.mean()) for name, loss in losses.items()}
    name, why = _decide(means, over_constant, over_length, float(probabilities.std(0).mean()), history, len(labels))
    return Verdict(name, why, means["model"], means["constant"], means["length"], over_constant, over_length)


def interval(gains: np.ndarray, groups: pd.Series, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean gain; whole groups (prompts) are resampled, since their rows are alike."""
    codes = pd.factorize(np.asarray(groups))[0]
    sums, counts = np.bincount(codes, weights=gains), np.bincount(codes)
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _decide(means, over_constant, over_length, spread, history, rows) -> tuple[str, str]:
    better = (
        f"log loss {means['model']:.4f} against {means['constant']:.4f} of the constant predictor, "
        f"better by {over_constant[0]:+.4f} to {over_constant[1]:+.4f} (95 %)"
    )
    if not np.isfinite(means["model"]) or (history is not None and _unstable(history, means["constant"])):
        return "unstable", f"the validation loss broke out during training; lower CFG.lr. Best weights: {better}."
    if over_constant[1] < 0 or (
        over_constant[0] <= 0 and history is not None and _by_heart(history, means["constant"])
    ):
        return "overfitted", f"{better}: it learned its rows by heart; use more rows, fewer epochs, or frozen layers."
    if over_constant[0] > 0:
        if over_length[0] > 0:
            return "learned", f"{better}, and better than answer length alone ({means['length']:.4f})."
        return (
            "learned little more than answer length",
            f"{better}, but a regression on lengths alone has {means['length']:.4f}; train longer or on more rows.",
        )
    if spread < 0.02 or over_constant[1] < 0.01:
        return "constant predictor", f"{better}: nothing was learned; see the table before training."
    return "not enough rows to tell", f"{better} on {rows} rows: the interval includes zero; validate on more rows."


def _unstable(history: pd.DataFrame, constant: float) -> bool:
    losses = history["log loss"]
    return bool(losses.isna().any() or losses.max() > constant + 0.25)


def _by_heart(history: pd.DataFrame, constant: float) -> bool:
    return bool(history["training loss"].min() < constant - 0.15 and history["log loss"].iloc[-1] > constant)
