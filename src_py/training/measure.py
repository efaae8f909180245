"""Measure for about ten seconds what a training will need of this machine; the Trainer stays as it was."""

import math
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pandas as pd
import torch

from src_py.doctor.findings import Setup, out_of_memory
from src_py.doctor.untouched import untouched, weights_restored
from src_py.errors import InputError
from src_py.kaggle.files import writing
from src_py.kaggle.session import free_memory
from src_py.model.pace import (
    Pace,
    Part,
    matrix_rate,
    measure_paces,
    measure_rounds,
    part_work,
    traffic_rate,
    typical,
    works,
)
from src_py.model.predict import prediction_parts
from src_py.pairs.encode import Reading, encode_pairs, model_inputs
from src_py.training.batches import ONE_PAIR_TOO_MANY
from src_py.training.work import step_parts

SAMPLE = 256  # rows that are tokenised
SAVED = 64e6  # bytes that are written at most


class Measured(NamedTuple):
    """What this machine takes, in seconds, bytes, and operations a second.

    Attributes:
        training, prediction: seconds of forward and backward passes, and of forward passes alone.
        step: seconds of clipping the gradients and of the optimizer.
        row: seconds of reading a pair and of putting it into a batch.
        tokenise: seconds a pair.
        save: seconds a byte that is written into the output folder.
        peak: bytes of GPU memory in a training step, infinite when `micro_batch` pairs do not fit; NaN on a CPU.
        flops, traffic: of matrix products, and of copies in the device's memory.
    """

    training: Pace
    prediction: Pace
    step: float
    row: float
    tokenise: float
    save: float
    peak: float
    flops: float
    traffic: float


def measure(
    trainer,
    tokenizer,
    table: pd.DataFrame,
    reading: Reading,
    lengths: np.ndarray,
    eval_lengths: np.ndarray,
    seconds: float = 10.0,
) -> Measured:
    """Run a few parts of the real training and prediction; weights, optimizer and random states stay as they were.

    Training and prediction are measured at three lengths that stand for the run's rows, in the training's precision and
    on its device. Where whole parts would take too long for `seconds`, parts of fewer rows stand for them.

    Args:
        table: training rows from `load_pairs`, to measure the tokenizer with.
        lengths, eval_lengths: of the Trainer's datasets, from `sequence_lengths`.

    Raises:
        InputError: when a GPU's memory does not hold one pair, or the output folder cannot be written.
    """
    device = trainer.args.device
    little = seconds / 20  # for each of the six things beside the parts
    with untouched(trainer):
        looked = _Look(trainer)
        step, peak, most = looked.step_and_peak(lengths, little)
        steps = step_parts(trainer, lengths)
        rows = [part[:most] for parts in steps for part in parts]
        training = looked.parts(looked.train, trainer.train_dataset, lengths, rows)
        batches = prediction_parts(eval_lengths.max(1), eval_lengths.shape[1])
        prediction = looked.parts(looked.predict, trainer.eval_dataset, eval_lengths, batches)
        in_training, in_prediction = measure_paces([training, prediction], seconds - 6 * little, device)
        row = looked.seconds_a_row(trainer.train_dataset, training, little)
        tokenise = _seconds_to_tokenise(table, tokenizer, reading, little)
        save = _seconds_a_byte(trainer, little)
        rates = matrix_rate(device, looked.precision, little), traffic_rate(device, little)
    free_memory()
    return Measured(in_training, in_prediction, step, row, tokenise, save, peak, *rates)


class _Look:
    """Runs parts of a Trainer's work."""

    def __init__(self, trainer):
        self.setup, self.model, self.device = Setup(trainer), trainer.model, trainer.args.device
        self.precision = "fp16" if trainer.args.fp16 else "bf16" if trainer.args.bf16 else "fp32"
        self.trainer, self.scaler = trainer, self.setup.scaler()

    def batch(self, data, rows: np.ndarray) -> dict:
        """Rows read, collated and moved as the Trainer's loader does it."""
        return self.setup.batch(data.__getitems__(rows.tolist()))

    def train(self, batch: dict) -> None:
        self.model.train()
        self.scaler.scale(self.setup.loss(batch)).backward()

    def predict(self, batch: dict) -> None:
        self.model.eval()
        with torch.no_grad(), self.trainer.accelerator.autocast():
            self.model(**model_inputs(batch, self.device))

    def step_and_peak(self, lengths: np.ndarray, budget: float) -> tuple[float, float, int]:
        """Seconds of an optimizer step; bytes at the peak; pairs that fit into one part."""
        longest = np.argsort(-lengths.max(1), kind="stable")[: self.trainer.micro_batch]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        data, own = self.trainer.train_dataset, self.trainer.optimizer
        with weights_restored(trained):
            self.train(self.batch(data, longest[:1]))
            optimizer = type(own)([dict(group) for group in own.param_groups])

            def step() -> None:
                torch.nn.utils.clip_grad_norm_(trained, self.trainer.args.max_grad_norm)
                optimizer.step()

            seconds = measure_rounds([step], budget, self.device)[0]
        if self.device.type != "cuda":
            return seconds, math.nan, len(lengths)
        # Now gradients and the optimizer's state (`optimizer` holds it) are there, as in every step after the first.
        over, most = False, len(longest)
        while True:
            torch.cuda.reset_peak_memory_stats(self.device)
            try:
                self.train(self.batch(data, longest[:most]))
                peak = math.inf if over else float(torch.cuda.max_memory_allocated(self.device))
                return seconds, peak, most if over else len(lengths)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            free_memory()
            over, most = True, most // 2
            if most == 0:
                raise InputError(ONE_PAIR_TOO_MANY)

    def parts(self, run, data, lengths: np.ndarray, rows: list[np.ndarray]) -> list[Part]:
        """Those of the parts that `typical` chooses."""

        def work(some: np.ndarray) -> np.ndarray:
            return part_work(lengths[some].ravel().tolist(), self.device.type)

        def ready(some: np.ndarray) -> partial:
            return partial(run, self.batch(data, some))

        return [Part(rows[i], ready, work) for i in typical(works(lengths, rows, self.device.type))]

    def seconds_a_row(self, data, parts: list[Part], budget: float) -> float:
        """Of reading a row and of putting it into a batch."""
        rows = [part.rows for part in parts]
        seconds = measure_rounds([lambda: [self.batch(data, some) for some in rows]], budget, self.device)[0]
        return seconds / sum(map(len, rows))


def _seconds_to_tokenise(table: pd.DataFrame, tokenizer, reading: Reading, budget: float) -> float:
    """A pair, without a progress bar for each round."""
    sample = table.sample(min(len(table), SAMPLE), random_state=0)
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        run = partial(encode_pairs, sample, tokenizer, reading)
        return measure_rounds([run], budget, torch.device("cpu"))[0] / len(sample)
    finally:
        if shown:
            datasets.enable_progress_bars()


def _seconds_a_byte(trainer, budget: float) -> float:
    """Of writing weights into the Trainer's output folder."""
    values, size = [], 0
    for parameter in trainer.model.parameters():
        # A copy: torch stores all of the memory that a part of a tensor lies in.
        values.append(parameter.detach().flatten()[: int(SAVED - size) // 4].cpu().clone())
        size += 4 * values[-1].numel()
        if SAVED - size < 4:
            break
    output = Path(trainer.args.output_dir)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output) as folder:
            path = Path(folder) / "weights.pt"
            return measure_rounds([lambda: torch.save(values, path)], budget, torch.device("cpu"))[0] / size
