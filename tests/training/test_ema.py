"""Averaged weights: what is evaluated, stored and returned; training goes on with its own weights."""

import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from src_py.evaluation.report import history_table
from src_py.kaggle.files import LIMIT
from src_py.kaggle.session import start_session
from src_py.model.lora import add_lora, lora_of
from src_py.model.predict import predict_logits
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import Reading, encode_pairs
from src_py.training import batches
from src_py.training.checkpoints import UNAVERAGED, checkpoint_bytes, disk_needed, last_good_checkpoint
from src_py.training.ema import Average
from src_py.training.processes import fit
from src_py.training.run import run_training
from src_py.training.trainer import TrainingSettings, make_trainer


@pytest.fixture
def encoded(tokenizer, pairs):
    return encode_pairs(pairs[:80], tokenizer, Reading(max_length=48))


@pytest.fixture
def new_trainer(tiny, tokenizer, encoded, tmp_path):
    def make(name="out", rank=0, **changes):
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])  # with dropout: random states matter
        if rank:
            add_lora(model.encoder, rank)
        options = {"epochs": 1, "lr": 3e-3, "batch_size": 16, "micro_batch": 4, "evals_per_epoch": 2, "ema": 0.9}
        train, valid = encoded.select(range(64)), encoded.select(range(64, 80))
        folder = tmp_path / name
        return make_trainer(model, train, valid, tokenizer.pad_token_id, folder, TrainingSettings(**options | changes))

    return make


class Weights(TrainerCallback):
    """The weights that training goes on with, after each step."""

    def __init__(self, trainer, break_off=None):
        self.model, self.break_off, self.seen = trainer.model, break_off, []
        trainer.add_callback(self)

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.break_off:
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **_):
        self.seen.append({n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad})


def run(trainer, break_off=None):
    seen = Weights(trainer, break_off).seen
    run_training(trainer, stop=False, until=time.time() + 3600, rows_after=16)
    return seen


def averages(seen, start, decay=0.9):
    """The average after each step, by hand."""
    value, found = dict(start), []
    for step, weights in enumerate(seen, 1):
        kept = min(decay, (1 + step) / (10 + step))
        value = {name: kept * old + (1 - kept) * weights[name] for name, old in value.items()}
        found.append(value)
    return found


def start_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_weights(model, expected, **tolerance):
    state = model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, msg=name, **tolerance)


CLOSE = {"atol": 1e-6, "rtol": 1e-5}


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
def test_a_short_training_does_not_end_with_its_first_weights(decay):
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1e6)
    average = Average(layer, decay)
    torch.nn.init.zeros_(layer.weight)
    for step in range(1, 61):
        average.update(step)
    assert 0 <= average.values["weight"].item() < 0.01, "of a million"


def test_a_long_training_has_the_decay_that_was_asked_for():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.9)
    torch.nn.init.ones_(layer.weight)
    for step in (1000, 1001, 1002):
        average.update(step)
    assert average.values["weight"].item() == pytest.approx(1 - 0.9**3)


def test_without_evaluations_the_last_average_is_the_model(new_trainer):
    trainer = new_trainer(evals_per_epoch=0)
    start = start_of(trainer)
    seen = run(trainer)
    assert len(seen) == 4
    assert_weights(trainer.model, averages(seen, start)[-1], **CLOSE)
    assert not torch.equal(trainer.model.head.score.weight, seen[-1]["head.score.weight"])


def test_training_itself_is_the_same_and_evaluations_are_of_the_average(new_trainer, encoded, tokenizer):
    plain = new_trainer("plain", ema=0.0)
    one = run(plain)
    averaged = new_trainer("averaged")  # with the random state that the other had
    start = start_of(averaged)
    other = run(averaged)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    history = [history_table(trainer.state.log_history) for trainer in (plain, averaged)]
    assert history[0]["training loss"].tolist() == history[1]["training loss"].tolist()
    expected, valid = averages(other, start), encoded.select(range(64, 80))
    labels = torch.tensor(valid["labels"])
    for step, loss in history[1]["log loss"].items():
        averaged.model.load_state_dict(expected[step - 1], strict=False)
        logits = torch.tensor(predict_logits(averaged.model, valid, tokenizer.pad_token_id))
        assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(loss, abs=1e-5)
    assert (history[0]["log loss"] - history[1]["log loss"]).abs().max() > 1e-4


