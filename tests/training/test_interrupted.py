"""Interrupted trainings: which checkpoint is used, and what happens when time is up."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from src_py.errors import InputError
from src_py.evaluation.report import history_table, plot_learning
from src_py.kaggle.clock import Clock
from src_py.kaggle.session import start_session
from src_py.model.preference import build_model
from src_py.pairs.encode import Reading, encode_pairs
from src_py.training.checkpoints import last_good_checkpoint
from src_py.training.run import TimeLimit, run_training
from src_py.training.trainer import TrainingSettings, make_trainer


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    encoded = encode_pairs(pairs[:80], tokenizer, Reading(max_length=48))

    def make(name="out", **changes):
        start_session(0)
        model = build_model(
            tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31]
        )  # with dropout, so that random states matter
        options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 4, "warmup": 0.25}
        options |= {"evals_per_epoch": 2}
        train, valid = encoded.select(range(64)), encoded.select(range(64, 80))
        return make_trainer(
            model, train, valid, tokenizer.pad_token_id, tmp_path / name, TrainingSettings(**options | changes)
        )

    return make


def test_a_training_whose_time_is_up_at_once_has_a_history_and_a_picture(new_trainer):
    trainer = new_trainer(evals_per_epoch=1)
    run_training(trainer, stop=True, until=time.time(), rows_after=16)
    history = history_table(trainer.state.log_history)
    assert trainer.state.global_step == 1
    assert history[["training loss", "log loss"]].notna().all().all()
    for columns in (["log loss"], ["epoch"]):
        assert plot_learning(history[columns], {"constant predictor": 1.1}).axes


class BreakOff(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def run(trainer, seconds=3600, break_off=None, rows_after=16):
    if break_off is not None:
        trainer.add_callback(BreakOff(break_off))
    run_training(trainer, stop=False, until=time.time() + seconds, rows_after=rows_after)
    return history_table(trainer.state.log_history), trainer.model.state_dict()


def broken_off(new_trainer, step):
    with pytest.raises(KeyboardInterrupt):
        run(new_trainer(), break_off=step)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


class TestCheckpoints:
    @pytest.mark.parametrize("step", [3, 5, 7])
    def test_a_training_resumes_as_if_nothing_had_happened(self, new_trainer, step, capsys):
        undisturbed = run(new_trainer("other"))
        broken_off(new_trainer, step)
        again = run(new_trainer())
        assert "Resuming from" in capsys.readouterr().out
        pd.testing.assert_frame_equal(again[0], undisturbed[0])
        for name, value in undisturbed[1].items():
            torch.testing.assert_close(again[1][name], value, rtol=0, atol=0, msg=name)

    @pytest.mark.parametrize(
        ("file", "damage", "said"),
        [
            ("trainer_state.json", Path.unlink, "interrupted before"),
            ("trainer_state.json", cut_short, "damaged"),
            ("model.safetensors", cut_short, "damaged"),
            ("model.safetensors", Path.unlink, "interrupted before"),
            ("optimizer.pt", flip_a_byte, "damaged"),
            ("optimizer.pt", cut_short, "damaged"),
            ("rng_state.pth", cut_short, "damaged"),
            ("scheduler.pt", Path.unlink, "interrupted before"),
        ],
    )
    def test_a_damaged_checkpoint_is_left_out_and_the_one_before_is_used(
        self, new_trainer, tmp_path, file, damage, said, capsys
    ):
        broken_off(new_trainer, 5)
        steps = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
        damage(tmp_path / "out" / steps[-1] / file)
        found = last_good_checkpoint(tmp_path / "out")
        assert said in capsys.readouterr().out
        assert (found.name if found else None) == (steps[0] if len(steps) > 1 else None)
        assert not (tmp_path / "out" / steps[-1]).exists()
        run(new_trainer())

    def test_checkpoints_may_move(self, new_trainer, tmp_path):
        broken_off(new_trainer, 5)
        (tmp_path / "out").rename(tmp_path / "moved")
        found = last_good_checkpoint(tmp_path / "moved")
        best = json.loads((found / "trainer_state.json").read_text())["best_model_checkpoint"]
        assert Path(best).parent == tmp_path / "moved"
        assert last_good_checkpoint(tmp_path / "nowhere") is None

    def test_a_full_disk_is_one_sentence(self, new_trainer, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(InputError, match=r"No checkpoint could be written.*No space left"):
            run(new_trainer())


class TestClock:
    @pytest.fixture
    def now(self, monkeypatch):
        """A clock that the test moves: `now.seconds`."""
        moved = SimpleNamespace(seconds=1000.0)
        for module in ("kaggle.clock", "training.run"):
            monkeypatch.setattr(f"src_py.{module}.time", SimpleNamespace(time=lambda: moved.seconds))
        return moved

    def test_shares_and_stages(self, now):
        clock = Clock(1.0)
        assert clock.share(1) == clock.limit == 4600
        assert clock.share(4) == 1900
        now.seconds += 60
        clock.mark("Data")
        now.seconds += 540
        clock.mark("Train")
        assert clock.table().to_numpy().tolist() == [
            ["Data", "0:01:00", "10%"], ["Train", "0:09:00", "90%"], ["total", "0:10:00", "100%"],
        ]  # fmt: skip
        assert clock.share(3) == 1600 + 1000
        assert clock.spent("Train") == 540
        assert clock.room_for(2999)
        assert not clock.room_for(3001)
        with pytest.raises(InputError, match=r"CFG\.hours"):
            Clock(0)

    def train(self, now, until, rows_after=16, steps=200, eval_seconds=8.0):
        """A training with a step a second, evaluated every 50 steps; returns the steps done."""
        limit = TimeLimit(until, rows_after, eval_rows=16, batch_size=16)
        args, state = (
            SimpleNamespace(world_size=1, eval_strategy="steps"),
            SimpleNamespace(global_step=0, max_steps=steps),
        )
        control = SimpleNamespace(should_training_stop=False, should_evaluate=False, should_save=False)
        limit.on_train_begin(args, state, control)
        while state.global_step < steps and not control.should_training_stop:
            now.seconds += 1
            state.global_step += 1
            limit.on_step_end(args, state, control)
            if control.should_evaluate or state.global_step % 50 == 0:
                now.seconds += eval_seconds
                limit.on_evaluate(args, state, control, {"eval_runtime": eval_seconds})
        return state.global_step, control

    def test_with_time_enough_nothing_happens(self, now, capsys):
        assert self.train(now, until=1000 + 300)[0] == 200
        assert not capsys.readouterr().out

    def test_a_slow_first_step_is_a_warm_up_and_does_not_end_the_training(self, now):
        limit = TimeLimit(1000 + 300, rows_after=16, eval_rows=16, batch_size=1)
        args, state = SimpleNamespace(eval_strategy="steps"), SimpleNamespace(global_step=0, max_steps=50)
        control = SimpleNamespace(should_training_stop=False)
        limit.on_train_begin(args, state, control)
        for seconds in (40, 1, 1, 1):
            now.seconds += seconds
            state.global_step += 1
            limit.on_step_end(args, state, control)
            assert not control.should_training_stop

    def test_a_late_training_is_said_early_and_stops_in_time(self, now, capsys):
        steps, control = self.train(now, until=1000 + 120)
        assert control.should_evaluate
        assert control.should_save
        assert 50 < steps < 120
        assert now.seconds + 8 <= 1120, "the last evaluation and the prediction of 16 rows fit in"
        said = capsys.readouterr().out
        assert "At this pace" in said
        assert "the time is up" in said

    def test_the_prediction_that_follows_has_its_time_reserved(self, now):
        begun = now.seconds
        few = self.train(now, until=begun + 120, rows_after=16)[0]
        now.seconds = begun
        assert self.train(now, until=begun + 120, rows_after=36)[0] == pytest.approx(few - 10, abs=1)

    def test_a_run_out_of_time_still_takes_a_step_evaluates_and_keeps_its_best(self, new_trainer):
        trainer = new_trainer()
        history, _ = run(trainer, seconds=-10)
        assert history.index.tolist() == [1]
        assert trainer.state.best_metric == pytest.approx(history["log loss"].min())
