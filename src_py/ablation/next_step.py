"""What to do next: what each step would bring, what it would cost, and which of them is recommended."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from src_py.ablation.arms import parse_arm, with_encoder, with_epochs
from src_py.ablation.averaging import MODELS, averaging_gain
from src_py.ablation.curves import LEVEL, NOTHING, PERCENT, Forecast, LearningCurve
from src_py.ablation.foretell import why_not_twice
from src_py.ablation.grid_settings import ENCODER, EPOCH
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import Group, compare, mean_interval
from src_py.ablation.verdicts import ONE_SEED, learned, own_sizes
from src_py.kaggle.clock import SESSION_HOURS

WORTH = 0.002  # nats: a step that is likely to bring less is not worth taking


@dataclass(frozen=True)
class Step:
    """One thing to do next.

    Attributes:
        gain: nats by which it lowers the log loss, with its interval; None where that was not measured.
        hours: of one card or processor, for training and predicting the validation rows; None where unknown.
        note: why the gain is not known, or what it rests on.
    """

    option: str
    gain: Forecast | None = None
    hours: float | None = None
    note: str = ""


@dataclass(frozen=True)
class NextStep:
    """Possible steps, and what follows from them."""

    steps: tuple[Step, ...]
    sentence: str

    @property
    def table(self) -> pd.DataFrame:
        """One row a step: `option`, `gain`, `low`, `high`, `hours` (NaN where not known), `note`."""
        unknown = Forecast(np.nan, np.nan, np.nan)
        rows = [
            (step.option, *(step.gain or unknown), np.nan if step.hours is None else step.hours, step.note)
            for step in self.steps
        ]
        return pd.DataFrame(rows, columns=["option", "gain", "low", "high", "hours", "note"])


def steps_view(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a `NextStep` for readers: gain and interval in one column, and minutes; empty where not known."""
    gains = [
        "" if np.isnan(row.gain) else f"{_signed(row.gain)} ({_signed(row.low)} to {_signed(row.high)})"
        for row in table.itertuples()
    ]
    minutes = ["" if np.isnan(hours) else _minutes(60 * hours) for hours in table["hours"]]
    saved = f"log loss saved, nats ({PERCENT})"
    return pd.DataFrame({"step": table["option"], saved: gains, "minutes": minutes, "note": table["note"]})


def next_step(
    problem: Problem,
    outcomes: dict[Trial, Outcome],
    curve: pd.DataFrame,
    arms: tuple[str, ...],
    law: LearningCurve | None,
    trials: Collection[Trial] = (),
) -> NextStep:
    """Which step is worth taking from the largest size of the last of `arms`.

    Args:
        outcomes: finished trials; curve: from `curve_table`, of the same trials.
        law: the arm's learning curve, if there is one.
        trials: all trials of the grid, to say why one is missing.
    """
    arm = arms[-1]
    sizes = own_sizes(curve, arm)["rows"]
    if sizes.empty:
        return NextStep((), f"Next? Cannot tell: no trial of {arm} gave a result.")
    rows = int(sizes.iloc[-1])
    steps = (
        _twice_the_rows(problem, outcomes, curve, arm, law),
        _another_epoch(problem, outcomes, trials, arm, rows),
        _seeds_averaged(problem, outcomes, arm, rows),
        *_other_encoders(problem, outcomes, trials, arm, rows),
    )
    if not learned(curve, arm, rows):
        return NextStep(
            steps,
            f"Next: find out why {arm} does not surely beat the constant predictor at {rows:,} rows, before anything "
            "else: run why_is_it_not_learning, which names faults.",
        )
    return NextStep(steps, _recommend(steps, arm))


def _recommend(steps: tuple[Step, ...], arm: str) -> str:
    """Of the steps that surely help, the one that brings most an hour, or why there is none."""
    known = [(step, step.gain) for step in steps if step.gain]
    unknown = [step.option for step in steps if not step.gain]
    rest = f" Not measured: {', '.join(unknown)} (the table says how to)." if unknown else ""
    if not known:
        return f"Next? Cannot tell: none of {', '.join(unknown)} was measured; three sizes and three seeds would do it."
    sure = [(step, gain) for step, gain in known if gain.low > 0 and gain.best > WORTH]
    if sure:
        step, gain = max(sure, key=lambda pair: pair[1].best / (pair[0].hours or np.inf))
        most = " (most for its time)" if len(sure) > 1 else ""
        larger = [pair for pair in known if pair not in sure and pair[1].best > gain.best]
        other, hoped = max(larger, key=lambda pair: pair[1].best, default=(step, gain))
        hope = f" More may come from {other.option}: {_told(hoped)}, which is not sure." if larger else ""
        return (
            f"Next: {step.option}, which would take {_told(gain)} off {arm}'s log loss{_cost(step)}{most}.{hope}{rest}"
        )
    step, gain = max(known, key=lambda pair: pair[1].high)
    if gain.high > NOTHING or gain.best > WORTH:
        return f"Next? No step is sure to help. Most promising: {step.option}.{rest}"
    if not steps[0].gain:
        return f"Next? Cannot tell: what was measured is not likely to bring more than {WORTH} nats.{rest}"
    listed = "nothing that was measured" if unknown else "nothing on the list"
    return f"Next: stop; {listed} is likely to bring more than {WORTH} nats.{rest}"


