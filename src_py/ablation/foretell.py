"""What a learning curve says, in sentences: about twice the rows, and about itself."""

import numpy as np

from src_py.ablation.curves import LEVEL, NOTHING, PERCENT, REACH, LearningCurve
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import mean_interval, row_losses


def tell_twice(problem: Problem, outcomes: dict[Trial, Outcome], arm: str, law: LearningCurve) -> str:
    """What twice the rows of the arm's largest size would bring, and what that rests on."""
    largest, twice = law.largest, 2 * law.largest
    if law.rises:
        size, rise = law.rises
        return (
            f"Twice the data ({twice:,} rows)? Cannot tell: {arm}'s log loss rises from {size:,} to {largest:,} rows, "
            f"by {rise.best:.3f} ({rise.low:.3f} to {rise.high:.3f}, {PERCENT})."
        )
    level, change = law.twice
    said = f"{change.best:+.3f} ({change.low:+.3f} to {change.high:+.3f}, {PERCENT})"
    if law.verdict == "better":
        told = f" would change {arm}'s log loss by {said}"
    elif law.verdict == "nothing":
        told = f" would bring {arm} less than {NOTHING} nats ({PERCENT})"
    else:
        told = f"? Cannot tell: the curve allows {said}"
    alike = _of_these_rows(problem, outcomes, arm, largest)
    single = law.measured.counts.max() == 1
    guessed = " With one seed a size, the seeds' noise is guessed from the scatter about the curve." if single else ""
    return (
        f"Twice the data ({twice:,} rows){told}; log loss there: {level.best:.3f} ({level.low:.3f} to "
        f"{level.high:.3f}). Other validation rows like these may move every size alike, by {alike:.3f}.{guessed} "
        f"More than {REACH:g} times {largest:,} rows: not tested that far."
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
