"""The answer of a run at a glance: a coloured banner with a sign, a word and the three numbers that matter."""

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from src_py.evaluation.metrics import standard_error

GOOD, DOUBT, BAD = "good", "doubt", "bad"
# White text on these is readable (contrast above 4.5). Each brings its own background, so that light and dark pages
# show it alike, and a sign and a word that say the same as the colour.
COLORS = {GOOD: "#1b6e3c", DOUBT: "#875200", BAD: "#b3261e"}
SIGNS = {GOOD: "✓", DOUBT: "!", BAD: "✗"}
TEXT = "white-space:normal;overflow-wrap:anywhere;text-align:left;line-height:1.45"
NO_GAIN = 0.01  # nats: an interval that ends below this leaves nothing to hope for
MORE_THAN_LITTLE = 0.005  # nats
LEAST_PROMPTS = 10  # fewer give no interval: three prompts are three numbers


@dataclass(frozen=True)
class Strip:
    """What is said of one model.

    Args:
        kind: `GOOD`, `DOUBT` or `BAD`.
        word: the verdict in a few words.
        name: of the model.
        model, constant: log losses; None for what cannot be compared.
        gain: 95 % interval of the constant predictor's loss minus the model's; None where it is not known.
    """

    kind: str
    word: str
    name: str
    model: float | None = None
    constant: float | None = None
    gain: tuple[float, float] | None = None

    @property
    def figures(self) -> dict[str, str]:
        """The three numbers, as texts."""
        if self.model is None or self.constant is None:
            return {}
        finite = math.isfinite(self.model)
        known = {"log loss": f"{self.model:.4f}" if finite else "not finite"}
        known["constant predictor"] = f"{self.constant:.4f}"
        if not finite:
            return known
        reach = "" if self.gain is None else f" (95 %: {self.gain[0]:+.4f} to {self.gain[1]:+.4f})"
        return known | {"gain": f"{self.constant - self.model:+.4f}{reach}"}

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{SIGNS[self.kind]} {self.word.upper()}  {self.name}" + (f": {figures}" if figures else "")

    def html(self) -> str:
        figures = "".join(f"<span>{name} <b>{escape(value)}</b></span>" for name, value in self.figures.items())
        box = f"background:{COLORS[self.kind]};color:#fff;border-radius:.4em;padding:.55em .9em;margin:.3em 0"
        title = f"<b>{SIGNS[self.kind]} {escape(self.word.upper())}</b> <span>{escape(self.name)}</span>"
        return (
            f'<div style="{box};max-width:75em;{TEXT}"><div style="font-size:1.15em">{title}</div>'
            f'<div style="display:flex;flex-wrap:wrap;gap:.1em 1.6em">{figures}</div></div>'
        )


class Banner:
    """The strips of a run's models, one below the other: for `display`, and as text for logs."""

    def __init__(self, strips: list[Strip]):
        self.strips = strips

    def __repr__(self) -> str:
        return "\n".join(map(str, self.strips))

    def _repr_html_(self) -> str:
        return "".join(strip.html() for strip in self.strips)


def judge_predictions(
    name: str,
    labels: np.ndarray,
    probabilities: np.ndarray,
    shares: np.ndarray,
    prompts: np.ndarray,
    lengths: np.ndarray | None = None,
) -> Banner:
    """A banner for out-of-fold predictions against the constant predictor.

    Args:
        labels: (rows,) class numbers.
        probabilities: (rows, classes), by a model that has not seen the row's prompt.
        shares: (classes,) of the constant predictor.
        prompts: (rows,) the prompt of every row; intervals take prompts as independent.
        lengths: (rows, classes) of a model that sees nothing but lengths; with it "learned" means more than that.
            Calibrated, where `probabilities` are: else calibration alone would make them better.
    """
    rows = np.arange(len(labels))
    constant = -np.log(np.clip(shares, 1e-15, 1))[labels]
    losses = -np.log(probabilities[rows, labels].clip(1e-15))
    model, gains = float(losses.mean()), constant - losses
    prompt = np.unique(prompts, return_inverse=True)[1]
    reach = 1.96 * standard_error(gains, prompt)
    low, high = float(gains.mean() - reach), float(gains.mean() + reach)
    kind, word = GOOD, "better than the constant predictor" if lengths is None else "learned"
    if not np.isfinite(probabilities).all():
        return Banner([Strip(BAD, "predictions are not finite", name, math.nan, float(constant.mean()))])
    if prompt.max(initial=-1) + 1 < LEAST_PROMPTS:
        kind, word = DOUBT, "not enough rows to tell"
    elif high < 0:
        kind, word = BAD, "worse than the constant predictor"
    elif not low > 0:
        kind, word = (BAD, "constant predictor") if high < NO_GAIN else (DOUBT, "not enough rows to tell")
    elif lengths is not None and not _beats(-np.log(lengths[rows, labels].clip(1e-15)) - losses, prompt):
        kind, word = DOUBT, "learned little more than answer length"
    return Banner([Strip(kind, word, name, model, float(constant.mean()), (low, high) if np.isfinite(reach) else None)])


def _beats(gains: np.ndarray, prompt: np.ndarray) -> bool:
    """Whether a model is better, surely or by more than little: few rows make the interval wide (as in the doctor)."""
    return bool(gains.mean() > MORE_THAN_LITTLE or gains.mean() - 1.96 * standard_error(gains, prompt) > 0)