def _twice_the_rows(
    problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str, law: LearningCurve | None
) -> Step:
    why = why_not_twice(problem, outcomes, curve, arm, law)
    if law is None:
        return Step("twice the rows", note=f"not measured: {why}")
    option, hours = f"twice the rows ({2 * law.largest:,})", _hours(outcomes, (arm, law.largest, 0), training=2)
    if why:
        return Step(option, hours=hours, note=f"cannot tell: {why}")
    change, here = law.twice[1], problem.blocks[0] if problem.blocks else len(problem.train)
    notes = ["one seed a size: how much seeds differ is guessed"] if law.measured.counts.max() == 1 else []
    if here < 2 * law.largest:
        notes.append(f"there are only {here:,} training rows; more can be named in CFG.extra_files")
    lost = [trial.seed for trial, one in outcomes.items() if _group(trial) == (arm, law.largest, 0) and _diverged(one)]
    notes += [f"{len(lost)} of its trials at {law.largest:,} rows diverged"] if lost else []
    notes += ["its curve missed its own largest size"] if law.hindcast and not law.hindcast.held else []
    return Step(option, Forecast(-change.best, -change.high, -change.low), hours, "; ".join(notes))


def _another_epoch(
    problem: Problem, outcomes: dict[Trial, Outcome], trials: Collection[Trial], arm: str, rows: int
) -> Step:
    """Measured where an arm that differs from this one in its epochs alone was trained on as many rows. The evaluations
    within a trial do not tell: in its last part the learning rate falls to zero, which lowers the loss by itself."""
    epochs = _epochs(problem, arm)
    longer = {_epochs(problem, trial.arm): trial.arm for trial in outcomes if _differs_in_epochs(arm, trial, rows)}
    more = min((number for number in longer if number > epochs), default=epochs + 1)
    option = f"{more:g} epochs instead of {epochs:g}" if more != epochs + 1 else f"another epoch ({more:g})"
    if more in longer:
        return _measured(problem, outcomes, option, arm, longer[more], rows)
    hours = _hours(outcomes, (arm, rows, 0), training=more / epochs)
    asked = with_epochs(arm, more)
    why = _why_not(asked, EPOCH, trials, rows) if asked else "its epochs cannot be set"
    return Step(option, hours=hours, note=f"not measured: {why}{_last_part(problem, outcomes, (arm, rows, 0))}")


def _other_encoders(
    problem: Problem, outcomes: dict[Trial, Outcome], trials: Collection[Trial], arm: str, rows: int
) -> list[Step]:
    """One step for each encoder that an arm of the grid has, and that this arm has not."""
    asked = {name: with_encoder(arm, name) for name in problem.encoders}
    others = {name: other for name, other in asked.items() if other}
    if not others:
        how = f'set CFG.next_steps = ["{EPOCH}", "{ENCODER}NAME"], NAME a part of its path'
        return [Step("a larger encoder", note=f"not measured; to measure it, attach one and {how}")]
    steps = []
    for name, other in others.items():
        option = f"the encoder {problem.encoders[name].name} ({ENCODER}{name})"
        if any(_group(trial) == (other, rows, 0) for trial in outcomes):
            steps.append(_measured(problem, outcomes, option, arm, other, rows))
        else:
            steps.append(Step(option, note=f"not measured: {_why_not(other, ENCODER + name, trials, rows)}"))
    return steps


def _measured(problem: Problem, outcomes: dict[Trial, Outcome], option: str, arm: str, other: str, rows: int) -> Step:
    """What `other` saves against `arm` at `rows` rows."""
    found = compare(problem, outcomes, (arm, rows, 0), (other, rows, 0), level=LEVEL)
    hours = _hours(outcomes, (other, rows, 0))
    if found is None:
        return Step(option, hours=hours, note="not measured: no seed in common")
    if found.seeds == 1:
        note = f"not measured: one seed, where it was {found.gain:+.3f}; seeds alone may make {ONE_SEED:.3f}"
        note += ": raise CFG.seeds"
        return Step(option, hours=hours, note=note)
    return Step(option, Forecast(*found[:3]), hours, f"{found.seeds} seeds")


