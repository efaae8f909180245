"""Training in fp16 with a real GradScaler: the same curve as in fp32, and overflow and short memory do no harm.

accelerate turns fp16 off on a CPU, without a word: both parts of it are switched on by hand here.
"""

import math
import os
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from src_py.evaluation.report import history_table
from src_py.kaggle.session import start_session
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import Reading, encode_pairs
from src_py.training.processes import fit
from src_py.training.run import run_training
from src_py.training.trainer import TrainingSettings, make_trainer

ROOT = Path(__file__).resolve().parents[2]
# The same in worker processes, as their interpreter starts.
SWITCHED_ON = """
import os
if "RANK" in os.environ:
    import torch
    from src_py.training.batches import BudgetTrainer

    begin = BudgetTrainer.__init__

    def switched_on(self, *args, **options):
        begin(self, *args, **options)
        self.accelerator.native_amp, self.accelerator.scaler = True, torch.amp.GradScaler("cpu")

    BudgetTrainer.__init__ = switched_on
"""


class Record(TrainerCallback):
    """Loss, learning rate and loss scale of every step."""

    def __init__(self, trainer):
        self.trainer, self.losses, self.rates, self.scales = trainer, [], [], []
        step = trainer.training_step

        def training_step(*args):
            self.losses.append(step(*args))
            return self.losses[-1]

        trainer.training_step = training_step
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **_):
        self.rates.append(self.trainer.lr_scheduler.get_last_lr()[0])

    def on_step_end(self, args, state, control, **_):
        scaler = self.trainer.accelerator.scaler
        self.scales.append(scaler.get_scale() if scaler else 1.0)

    @property
    def curve(self) -> torch.Tensor:
        return torch.stack(self.losses)


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    encoded = encode_pairs(pairs[:80], tokenizer, Reading(max_length=48))

    def make(precision="fp16", name="out", **changes):
        """64 rows in steps of 16, without dropout, so that runs can be compared."""
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(dropout=0.0))
        model.encoder.config.hidden_dropout_prob = model.encoder.config.attention_probs_dropout_prob = 0.0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 4, "warmup": 0.25}
        settings = TrainingSettings(**options | {"evals_per_epoch": 0} | changes)
        train, valid = encoded.select(range(64)), encoded.select(range(64, 80))
        folder = tmp_path / name
        trainer = make_trainer(model, train, valid, tokenizer.pad_token_id, folder, settings, precision=precision)
        if precision == "fp16":
            trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu")
        return trainer

    return make


def run(trainer, stop=True):
    record = Record(trainer)
    stopped = run_training(trainer, stop, until=time.time() + 3600, rows_after=16)
    return record, stopped


def spoil(trainer, steps):
    """The loss of these steps is infinite, and with it their gradients."""

    def hook(module, inputs, output):
        if module.training and trainer.state.global_step in steps:
            output["loss"] = output["loss"] * math.inf
        return output

    trainer.model.register_forward_hook(hook)
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.slow
def test_the_loss_curve_is_that_of_fp32_over_thirty_steps(new_trainer):
    curves, losses, seen = [], [], set()
    for precision in ("fp16", "fp32"):  # one after the other: accelerate's precision is that of the latest Trainer
        options = {"epochs": 7.5, "evals_per_epoch": 2, "lr": 4e-3, "head_lr": 4e-3}
        trainer = new_trainer(precision, precision, **options)
        query = trainer.model.encoder.encoder.layer[0].attention.self.query_proj
        query.register_forward_hook(lambda module, inputs, output, at=precision: seen.add((at, output.dtype)))
        curves.append(run(trainer, stop=False)[0].curve)
        losses.append(history_table(trainer.state.log_history)["log loss"].to_numpy())
    assert seen == {("fp16", torch.float16), ("fp32", torch.float32)}
    assert len(curves[0]) == 30
    first, last = curves[1][:4].mean(), curves[1][24:28].mean()  # epochs of the same rows
    assert last < first - 0.02, "something is learned, or the comparison says nothing"
    torch.testing.assert_close(*curves, atol=1e-3, rtol=0)
    assert abs(losses[0] - losses[1]).max() < 1e-3


