"""What a learning curve says, in sentences: about twice the rows, and about itself."""

import numpy as np
import pandas as pd

from src_py.ablation.curves import LEVEL, NOTHING, PERCENT, REACH, Forecast, LearningCurve
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import mean_interval, row_losses
from src_py.ablation.verdicts import learned, own_sizes, rise_of


def why_not_twice(
    problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str, law: LearningCurve | None
) -> str | None:
    """Why the arm's curve says nothing about twice its rows; None where it does."""
    if law is None:
        own = own_sizes(curve, arm)
        has = f"{_count(own['rows'].nunique(), 'size')} and {_count(int(own['seeds'].sum()), 'trial')}"
        return f"a curve needs three sizes; {arm} has {has}"
    largest = law.largest
    if not learned(curve, arm, largest):
        return f"{arm} does not surely beat the constant predictor at {largest:,} rows"
    if largest == own_sizes(curve, arm)["rows"].max() and rise_of(problem, outcomes, curve, arm):
        return f"{arm}'s log loss rises up to {largest:,} rows"
    beyond = [trial.rows for trial in outcomes if trial.arm == arm and not trial.as_rows and trial.rows > largest]
    if beyond:
        extra = problem.blocks and max(beyond) > problem.blocks[0]
        why = "hold rows of extra files, which lie on no curve with the others" if extra else "diverged"
        return f"{arm}'s trials at {max(beyond):,} rows {why}"
    steps = np.diff(own_sizes(curve, arm)["log loss"])
    if len(steps) > 1 and (steps > 0).all():
        return f"{arm}'s log loss rose from each size to the next"
    if law.rises:
        size, rise = law.rises
        return (
            f"{arm}'s log loss rises from {size:,} to {largest:,} rows, by {rise.best:.3f} ({rise.low:.3f} to "
            f"{rise.high:.3f}, {PERCENT})"
        )
    return None


def tell_twice(
    problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str, law: LearningCurve | None
) -> str:
    """What twice the rows of the arm's largest size would bring, in a sentence."""
    asked = f"Twice the data ({2 * law.largest:,} rows)" if law else "Twice the data"
    why = why_not_twice(problem, outcomes, curve, arm, law)
    if why or law is None:
        return f"{asked}? Cannot tell: {why}."
    level, change = law.twice
    if law.verdict == "nothing":
        return f"{asked} would bring {arm} less than {NOTHING} nats ({PERCENT}); log loss there: {level.best:.3f}."
    way = "lower" if change.best < 0 else "raise"
    by = f"{way} {arm}'s log loss by {abs(change.best):.3f} ({PERCENT}: {_span(change)}), to {level.best:.3f}"
    return f"{asked} would {by}." if law.verdict == "better" else f"{asked}? Cannot tell: it may {by}."


def tell_reach(problem: Problem, outcomes: dict[Trial, Outcome], arm: str, law: LearningCurve) -> str:
    """What the arm's curve rests on, and how far it goes."""
    alike = _of_these_rows(problem, outcomes, arm, law.largest)
    single = law.measured.counts.max() == 1
    guessed = " With one seed a size, the seeds' noise is guessed from the scatter about the curve." if single else ""
    return (
        f"{arm}: another sample of validation rows could shift its whole curve by {alike:.3f} either way.{guessed} "
        f"More than {REACH:g} times {law.largest:,} rows: not tested that far."
    )


def tell_hindcast(arm: str, law: LearningCurve) -> str:
    """What the curve without its largest size said of that, and what was measured there."""
    if law.hindcast is None:
        return f"{arm}: whether its curve foretells more rows was not tested; that needs four sizes."
    return f"{arm}: {law.hindcast}."


def _of_these_rows(problem: Problem, outcomes: dict[Trial, Outcome], arm: str, rows: int) -> float:
    """Half the interval of the log loss over prompts alone: what is peculiar to the validation rows."""
    part = problem.part(unseen=False)
    group = [outcome for trial, outcome in outcomes.items() if (trial.arm, trial.rows, trial.as_rows) == (arm, rows, 0)]
    losses = np.stack([row_losses(problem, outcome)[part] for outcome in group])
    _, low, high = mean_interval(np.nanmean(losses, axis=0), problem.prompts[part], LEVEL)
    return (high - low) / 2


def _span(change: Forecast) -> str:
    """An interval of a change in words without signs, which readers take for those of a gain."""
    ends = (change.high, change.low) if change.best < 0 else (change.low, change.high)
    words = ["lower" if end < 0 else "higher" for end in ends]
    first, last = (f"{abs(end):.3f}" for end in ends)
    return f"{first} to {last}" if words[0] == words[1] else f"from {first} {words[0]} to {last} {words[1]}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"
