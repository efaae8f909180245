"""How far a training is, at any time: loss, pairs a second and time left."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from transformers import TrainerCallback

from src_py.kaggle.clock import clock_text
from src_py.kaggle.page import Meter

RECENT = 50  # steps whose mean loss is shown
FORWARD = 1 / 3  # of a training step's time is its forward pass, until an evaluation has been measured


class Progress(TrainerCallback):
    """Shows the state of a training on a `Meter`, between evaluations and during them.

    It reads nothing from the GPU: the losses are those that the watcher has read for its own judgement.

    Args:
        losses: returns (step, loss) of the steps so far.
        batch_size: pairs in an optimizer step, over all processes.
        eval_rows: pairs of an evaluation.
    """

    def __init__(
        self,
        losses: Callable[[], Sequence[tuple[int, float]]],
        batch_size: int,
        eval_rows: int,
        meter: Meter | None = None,
    ):
        self.losses, self.batch_size, self.eval_rows, self.meter = losses, batch_size, eval_rows, meter or Meter()
        self.training = False

    def on_train_begin(self, args, state, control, **_):
        self.training, self.begun, self.first = True, time.monotonic(), state.global_step
        self.before = self.begun  # when the last step, evaluation or checkpoint ended
        self.steps, self.busy = 0, 0.0  # steps that were measured, and their seconds
        self.pause, self.batches = 0.0, 0  # seconds of the last evaluation and its checkpoint; its batches so far

    def on_step_end(self, args, state, control, **_):
        taken = self._since()
        if state.global_step > self.first + 1:  # the first step warms up
            self.steps, self.busy = self.steps + 1, self.busy + taken
        self.batches = 0
        if self.meter.due():
            self.meter.show(state.global_step / max(1, state.max_steps), self._line(args, state))

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **_):
        if not self.training:
            return
        self.batches += 1
        if self.meter.due() and eval_dataloader is not None:
            share = min(1.0, self.batches / max(1, len(eval_dataloader)))
            at = f"step {state.global_step:,} of {state.max_steps:,}"
            text = f"{at}: evaluating, {share:.0%} of {self.eval_rows:,} pairs"
            self.meter.show(min(0.9999, state.global_step / max(1, state.max_steps)), text)

    def on_evaluate(self, args, state, control, **_):
        self.pause = self._since()

    def on_save(self, args, state, control, **_):
        self.pause += self._since()

    def on_train_end(self, args, state, control, **_):
        self.training = False
        pace = f", {self.batch_size * self.steps / self.busy:.1f} pairs/s" if self.busy else ""
        steps = f"{state.global_step:,} of {state.max_steps:,} steps"
        self.meter.show(1.0, f"training ended after {steps}, {clock_text(time.monotonic() - self.begun)}{pace}")

    def seconds_left(self, args, state) -> float | None:
        """Of the training with its evaluations; None before two steps were measured."""
        if not self.steps:
            return None
        step, evaluations = self.busy / self.steps, 0
        if args.eval_strategy != "no":
            every = max(1, int(args.eval_steps))
            evaluations = -(-state.max_steps // every) - state.global_step // every  # the last one after the last step
        pause = self.pause or self.eval_rows * step / self.batch_size * FORWARD
        return (state.max_steps - state.global_step) * step + evaluations * pause

    def _line(self, args, state) -> str:
        parts = [f"step {state.global_step:,} of {state.max_steps:,}"]
        if recent := [loss for _, loss in self.losses()[-RECENT:]]:
            parts.append(f"loss {np.mean(recent):.4f}")
        left = self.seconds_left(args, state)
        if left is not None and self.busy:
            parts += [f"{self.batch_size * self.steps / self.busy:.1f} pairs/s", f"{clock_text(left)} left"]
        return f"{parts[0]}: " + ", ".join(parts[1:]) if parts[1:] else parts[0]

    def _since(self) -> float:
        """Seconds since the end of what came before."""
        now = time.monotonic()
        taken, self.before = now - self.before, now
        return taken
