"""What the rest of a run will take, estimated before training starts: minutes, memory and disk, against limits."""

import math
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from src_py.kaggle.clock import COMPETITION_HOURS, HIDDEN_ROWS, Clock
from src_py.kaggle.files import LIMIT, free_bytes
from src_py.kaggle.session import visible_gpus
from src_py.model.pace import (
    machine_line,
    prediction_lengths,
    prediction_seconds,
    seconds_like,
    sequence_lengths,
)
from src_py.pairs.encode import Reading
from src_py.training.checkpoints import checkpoint_bytes, disk_needed
from src_py.training.measure import Measured, measure
from src_py.training.work import TrainingWork, steps_done, training_work

CARD_SHARE = 0.85  # of a card's memory that tensors may fill: its context and fragmentation take the rest


@dataclass(frozen=True)
class Plan:
    """What the run still has to do.

    Attributes:
        folds: folds to be trained; those that are finished are not among them.
        models: folds that predict the test rows.
        test_rows: rows of the test table.
        processes: as in `fit`; 0 is one for each GPU.
    """

    folds: int
    models: int
    test_rows: int
    processes: int = 0


@dataclass(frozen=True)
class Forecast:
    """What a run will take; in a notebook its table, and a sentence for each thing that does not fit.

    Attributes:
        spent, training, evaluation, validation, test: seconds of the run so far, of the optimizer steps of all folds,
            of their evaluations and checkpoints, of the validation rows and saving the models, and of the test rows.
        hidden: seconds that the scoring run takes for `HIDDEN_ROWS` test rows.
        seconds: what the run may take, from CFG.hours.
        peak, card: bytes of GPU memory in a training step, and that tensors can use of the GPU's (`CARD_SHARE`); NaN
            without one.
        disk, room: bytes that the results take at the peak, and that there are.
        steps, evaluations, test_rows, epochs, micro_batch, folds: of the run.
        half: whether models are stored in fp16.
        machine: what was measured, in one line.
    """

    spent: float
    training: float
    evaluation: float
    validation: float
    test: float
    hidden: float
    seconds: float
    peak: float
    card: float
    disk: float
    room: float
    steps: int
    evaluations: int
    test_rows: int
    epochs: float
    micro_batch: int
    folds: int = 1
    half: bool = True
    machine: str = ""

    @property
    def total(self) -> float:
        """Seconds of the whole run, from its beginning."""
        return self.spent + self.training + self.evaluation + self.validation + self.test

    @property
    def table(self) -> pd.DataFrame:
        """One row a stage, then memory and disk: forecast, limit (NaN where there is none), and their unit."""
        minutes = {
            "so far": (self.spent, math.nan),
            f"training: {self.steps:,} steps": (self.training, math.nan),
            f"evaluations, checkpoints: {self.evaluations:,}": (self.evaluation, math.nan),
            "validation rows, saving the models": (self.validation, math.nan),
            f"submission: {self.test_rows:,} test rows": (self.test, math.nan),
            "the whole run": (self.total, self.seconds),
            f"scoring run: {HIDDEN_ROWS:,} test rows": (self.hidden, 3600 * COMPETITION_HOURS),
        }
        gigabytes = {"GPU memory of a training step": (self.peak, self.card), "disk": (self.disk, self.room)}
        rows = [(*(value / 60 for value in pair), "minutes") for pair in minutes.values()]
        rows += [(*(value / 1e9 for value in pair), "GB") for pair in gigabytes.values()]
        return pd.DataFrame(rows, index=[*minutes, *gigabytes], columns=["forecast", "limit", "unit"])

    @property
    def problems(self) -> list[str]:
        """One sentence for each thing that does not fit, with the field of CFG to change."""
        found = []
        if self.total > self.seconds:
            found.append(
                f"The whole run would take {self.total / 3600:.1f} hours, and CFG.hours is {self.seconds / 3600:g}: "
                f"training would stop early. {self._shorter()}"
            )
        if self.hidden > 3600 * COMPETITION_HOURS:
            found.append(
                f"Kaggle's scoring run would take {self.hidden / 3600:.1f} hours for {HIDDEN_ROWS:,} test rows, and is "
                f"ended after {COMPETITION_HOURS}: {self._fewer_folds}lower CFG.max_length."
            )
        if self.peak > self.card:
            smaller = "lower CFG.max_length or raise CFG.freeze_layers"
            if self.micro_batch > 1:
                smaller = f"set CFG.micro_batch = {self.micro_batch // 2}, which leaves the optimizer step as it is"
            usable = f"the {self.card / 1e9:.1f} GB that can be used of the GPU's memory"
            if math.isfinite(self.peak):
                found.append(f"A training step needs {self.peak / 1e9:.1f} GB, more than {usable}: {smaller}.")
            else:
                found.append(f"A training step does not fit into {usable}: {smaller}.")
        if self.disk > self.room:
            advice = ["train fewer CFG.folds at a time"] if self.folds > 1 else []
            advice += [] if self.half else ["set CFG.save_fp16 = True"]
            advice = advice or ["free some space, or take a smaller encoder"]
            found.append(
                f"The results need {self.disk / 1e9:.1f} GB of disk, and there is room for {self.room / 1e9:.1f} GB: "
                f"{', or '.join(advice)}."
            )
        return found

    def against(self, clock: Clock) -> pd.DataFrame:
        """Forecast and truth of the stages Train and Submission, in minutes, once `clock` has marked them."""
        trained = self.training + self.evaluation + self.validation
        forecast = {"Train (training, evaluations, validation rows)": trained, "Submission": self.test}
        truth = {stage: clock.spent(stage.split(" (")[0]) for stage in forecast}
        table = pd.DataFrame({"forecast": forecast, "truth": truth}) / 60
        return table.assign(**{"truth / forecast": table["truth"] / table["forecast"]}).rename_axis("minutes")

    @property
    def _fewer_folds(self) -> str:
        return "train fewer CFG.folds, or " if self.folds > 1 else ""

    def _shorter(self) -> str:
        """What makes the run fit: fewer epochs, if some are left then."""
        trained = self.training + self.evaluation
        epochs = math.floor(10 * self.epochs * (1 - (self.total - self.seconds) / trained)) / 10
        advice = [f"lower CFG.epochs from {self.epochs:g} to {epochs:g}"] if epochs > 0 else []
        advice += (["train fewer CFG.folds"] if self.folds > 1 else []) + ["lower CFG.max_length"]
        if self.total <= 3600 * COMPETITION_HOURS:
            advice.append(f"raise CFG.hours to {math.ceil(self.total / 360) / 10:g}")
        text = ", ".join(advice[:-1]) + f", or {advice[-1]}."
        return text[0].upper() + text[1:]

    def __repr__(self) -> str:
        return "\n".join([self.machine, self.table.to_string(na_rep="-", float_format=_number), *self.problems])

    def _repr_html_(self) -> str:
        said = "".join(f"<p><b>{sentence}</b></p>" for sentence in self.problems)
        return f"<p>{self.machine}</p>{self.table.to_html(na_rep='-', float_format=_number)}{said}"