def test_the_best_checkpoint_comes_back_averaged(new_trainer):
    trainer = new_trainer(lr=0.03)
    start = start_of(trainer)
    seen = run(trainer)
    best = trainer.state.best_global_step
    assert_weights(trainer.model, averages(seen, start)[best - 1], **CLOSE)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_a_training_resumes_as_if_nothing_had_happened(new_trainer, rank, tmp_path):
    options = {"rank": rank, "schedule": "cosine"}
    undisturbed = new_trainer("other", **options)
    run(undisturbed)
    with pytest.raises(KeyboardInterrupt):
        run(new_trainer(**options), break_off=3)
    stored = last_good_checkpoint(tmp_path / "out", averaged=True)
    raw, average = load_file(stored / UNAVERAGED), load_file(stored / "model.safetensors")
    assert not torch.equal(raw["head.score.weight"], average["head.score.weight"])
    again = new_trainer(**options)
    assert len(run(again)) == 2, "steps 3 and 4"
    for name, value in undisturbed.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    histories = [history_table(trainer.state.log_history) for trainer in (again, undisturbed)]
    pd.testing.assert_frame_equal(*histories)
    assert lora_of(again.model.encoder) == (rank, 0)
    if rank:
        assert all("lora_" in name or name.startswith("head.") for name in raw)
        assert any(p.any() for name, p in again.model.named_parameters() if "lora_B" in name), "adapters are trained"


def test_a_checkpoint_without_the_weights_themselves_is_left_out(new_trainer, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(new_trainer(), break_off=3)
    found = last_good_checkpoint(tmp_path / "out", averaged=True)
    data = (found / UNAVERAGED).read_bytes()
    (found / UNAVERAGED).write_bytes(data[:-100])
    last_good_checkpoint(tmp_path / "out", averaged=True)
    assert f"{UNAVERAGED} is damaged" in capsys.readouterr().out
    assert not found.exists()


def test_a_skipped_step_does_no_harm(new_trainer):
    """As a GradScaler skips it: the optimizer does nothing, and the average meets the same weights again."""
    trainer = new_trainer(evals_per_epoch=0)
    start, step = start_of(trainer), trainer.optimizer.step
    trainer.optimizer.step = lambda *a, **k: None if trainer.state.global_step in (1, 2) else step(*a, **k)
    seen = run(trainer)
    assert torch.equal(seen[2]["head.score.weight"], seen[0]["head.score.weight"])
    assert_weights(trainer.model, averages(seen, start)[-1], **CLOSE)


def test_the_disk_holds_what_was_forecast(new_trainer, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(batches, "require_space", lambda folder, size, what: asked.append(size))
    trainer = new_trainer()
    run(trainer)
    stored = sum(path.stat().st_size for path in next((tmp_path / "out").glob("checkpoint-*")).iterdir())
    expected = checkpoint_bytes(trainer.model, averaged=True)
    assert asked == [expected] * 2
    assert stored == pytest.approx(expected, rel=0.25)  # the tiny model's names and states weigh more than a real one's
    assert disk_needed(trainer.model, 1, True, True) - disk_needed(trainer.model, 1, True) == pytest.approx(
        3 * 4 * sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    )
    assert disk_needed(trainer.model, 1, True, True) < LIMIT


@pytest.mark.slow
def test_two_processes_average_and_adapt_as_one_does(tiny, tokenizer, encoded, tmp_path):
    def trained(processes):
        start_session(0)
        options = ModelSettings(dropout=0.0, lora_rank=4, freeze_layers=1)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], options)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.encoder.config.hidden_dropout_prob = model.encoder.config.attention_probs_dropout_prob = 0.0
        train, valid = encoded.select(range(64)), encoded.select(range(64, 80))
        settings = TrainingSettings(epochs=2, lr=3e-3, batch_size=16, micro_batch=4, evals_per_epoch=2, ema=0.9)
        folder = tmp_path / str(processes)
        trainer = make_trainer(model, train, valid, tokenizer.pad_token_id, folder, settings)
        fit(trainer, stop=False, until=time.time() + 3600, rows_after=16, processes=processes)
        return trainer

    one, two = trained(1), trained(2)
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)
    tables = [torch.tensor(history_table(trainer.state.log_history).to_numpy()) for trainer in (one, two)]
    torch.testing.assert_close(*tables, atol=2e-4, rtol=1e-3)
    assert lora_of(two.model.encoder) == (4, 1)
