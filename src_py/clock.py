"""The time limit of a session: what is left, who may use it, and where it went."""

import math
import time
from datetime import timedelta

import pandas as pd
from transformers import TrainerCallback

from src_py.errors import InputError


class Clock:
    """Runs from its making; `hours` is when everything must be done.

    Times are those of `time.time()`, so that they mean the same to other processes.
    """

    def __init__(self, hours: float = math.inf):
        if hours <= 0:
            raise InputError(f"CFG.hours is {hours}; give the session's limit, such as 8.5.")
        self.begun = time.time()
        self.limit, self.stages = self.begun + 3600 * hours, []

    def mark(self, stage: str) -> None:
        """The time since the last mark was spent on `stage`."""
        self.stages.append((stage, time.time()))

    def spent(self, stage: str) -> float:
        """Seconds of a stage that was marked."""
        ends = [self.begun, *(end for _, end in self.stages)]
        return sum(end - begin for begin, (name, end) in zip(ends, self.stages) if name == stage)

    def room_for(self, seconds: float) -> bool:
        """Whether work of this length still ends in time."""
        return time.time() + seconds < self.limit

    def share(self, parts: int) -> float:
        """When the first of `parts` equally long pieces of work has to be done."""
        return time.time() + (self.limit - time.time()) / parts

    def table(self) -> pd.DataFrame:
        """Stage, its time and its share of the total, in order."""
        ends = [self.begun, *(end for _, end in self.stages)]
        spent = [end - begin for begin, (_, end) in zip(ends, self.stages)]
        total = max(sum(spent), 1e-9)
        rows = [(stage, _told(seconds), f"{seconds / total:.0%}") for (stage, _), seconds in zip(self.stages, spent)]
        return pd.DataFrame([*rows, ("total", _told(total), "100%")], columns=["stage", "h:mm:ss", "share"])


class TimeLimit(TrainerCallback):
    """Ends a training so that its last evaluation, and what comes after it, is done `until` then.

    After some steps it says when the training would end at its pace, if that is too late.

    Args:
        until: as of `time.time()`.
        rows_after: rows to be predicted after training.
    """

    LOOK = 20  # steps after which the pace is known

    def __init__(self, until: float, rows_after: int, eval_rows: int, batch_size: int):
        self.until, self.rows_after, self.eval_rows, self.batch_size = until, rows_after, eval_rows, batch_size
        self.seconds_a_row = None
        self.stopped = False

    def on_train_begin(self, args, state, control, **_):
        self.begun, self.first, self.evaluating = time.time(), state.global_step, 0.0

    def on_step_end(self, args, state, control, **_):
        now, done = time.time(), state.global_step - self.first
        step = (now - self.begun - self.evaluating) / done
        # Until an evaluation has told: a forward pass is a third of a training step.
        row = self.seconds_a_row or step / self.batch_size / 3
        # One evaluation with its checkpoint is to come, taken as twice the evaluation.
        after = row * (2 * self.eval_rows + self.rows_after)
        if done == self.LOOK and state.global_step < state.max_steps:
            end = now + (state.max_steps - state.global_step) * step + after
            if end > self.until:
                reached = max(0.0, self.until - now - after) / step + state.global_step
                print(
                    f"At this pace (a step in {step:.2f} s) the training would end {_told(end - self.until)} too late: "
                    f"it will stop after about {reached / state.max_steps:.0%} of its steps. Lower CFG.epochs, so that "
                    "the learning rate comes down in time.",
                    flush=True,
                )
        if now + after + 2 * step > self.until and state.global_step < state.max_steps:
            self.stopped = True
            print(
                f"step {state.global_step} of {state.max_steps}: the time is up; evaluating, and on to the submission.",
                flush=True,
            )
            control.should_evaluate = control.should_save = args.eval_strategy != "no"
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, metrics=None, **_):
        seconds = (metrics or {}).get("eval_runtime")
        if seconds:
            self.seconds_a_row = seconds / self.eval_rows
            self.evaluating += seconds


def _told(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