def test_an_overflow_costs_its_step_and_nothing_else(new_trainer, capsys):
    """The step is skipped, the scale halved; the schedule goes on by the steps taken, and ends at zero."""
    trainer = spoil(new_trainer(), {3, 6})
    before = []
    trainer.model.register_forward_pre_hook(
        lambda *_: before.append((trainer.state.global_step, trainer.model.head.score.weight.detach().clone()))
    )
    record, stopped = run(trainer)
    assert stopped == ""
    assert trainer.state.global_step == 8
    assert [scale / 2**16 for scale in record.scales] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
    at = dict(before)
    moved = [not torch.equal(at[step], at[step + 1]) for step in range(7)]
    assert moved == [False, True, True, False, True, True, False]  # step 0 has a rate of 0, as every warmup
    rates = torch.tensor([*record.rates, trainer.lr_scheduler.get_last_lr()[0]]) / max(record.rates)
    torch.testing.assert_close(rates, torch.tensor([0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]))
    assert "NaN" not in capsys.readouterr().out


def test_a_step_that_overflowed_is_as_if_it_had_not_been(new_trainer):
    """Adam's moments and its count of steps are those of the step before."""
    trainer, states = spoil(new_trainer(), {4}), {}
    trainer.add_callback(Keep(states))
    run(trainer)
    before, after = states[4], states[5]
    assert all(torch.equal(one, other) for one, other in zip(before, after))
    assert not all(torch.equal(one, other) for one, other in zip(after, states[6]))


class Keep(TrainerCallback):
    """Adam's moments after every step, by the number of steps."""

    def __init__(self, states: dict):
        self.states = states

    def on_step_end(self, args, state, control, optimizer=None, **_):
        kept = optimizer.state.values()
        self.states[state.global_step] = [s[name].clone() for s in kept for name in ("exp_avg", "exp_avg_sq", "step")]


@pytest.mark.slow
def test_overflow_at_every_step_is_a_reason_to_stop(new_trainer, capsys):
    """Finite losses, but gradients that no scale can hold."""
    trainer = new_trainer(epochs=8)
    trainer.model.head.score.weight.register_hook(lambda gradient: gradient * math.inf)
    start = weights(trainer)
    _, stopped = run(trainer)
    assert "the last 25 fp16 steps were all skipped" in stopped
    assert stopped in capsys.readouterr().out
    assert trainer.state.global_step == 25
    assert all(torch.equal(start[name], value) for name, value in weights(trainer).items())


@pytest.mark.slow
def test_short_memory_in_fp16_gives_the_same_training(new_trainer, capsys):
    """Half of the step's scaled gradients are there when the memory runs out."""

    def limit(module, args, inputs):
        if module.training and len(inputs["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    whole, short = new_trainer(name="whole", micro_batch=6), new_trainer(name="short", micro_batch=6)
    short.model.register_forward_pre_hook(limit, with_kwargs=True)
    curves = [run(trainer)[0].curve for trainer in (whole, short)]
    assert "Out of memory: from here on at most" in capsys.readouterr().out
    torch.testing.assert_close(*curves, atol=1e-3, rtol=0)
    for (name, one), other in zip(weights(whole).items(), weights(short).values()):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2, msg=name)


@pytest.fixture
def workers_in_fp16(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SWITCHED_ON)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path / 'site'}")
    return tmp_path / "site/sitecustomize.py"


@pytest.mark.slow
def test_two_processes_in_fp16_train_what_one_does(new_trainer, workers_in_fp16):
    one, two = (new_trainer(name=name, evals_per_epoch=2) for name in ("one", "two"))
    for trainer, processes in ((one, 1), (two, 2)):
        fit(trainer, False, time.time() + 3600, rows_after=16, processes=processes)
    tables = [torch.tensor(history_table(trainer.state.log_history).to_numpy()) for trainer in (one, two)]
    torch.testing.assert_close(*tables, atol=1e-3, rtol=1e-2)
    for (name, value), other in zip(weights(one).items(), weights(two).values()):
        torch.testing.assert_close(value, other, atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.slow
def test_an_overflow_in_the_second_process_is_skipped_by_both(new_trainer, workers_in_fp16, capsys):
    """One is no reason to stop; three in a row are, and the first process says so."""
    fault = """
    loss_of = BudgetTrainer.compute_loss

    def compute_loss(self, model, inputs, *more, **options):
        spoiled = os.environ["RANK"] == "1" and model.training and self.state.global_step in (1, 3, 4, 5)
        return loss_of(self, model, inputs, *more, **options) * (float("inf") if spoiled else 1)

    BudgetTrainer.compute_loss = compute_loss
"""
    workers_in_fp16.write_text(workers_in_fp16.read_text() + fault)
    trainer = new_trainer()
    stopped = fit(trainer, True, time.time() + 3600, rows_after=16, processes=2)
    assert stopped.startswith("step 6: the loss is NaN or infinite")
    assert stopped in capsys.readouterr().out
    assert trainer.state.global_step == 6
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