def forecast_run(
    trainer, tokenizer, table: pd.DataFrame, reading: Reading, plan: Plan, clock: Clock, seconds: float = 10.0
) -> Forecast:
    """Measure this machine for about `seconds`, and say what the rest of the run will take.

    The minutes are those of a few measured parts, times the encoder calls and tokens that the run's own batching makes
    of its rows. Test rows are taken to be as long as the training rows. Not counted: communication between the
    GPUs' processes and their start, loading models, tables and plots. Nothing is changed: training is bit-identical
    with and without this call.

    Args:
        trainer: of the first fold to be trained, which may have a checkpoint; other folds are taken to be like it.
        table: training rows from `load_pairs`.
        reading: of predictions.

    Raises:
        InputError: as for `measure`.
    """
    lengths, eval_lengths = sequence_lengths(trainer.train_dataset), sequence_lengths(trainer.eval_dataset)
    measured = measure(trainer, tokenizer, table, reading, lengths, eval_lengths, seconds)
    processes = plan.processes or max(1, len(visible_gpus()))
    output, half = trainer.args.output_dir, trainer.job["settings"]["save_fp16"]
    whole = training_work(trainer, lengths, eval_lengths, processes)
    averaged = trainer.ema > 0
    done = steps_done(output, averaged)
    resumed = training_work(trainer, lengths, eval_lengths, processes, done) if done else whole
    work = [resumed] + [whole] * (plan.folds - 1)
    on_card = trainer.args.device.type == "cuda"
    sharing = 1 if on_card else processes  # processes on a CPU share its cores
    checkpoint = checkpoint_bytes(trainer.model, averaged)
    disk = disk_needed(trainer.model, plan.folds, half, averaged)
    saved = disk - 3 * checkpoint
    written = sum(fold.evaluations for fold in work) * checkpoint + saved
    # Gradients lie a second time in the buckets of DistributedDataParallel.
    trained = sum(4 * p.numel() for p in trainer.model.parameters() if p.requires_grad)
    buckets = trained if processes > 1 else 0
    averages = trained if averaged else 0
    # What was cut to the training's length may be read further in prediction.
    validated = prediction_lengths(trainer.eval_dataset, reading)
    every = np.concatenate([prediction_lengths(trainer.train_dataset, reading), validated])
    beside = measured.tokenise + measured.row
    test, hidden = (
        plan.models * seconds_like(every, rows, measured.prediction, beside) for rows in (plan.test_rows, HIDDEN_ROWS)
    )
    return Forecast(
        spent=time.time() - clock.begun,
        training=sharing * sum(_steps(fold, measured) for fold in work),
        evaluation=sharing * sum(_evaluations(fold, measured) for fold in work) + written * measured.save,
        validation=plan.folds * prediction_seconds(validated, measured.prediction, beside),
        test=test,
        hidden=hidden,
        seconds=clock.limit - clock.begun,
        peak=measured.peak + buckets + averages,
        card=CARD_SHARE * torch.cuda.get_device_properties(trainer.args.device).total_memory if on_card else math.nan,
        disk=disk,
        room=min(LIMIT, free_bytes(output)),
        steps=sum(fold.steps for fold in work),
        evaluations=sum(fold.evaluations for fold in work),
        test_rows=plan.test_rows,
        epochs=trainer.args.num_train_epochs,
        micro_batch=trainer.micro_batch,
        folds=plan.folds,
        half=half,
        machine=machine_line(measured.flops, measured.traffic),
    )


def _steps(work: TrainingWork, measured: Measured) -> float:
    forward_backward = measured.training.seconds(work.forward_backward)
    return forward_backward + work.steps * measured.step + work.rows * measured.row


def _evaluations(work: TrainingWork, measured: Measured) -> float:
    return work.evaluations * (measured.prediction.seconds(work.forward) + work.evaluated * measured.row)


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