def _why_not(arm: str, step: str, trials: Collection[Trial], rows: int) -> str:
    """Why no trial of the arm was finished at `rows` rows, or how to have one."""
    planned = [trial.rows for trial in trials if trial.arm == arm and not trial.as_rows]
    if rows in planned:
        return "its trials did not fit CFG.budget_minutes, or are still to be run"
    if planned:
        return f"its trials are those at {planned[0]:,} rows, where none was finished"
    return f'to measure it, add "{step}" to CFG.next_steps'


def _last_part(problem: Problem, outcomes: dict[Trial, Outcome], group: Group) -> str:
    """What the steps after the last evaluation but one brought."""
    labels, part, gains = problem.valid["label"].to_numpy(), problem.part(unseen=False), []
    runs = [outcome for trial, outcome in outcomes.items() if _group(trial) == group and len(outcome.at) > 1]
    for outcome in runs:
        before, after = outcome.probabilities[-2:, np.arange(len(labels)), labels].clip(1e-15)
        gains.append(np.log(after / before)[part])
    known = [each for each in gains if np.isfinite(each).all()]
    if not known:
        return ""
    gain, low, high = mean_interval(np.stack(known), problem.prompts[part], LEVEL)
    steps = runs[0].at
    share = f"the last {steps[-1] - steps[-2]:,} of {steps[-1]:,} steps"
    return f"; {share}, as the rate fell to zero, brought {gain:+.3f} ({low:+.3f} to {high:+.3f})"


def _seeds_averaged(problem: Problem, outcomes: dict[Trial, Outcome], arm: str, rows: int) -> Step:
    option, group = f"{MODELS} seeds averaged", (arm, rows, 0)
    hours = _hours(outcomes, group, models=MODELS)
    found = averaging_gain(problem, outcomes, group, LEVEL)
    if found is None:
        runs = [outcome for trial, outcome in outcomes.items() if _group(trial) == group]
        lost = sum(_diverged(outcome) for outcome in runs)
        diverged = f", of which {lost} diverged" if lost else ""
        note = f"not measured: it needs {MODELS}; trained at {rows:,} rows: {len(runs)}{diverged}"
        return Step(option, hours=hours, note=note)
    own = f", each on its own {rows:,} rows" if rows < len(problem.train) else ""
    return Step(option, Forecast(*found[:3]), hours, f"{found.seeds} seeds{own}")


def _differs_in_epochs(arm: str, trial: Trial, rows: int) -> bool:
    if trial.rows != rows or trial.as_rows or "+epochs=" not in trial.arm:
        return False
    own, other = parse_arm(arm), parse_arm(trial.arm)
    alike = [replace(each, changes=tuple(c for c in each.changes if c[0] != "epochs")).trains for each in (own, other)]
    return alike[0] == alike[1]


def _epochs(problem: Problem, arm: str) -> float:
    return parse_arm(arm).change(problem.settings).epochs


def _hours(outcomes: dict[Trial, Outcome], group: Group, training: float = 1.0, models: int = 1) -> float:
    """Hours that `models` trials of the group would take with `training` times the steps, as they took so far."""
    runs = [outcome for trial, outcome in outcomes.items() if _group(trial) == group]
    return models * float(np.mean([training * run.train_seconds + run.predict_seconds for run in runs])) / 3600


def _diverged(outcome: Outcome) -> bool:
    return not np.isfinite(outcome.probabilities[-1]).all()


def _group(trial: Trial) -> Group:
    return trial.arm, trial.rows, trial.as_rows


def _signed(gain: float) -> str:
    return f"{round(gain, 3) + 0.0:+.3f}"  # a rounded -0.0001 has no sign


def _minutes(minutes: float) -> str:
    return "under 0.1" if minutes < 0.1 else f"{minutes:.1f}" if minutes < 10 else f"{minutes:,.0f}"


def _told(gain: Forecast) -> str:
    return f"{gain.best:.3f} nats ({gain.low:+.3f} to {gain.high:+.3f}, {PERCENT})"


def _cost(step: Step) -> str:
    if step.hours is None:
        return ""
    minutes = 60 * step.hours
    time = "under a minute" if minutes < 1 else f"{minutes:.0f} minutes" if minutes < 90 else f"{step.hours:.1f} hours"
    longer = f", longer than a session of {SESSION_HOURS} hours" if step.hours > SESSION_HOURS else ""
    return f", for {time} on this machine{longer}"
