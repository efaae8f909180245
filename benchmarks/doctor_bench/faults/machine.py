"""Faults of precision, processes, evaluation and prediction."""

import numpy as np
import torch
from transformers import EvalPrediction

from benchmarks.doctor_bench.case import OURS, PLAIN
from benchmarks.doctor_bench.fault import fault
from benchmarks.doctor_bench.faults.model import head_of
from benchmarks.doctor_bench.faults.optimisation import Callback
from src_py.evaluation.metrics import evaluation_metrics

SIDES = ("prompts on both sides",)


@fault("machine", before=("bf16",), kinds=(PLAIN,))
def bf16_that_is_emulated(case):
    case.set(bf16=True)


@fault("machine", before=("GPUs",))
def data_parallel(case):
    case.edit_arguments.append(lambda args: setattr(args, "_n_gpu", 2))


@fault("machine", before=("training and evaluation mode",))
def evaluation_in_training_mode(case):
    """Dropout stays on where predictions are made."""

    def edit(trainer):
        train = trainer.model.train
        trainer.model.train = lambda mode=True: train(True)
        trainer.model.eval = lambda: train(True)

    case.edit_trainer.append(edit)


@fault("machine", before=("training and evaluation mode",))
def training_in_evaluation_mode(case):
    """Dropout is never on. On few rows it hardly matters."""

    def edit(trainer):
        train = trainer.model.train
        trainer.model.train = lambda mode=True: train(False)

    case.edit_trainer.append(edit)


@fault("machine", before=SIDES)
def evaluated_on_training_rows(case):
    def edit(tables):
        tables["valid"] = tables["train"].iloc[:200].reset_index(drop=True)

    case.edit_tables.append(edit)


@fault("machine", before=("labels of both sets",), after=("not what was evaluated",))
def metric_on_another_column(case):
    """Validation labels are those of another column."""

    def edit(data, part):
        if part != "valid":
            return data
        labels = np.random.default_rng(0).integers(case.classes, size=len(data)).tolist()
        return data.remove_columns("labels").add_column("labels", labels)

    case.edit_rows.append(edit)


@fault("machine", before=("metrics",), after=("not what was evaluated",))
def metric_of_labels_against_labels(case):
    """`compute_metrics` reads the labels where it should read the predictions."""

    def edit(trainer):
        def metrics(prediction):
            classes = prediction.predictions.shape[1] if hasattr(prediction.predictions, "shape") else case.classes
            right = 4.0 * np.eye(classes)[prediction.label_ids]
            return evaluation_metrics(EvalPrediction(predictions=right, label_ids=prediction.label_ids))

        trainer.compute_metrics = metrics

    case.edit_trainer.append(edit)


@fault("machine", before=("validation rows",))
def eight_validation_rows(case):
    def edit(tables):
        tables["valid"] = tables["valid"].iloc[:8].reset_index(drop=True)

    case.edit_tables.append(edit)


@fault("machine", before=("NaN in the log",), kinds=(PLAIN,))
def nan_hidden_in_the_log(case):
    case.set(logging_nan_inf_filter=True)

    def edit(trainer):
        def end(state=None, model=None, **_):
            if state.global_step == 20:
                next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

        trainer.add_callback(Callback(on_step_end=end))

    case.edit_trainer.append(edit)


@fault("machine", during=("NaN", "infinite"))
def loss_becomes_nan_on_the_way(case):
    """An overflow in the middle of the training."""

    def edit(trainer):
        def end(state=None, model=None, **_):
            if state.global_step == 30:
                next(p for p in model.parameters() if p.requires_grad).data.fill_(float("inf"))

        trainer.add_callback(Callback(on_step_end=end))

    case.edit_trainer.append(edit)


@fault("machine", after=("not what was evaluated",))
def head_lost_when_saved(case):
    """Predictions are made with a fresh head."""

    def edit(trainer):
        def end(model=None, **_):
            torch.manual_seed(1)
            for parameter in head_of(model):
                torch.nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else torch.nn.init.zeros_(parameter)

        trainer.add_callback(Callback(on_train_end=end))

    case.edit_trainer.append(edit)


@fault("machine", kinds=(OURS,), during=("change no weight",))
def steps_are_skipped(case):
    """A loss scale that has collapsed: nine of ten steps are not taken."""

    def edit(trainer):
        def before(model=None, state=None, **_):
            if state.global_step % 10:
                for parameter in model.parameters():
                    parameter.grad = None

        trainer.add_callback(Callback(on_pre_optimizer_step=before))

    case.edit_trainer.append(edit)


@fault("machine", after=("not what was evaluated",))
def weights_rounded_when_saved(case):
    """To seven values a matrix, after training."""

    def edit(trainer):
        def end(model=None, **_):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        scale = parameter.abs().max() / 3
                        parameter.copy_((parameter / scale).round() * scale)

        trainer.add_callback(Callback(on_train_end=end))

    case.edit_trainer.append(edit)
