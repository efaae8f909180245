"""Run a Trainer on this process's device: watched, within a time limit, resuming from its last checkpoint."""

import time

import numpy as np
import torch
from torch import distributed
from transformers import TrainerCallback

from src_py.doctor.watch import watch
from src_py.kaggle.clock import clock_text
from src_py.training.checkpoints import last_good_checkpoint
from src_py.training.progress import Progress


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
        if done == 1:  # the first step warms up: its time says little of the others'
            self.begun, self.warm_up = now, now - self.begun
        step = (now - self.begun - self.evaluating) / (done - 1) if done > 1 else self.warm_up
        # Until an evaluation has measured it: a forward pass is a third of a training step.
        row = self.seconds_a_row or step / self.batch_size / 3
        # One evaluation with its checkpoint is to come, taken as twice the evaluation.
        after = row * (2 * self.eval_rows + self.rows_after)
        if done == self.LOOK and state.global_step < state.max_steps:
            end = now + (state.max_steps - state.global_step) * step + after
            if end > self.until:
                reached = max(0.0, self.until - now - after) / step + state.global_step
                print(
                    f"At this pace (a step in {step:.2f} s) the training would end {clock_text(end - self.until)} too "
                    f"late: it will stop after about {reached / state.max_steps:.0%} of its steps. Lower CFG.epochs, "
                    "so that the learning rate comes down in time.",
                    flush=True,
                )
        if done == 1 and now + 2 * step < self.until:
            return
        if now + after + 2 * step > self.until and state.global_step < state.max_steps:
            self.stopped = True
            print(
                f"step {state.global_step} of {state.max_steps}: the time is up; evaluating, and on to the submission.",
                flush=True,
            )
            control.should_log = True  # the training loss so far
            control.should_evaluate = control.should_save = args.eval_strategy != "no"
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, metrics=None, **_):
        seconds = (metrics or {}).get("eval_runtime")
        if seconds:
            self.seconds_a_row = seconds / self.eval_rows
            self.evaluating += seconds


def run_training(trainer, stop: bool, until: float, rows_after: int) -> str:
    """Train `trainer` from the last good checkpoint in its output folder, or from the beginning.

    Args:
        stop: as in `watch`.
        until: when the training and the prediction of `rows_after` rows have to be done, as of `time.time()`.

    Returns:
        Why the watcher stopped the training, on every process, whichever of them saw it; "" when it did not.
    """
    args = trainer.args
    watcher = watch(trainer, stop)
    if args.process_index == 0:  # whose clock decides for all, and who can say so
        limit = TimeLimit(until, rows_after, len(trainer.eval_dataset), args.per_device_train_batch_size)
        trainer.add_callback(limit)
        rows = len(trainer.eval_dataset)
        trainer.add_callback(Progress(lambda: watcher.run.step_losses, args.per_device_train_batch_size, rows))
    if args.world_size > 1:
        trainer.add_callback(_Together())  # the last one: it sees what all others decided
    found = last_good_checkpoint(args.output_dir, trainer.ema > 0) if args.process_index == 0 else None
    shared = [str(found) if found else None]
    if args.world_size > 1:
        distributed.broadcast_object_list(shared)
    if shared[0]:
        print(f"Resuming from {shared[0]}.", flush=True)
    seed_dropout(args.seed, args.process_index)
    trainer.train(resume_from_checkpoint=shared[0])
    return _reason(watcher.events, args) if stop else ""


def seed_dropout(seed: int, process: int) -> None:
    """Give each process noise of its own: with the same, each position of their pairs would lose the same values.

    The first process's generator is left as it is, so that a training in one process is what it was. Rows and their
    order do not depend on it.
    """
    if process:
        torch.manual_seed(int(np.random.SeedSequence((seed, process)).generate_state(1)[0]))


def _reason(events: list[str], args) -> str:
    """The last event of the first process that has one. The first process says what it did not see itself."""
    if args.world_size == 1:
        return events[-1] if events else ""
    seen: list = [None] * args.world_size
    distributed.all_gather_object(seen, events[-1] if events else "")
    process, reason = next(((number, text) for number, text in enumerate(seen) if text), (0, ""))
    if process and args.process_index == 0:
        print(f"{reason} Stopped (seen by process {process}).", flush=True)
    return reason


class _Together(TrainerCallback):
    """Makes a decision of one process (to stop, evaluate or save) that of all; otherwise they wait for each other."""

    FLAGS = ("should_training_stop", "should_evaluate", "should_save", "should_log")

    def on_step_end(self, args, state, control, **_):
        flags = torch.tensor([float(getattr(control, name)) for name in self.FLAGS], device=args.device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        for name, value in zip(self.FLAGS, flags.tolist()):
            setattr(control, name, bool(value))

    def on_evaluate(self, args, state, control, **_):
        self.on_step_end(args, state, control)
