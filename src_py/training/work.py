"""What a training will do, counted on its real rows with its own batching: steps, parts, encoder calls, tokens."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src_py.model.pace import works
from src_py.pairs.encode import round_up
from src_py.training.batches import PooledBatches, TokenBudget
from src_py.training.checkpoints import STATE, last_good_checkpoint


class TrainingWork(NamedTuple):
    """The work of one fold.

    Attributes:
        steps, evaluations: optimizer steps, and evaluations, each with a checkpoint.
        rows: pairs of all steps, of the busiest process.
        forward_backward: as `part_work` counts it, (3,), of the busiest process.
        evaluated: pairs of one evaluation, of one process.
        forward: as `part_work` counts it, of one evaluation and one process.
    """

    steps: int
    evaluations: int
    rows: int
    forward_backward: np.ndarray
    evaluated: int
    forward: np.ndarray


def training_work(
    trainer, lengths: np.ndarray, eval_lengths: np.ndarray, processes: int = 1, done: int = 0
) -> TrainingWork:
    """Count what `trainer` has to do after `done` steps.

    Args:
        lengths, eval_lengths: tokens of every sequence of its two datasets, (rows, sequences).
    """
    args = trainer.args
    steps = step_parts(trainer, lengths, processes)[done:]
    parts = [part for step in steps for part in step]
    device = args.device.type
    work = works(lengths, parts, device).sum(0) if parts else np.zeros(3, dtype=np.int64)
    evaluations = 0
    if steps and args.eval_strategy != "no":
        # The Trainer evaluates every `eval_steps` steps, and after the last one.
        evaluations = math.ceil((done + len(steps)) / args.eval_steps) - done // args.eval_steps
    batches = evaluation_parts(trainer, len(eval_lengths))[::processes]
    forward = works(eval_lengths, batches, device).sum(0)
    return TrainingWork(len(steps), evaluations, sum(map(len, parts)), work, sum(map(len, batches)), forward)


def step_parts(trainer, lengths: np.ndarray, processes: int = 1) -> list[list[np.ndarray]]:
    """Row numbers of each part of each optimizer step of the whole training, in order, in the busiest process.

    Of several processes that is the first: `TokenBudget` deals the rows of a step out longest first.
    """
    args = trainer.args
    longest = lengths.max(1).tolist()
    sampler = PooledBatches(longest, args.train_batch_size, args.seed)
    tokens = trainer.micro_batch * round_up(max(longest)) * lengths.shape[1]
    split = TokenBudget(lambda rows: np.array([row["row"] for row in rows]), tokens, 0, processes)
    rows = [{"row": i, "length": length, "sequences": both} for i, (length, both) in enumerate(zip(longest, lengths))]
    total = math.ceil(args.num_train_epochs * len(sampler))
    steps: list[list[np.ndarray]] = []
    while len(steps) < total:
        sampler.set_epoch(len(steps) // len(sampler))
        steps += [split([rows[i] for i in step])["parts"] for step in sampler]
    return steps[:total]


def evaluation_parts(trainer, rows: int) -> list[np.ndarray]:
    """Row numbers of each batch of an evaluation, in the order of the evaluation dataset."""
    size = trainer.args.eval_batch_size
    return [np.arange(at, min(at + size, rows)) for at in range(0, rows, size)]


def steps_done(output_dir: str | Path, averaged: bool = False) -> int:
    """Optimizer steps of the last good checkpoint in a Trainer's output folder, from which a training resumes."""
    found = last_good_checkpoint(output_dir, averaged)
    return 0 if found is None else int(json.loads((found / STATE).read_text(encoding="utf-8"))["global_step"])
