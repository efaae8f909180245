"""Progress between evaluations: it says the right figures, rarely where nobody watches, and changes nothing."""

import re
import time
from types import SimpleNamespace

import pytest
import torch

from src_py.kaggle import page
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import Reading, encode_pairs
from src_py.training import progress
from src_py.training.progress import Progress
from src_py.training.run import run_training
from src_py.training.trainer import TrainingSettings, make_trainer


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves: `now.seconds`."""
    moved = SimpleNamespace(seconds=1000.0)
    for module in (page, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: moved.seconds))
    return moved


def train(now, steps=200, every=50, step=2.0, evaluation=10.0, first=60.0):
    """A training of 16 pairs a step, whose first step takes `first` seconds."""
    losses: list[tuple[int, float]] = []
    shown = Progress(lambda: losses, batch_size=16, eval_rows=480)
    args = SimpleNamespace(eval_strategy="steps", eval_steps=every)
    state, control = SimpleNamespace(global_step=0, max_steps=steps), SimpleNamespace()
    shown.on_train_begin(args, state, control)
    left = []
    while state.global_step < steps:
        now.seconds += step if state.global_step else first
        state.global_step += 1
        losses.append((state.global_step, 1.0 if state.global_step > 100 else 2.0))
        shown.on_step_end(args, state, control)
        left.append((shown.seconds_left(args, state), state.global_step))
        if state.global_step % every == 0:
            for _ in range(10):
                now.seconds += evaluation / 10
                shown.on_prediction_step(args, state, control, eval_dataloader=range(10))
            shown.on_evaluate(args, state, control)
            shown.on_save(args, state, control)
    shown.on_train_end(args, state, control)
    return left


def test_lines_come_at_most_once_a_minute_with_loss_pace_and_time_left(now, capsys):
    begun = now.seconds
    train(now)
    said = capsys.readouterr().out.splitlines()
    assert 5 < len(said) <= (now.seconds - begun) / 60 + 1
    assert re.fullmatch(r"step 1 of 200: loss 2\.0000", said[0]), "one step says nothing of the pace"
    assert re.fullmatch(r"step 31 of 200: loss 2\.0000, 8\.0 pairs/s, 0:0\d:\d\d left", said[1])
    assert any("loss 1.0000" in line for line in said)
    assert re.fullmatch(r"training ended after 200 of 200 steps, 0:08:18, 8\.0 pairs/s", said[-1])


def test_the_time_left_counts_steps_and_evaluations_but_not_the_warm_up(now):
    left = train(now)
    assert left[0][0] is None
    for seconds, step in left[50:]:  # an evaluation was measured
        evaluations = 4 - step // 50 + (step % 50 == 0)
        assert seconds == pytest.approx(2 * (200 - step) + 10 * evaluations, abs=10.001)


def test_a_long_evaluation_shows_how_far_it_is(now, capsys):
    train(now, steps=2, every=1, evaluation=1000.0)
    assert "step 1 of 2: evaluating, 10% of 480 pairs" in capsys.readouterr().out


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    encoded = encode_pairs(pairs[:80], tokenizer, Reading(max_length=48))

    def make(name):
        torch.manual_seed(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings())
        settings = TrainingSettings(epochs=1, lr=1e-3, head_lr=1e-3, evals_per_epoch=2)
        sets = encoded.select(range(64)), encoded.select(range(64, 80))
        return make_trainer(model, *sets, tokenizer.pad_token_id, tmp_path / name, settings)

    return make


def test_a_training_is_bit_identical_with_and_without_it(new_trainer, monkeypatch, capsys):
    weights = []
    for name, seconds in (("shown", 0.0), ("silent", 1e9)):
        monkeypatch.setattr(page, "LINE_SECONDS", seconds)
        trainer = new_trainer(name)
        run_training(trainer, stop=False, until=time.time() + 3600, rows_after=0)
        said = capsys.readouterr().out
        assert ("step 3 of 4: loss" in said) == (name == "shown")
        assert "evaluating" in said or name == "silent"
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_it_reads_no_loss_from_the_device_itself(new_trainer, monkeypatch):
    """One read a step is the watcher's; a second one would make the host wait again."""
    reads, item = [], torch.Tensor.item

    def counted(tensor):
        reads.append(tensor)
        return item(tensor)

    counts = []
    for name, seconds in (("shown", 0.0), ("silent", 1e9)):
        monkeypatch.setattr(page, "LINE_SECONDS", seconds)
        trainer = new_trainer(name)
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "item", counted)
            run_training(trainer, stop=False, until=time.time() + 3600, rows_after=0)
        counts.append(len(reads))
        reads.clear()
    assert counts[0] == counts[1] > 0
