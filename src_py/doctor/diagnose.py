"""Is a training run lost? A judgement on its evaluations and step losses; `watch` collects them."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# No run is judged before a quarter of its steps: warmup and the first way down are not over.
EARLIEST = 0.25
# Of a linear schedule's learning rate a sixteenth is left after three quarters: what is flat until then stays flat.
LATE = 0.75
# Divergence needs more patience than collapse: at a high rate the loss is high until the rate comes down.
DIVERGED_EARLIEST = 0.4
# Collapsed models measured (56 runs, four families, rates 100 to 3,000 times too high): the spread of their predictions
# falls to 1e-12 to 0.03 of the untrained model's. Learners (56 runs), late ones too: never below 0.7 of it.
IDENTICAL = 0.05
NO_SPREAD = 1e-6  # of the same text in every row: rounding
# A log loss 0.003 lower is what a spread of the predictions of about 0.02 brings: the least that learning looks like.
FLAT = 0.003
# Worse than the constant predictor by more than overfitting on small sets brings while the training loss falls.
WORSE = 0.05
RISEN = 0.02  # nats: of a few hundred rows, what no late step of a linear schedule brings by chance
SURE = 2.0  # standard errors: what is beyond noise
TOO_FAST, DEAD, STILL = "too fast", "dead", "still"


@dataclass
class Run:
    """What is known about a training run.

    Attributes:
        max_steps, warmup_steps: of the whole run.
        evaluations: dicts with step, log_loss (or another loss, lower is better) and spread, in order.
        step_losses: (step, training loss), one an optimizer step.
        constant: loss of the constant predictor on the validation rows; None where there is none (regression).
        best_constant: the least that one answer for all validation rows reaches; None as above.
        untrained: spread of the predictions before the first step; NaN if not measured.
        counts, counts_training: loss on the validation and the training rows of what the model starts from beside the
            text (counts of length and format); None where it starts from the class shares. Then a spread is that of
            what the text adds, so that a dead encoder does not look alive.
    """

    max_steps: int
    warmup_steps: int = 0
    evaluations: list[dict] = field(default_factory=list)
    step_losses: list[tuple[int, float]] = field(default_factory=list)
    constant: float | None = None
    best_constant: float | None = None
    untrained: float = math.nan
    counts: float | None = None
    counts_training: float | None = None

    @property
    def bar(self) -> float | None:
        """The loss below which something was learned from the text; None where only other evaluations can say it."""
        return self.best_constant if self.counts is None else min(self.counts, self.best_constant or math.inf)

    @property
    def training_bar(self) -> float | None:
        """The same for the training loss."""
        return (
            self.best_constant
            if self.counts_training is None
            else min(self.counts_training, self.best_constant or math.inf)
        )


class Problem(NamedTuple):
    """Why a run cannot get better, in one sentence, and its kind: `TOO_FAST` (steps too large spoiled the weights),
    `DEAD` (that, or all texts read alike), or `STILL` (nothing moves)."""

    sentence: str
    kind: str


def diagnose(run: Run) -> Problem | None:
    """Why the run cannot get better, after its latest evaluation; None while it may still learn."""
    now = run.evaluations[-1]
    if not math.isfinite(now["log_loss"]):
        return Problem("the predictions are NaN or infinite", TOO_FAST)
    if len(run.evaluations) < 2 or now["step"] < max(EARLIEST * run.max_steps, run.warmup_steps):
        return None
    before = run.evaluations[-2]
    # The counts go on learning beside a dead encoder, so that no loss would show it.
    if run.counts is not None and max(before["spread"], now["spread"]) < max(NO_SPREAD, IDENTICAL * run.untrained):
        return Problem(
            f"the text changes no row's prediction (spread {now['spread']:.1e}, untrained {run.untrained:.1e}): the "
            "encoder adds nothing to the counts",
            DEAD,
        )
    # A model with one answer for all rows can only learn the class shares; losses above theirs count as theirs.
    if not _flat(run, before) or not _flat(run, now) or _training_below_bar(run):
        return None
    if now["spread"] < IDENTICAL * run.untrained and before["spread"] < 0.5 * run.untrained:
        return Problem(
            f"every row gets the same prediction (spread {now['spread']:.1e}, untrained {run.untrained:.1e}): the "
            "model has collapsed",
            TOO_FAST,
        )
    if training_falls(run):
        return None
    if _diverged(run):
        return Problem(f"diverged: the loss is {now['log_loss']:.3f} and does not come down", TOO_FAST)
    if before["step"] >= LATE * run.max_steps and now["spread"] <= 1.1 * min(before["spread"], run.untrained):
        where = "" if run.counts is None else " below that of the counts alone, to which the text adds nothing"
        return Problem(f"neither the training nor the validation loss has fallen{where}", STILL)
    return None


def learns_by_heart(run: Run) -> bool:
    """Whether the training loss is below the constant predictor's beyond noise and validation has stayed above it."""
    recent = run.evaluations[-3:]
    if run.constant is None or len(run.evaluations) < 4 or not _training_below_bar(run):
        return False
    return all(e["log_loss"] >= run.constant for e in recent)


def rises_after_best(run: Run) -> bool:
    """Whether the last three evaluations are clearly worse than the best, each worse than the one before."""
    last = [e["log_loss"] for e in run.evaluations[-3:]]
    best = min(e["log_loss"] for e in run.evaluations)
    return len(last) == 3 and best + RISEN < last[0] < last[1] < last[2]


def training_falls(run: Run) -> bool:
    """Whether the training loss falls over the later half of the steps so far, beyond noise (slope of a line)."""
    losses = _later_half(run)
    if len(losses) < 4:
        return True
    times = np.arange(len(losses)) - (len(losses) - 1) / 2
    slope = (times * losses).sum() / (times**2).sum()
    rest = losses - losses.mean() - slope * times
    error = math.sqrt((rest**2).sum() / (len(losses) - 2) / (times**2).sum())
    return bool(slope < -SURE * error)


def _flat(run: Run, evaluation: dict) -> bool:
    """Whether an evaluation shows nothing learned: not better than one answer for all rows, nor than all before it."""
    if run.bar is not None:
        return not evaluation["log_loss"] < run.bar - FLAT
    earlier = [e["log_loss"] for e in run.evaluations if e["step"] < evaluation["step"]]
    return bool(earlier) and not evaluation["log_loss"] < min(earlier) - FLAT * abs(min(earlier))


def _training_below_bar(run: Run) -> bool:
    losses = _later_half(run)
    if run.training_bar is None or len(losses) < 4:
        return False
    return bool(losses.mean() < run.training_bar - FLAT - SURE * losses.std() / math.sqrt(len(losses)))


def _diverged(run: Run) -> bool:
    """Three evaluations in a row worse than the constant predictor and the run's best, and none better than before."""
    last = run.evaluations[-3:]
    if run.constant is None or len(last) < 3 or last[0]["step"] < DIVERGED_EARLIEST * run.max_steps:
        return False
    losses = [e["log_loss"] for e in last]
    bar = max(run.constant, min(e["log_loss"] for e in run.evaluations)) + WORSE
    return min(losses) > bar and losses[2] >= min(losses[:2]) - FLAT and _later_half(run).mean() > run.constant + WORSE


def _later_half(run: Run) -> np.ndarray:
    """Finite step losses of the later half of the steps so far."""
    half = len(run.step_losses) // 2
    losses = np.array([loss for _, loss in run.step_losses[half:]], dtype=float)
    return losses[np.isfinite(losses)]
