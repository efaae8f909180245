"""Trainings that were broken off: which checkpoint is trusted, what is gone on with, and when time is up."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from src_py.config import configure
from src_py.errors import InputError
from src_py.evaluation.report import history_table
from src_py.kaggle.clock import Clock
from src_py.kaggle.resume import TABULAR, begin_run, end_run, finished_folds, open_folds, run_key
from src_py.kaggle.session import start_session
from src_py.model.preference import adapt, build_model
from src_py.pairs.encode import encode_pairs
from src_py.training.checkpoints import last_good_checkpoint
from src_py.training.run import TimeLimit, run_training
from src_py.training.trainer import make_trainer


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    encoded = encode_pairs(pairs[:80], tokenizer, max_length=48)

    def make(name="out", **changes):
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])  # with dropout: random numbers go on too
        adapt(model, freeze_embeddings=True, freeze_layers=0, reinit_layers=0)
        options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 4, "warmup": 0.25}
        options |= {"evals_per_epoch": 2, "precision": "fp32", "seed": 0}
        train, valid = encoded.select(range(64)), encoded.select(range(64, 80))
        return make_trainer(model, train, valid, tokenizer.pad_token_id, tmp_path / name, **options | changes)

    return make


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
    def test_a_training_goes_on_as_if_nothing_had_happened(self, new_trainer, step, capsys):
        undisturbed = run(new_trainer("other"))
        broken_off(new_trainer, step)
        again = run(new_trainer())
        assert "Going on from" in capsys.readouterr().out
        pd.testing.assert_frame_equal(again[0], undisturbed[0])
        for name, value in undisturbed[1].items():
            torch.testing.assert_close(again[1][name], value, rtol=0, atol=0, msg=name)

    @pytest.mark.parametrize(
        ("file", "damage", "told"),
        [
            ("trainer_state.json", Path.unlink, "broken off before"),
            ("trainer_state.json", cut_short, "damaged"),
            ("model.safetensors", cut_short, "damaged"),
            ("model.safetensors", Path.unlink, "broken off before"),
            ("optimizer.pt", flip_a_byte, "damaged"),
            ("optimizer.pt", cut_short, "damaged"),
            ("rng_state.pth", cut_short, "damaged"),
            ("scheduler.pt", Path.unlink, "broken off before"),
        ],
    )
    def test_a_damaged_checkpoint_is_left_out_and_the_one_before_is_used(
        self, new_trainer, tmp_path, file, damage, told, capsys
    ):
        broken_off(new_trainer, 5)
        steps = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
        damage(tmp_path / "out" / steps[-1] / file)
        found = last_good_checkpoint(tmp_path / "out")
        assert told in capsys.readouterr().out
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

    def test_a_full_disk_is_told_in_one_sentence(self, new_trainer, monkeypatch):
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

    def test_a_late_training_is_told_early_and_stops_in_time(self, now, capsys):
        steps, control = self.train(now, until=1000 + 120)
        assert control.should_evaluate
        assert control.should_save
        assert 50 < steps < 120
        assert now.seconds + 8 <= 1120, "the last evaluation and the prediction of 16 rows fit in"
        told = capsys.readouterr().out
        assert "At this pace" in told
        assert "the time is up" in told

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


class TestRuns:
    @pytest.fixture
    def mounts(self, tmp_path):
        (tmp_path / "in").mkdir()
        return tmp_path / "in"

    def left(self, folder, key, finished=False, folds=(0,), steps=()):
        for fold in folds:
            (folder / f"fold_{fold}").mkdir(parents=True)
            (folder / f"fold_{fold}/preference.json").write_text("{}")
        for step in steps:
            (folder / f"checkpoints/fold_1/checkpoint-{step}").mkdir(parents=True)
            (folder / f"checkpoints/fold_1/checkpoint-{step}/weights").write_text("w")
        (folder / "finetune_run.json").write_text(json.dumps({"key": key, "finished": finished}))
        return folder

    def test_the_same_run_goes_on_where_it_is(self, tmp_path, mounts):
        out = self.left(tmp_path / "out", "k", steps=(3,))
        begin_run(out, mounts, "k")
        assert open_folds(out, (0, 1)) == [1]
        assert (out / "checkpoints/fold_1/checkpoint-3").is_dir()

    def test_another_run_starts_afresh(self, tmp_path, mounts):
        out = self.left(tmp_path / "out", "other", steps=(3,))
        begin_run(out, mounts, "k")
        assert open_folds(out, (0, 1)) == [0, 1]
        assert not (out / "checkpoints").exists()

    def test_an_attached_broken_off_run_is_taken_over_and_left_as_it_is(self, tmp_path, mounts, capsys):
        attached = self.left(mounts / "notebooks/me/nb", "k", steps=(3, 6))
        self.left(mounts / "notebooks/me/old", "other")
        for folder in [*attached.rglob("*"), attached]:
            folder.chmod(0o555 if folder.is_dir() else 0o444)
        begin_run(tmp_path / "out", mounts, "k")
        for folder in [attached, *attached.rglob("*")]:
            folder.chmod(0o755)
        assert open_folds(tmp_path / "out", (0, 1)) == [1]
        target = tmp_path / "out/checkpoints/fold_1/checkpoint-6/weights"
        assert os.stat(target).st_mode & 0o200, "a copy can be written"
        assert "other settings" in capsys.readouterr().out

    def test_a_finished_run_is_for_predicting_a_broken_off_one_only_in_the_scoring_run(self, mounts, monkeypatch):
        done, open_ = self.left(mounts / "done", "k", finished=True), self.left(mounts / "open", "k")
        monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
        assert finished_folds(mounts) == [done / "fold_0"]
        monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
        assert finished_folds(mounts) == [done / "fold_0", open_ / "fold_0"]

    def test_the_end_removes_checkpoints_and_says_so(self, tmp_path, mounts):
        out = self.left(tmp_path / "out", "k", steps=(3,))
        end_run(out, "k")
        assert not (out / "checkpoints").exists()
        assert json.loads((out / "finetune_run.json").read_text()) == {"key": "k", "finished": True}

    def test_a_broken_record_is_no_record(self, tmp_path, mounts):
        out = self.left(tmp_path / "out", "k")
        (out / "finetune_run.json").write_text('{"key": "k", "fin')
        begin_run(out, mounts, "k")
        assert open_folds(out, (0,)) == [0]

    def test_the_key_knows_what_changes_a_result(self, tmp_path, tiny):
        from dataclasses import dataclass

        @dataclass
        class CFG:
            lr: float = 0.1
            output_dir: str = "."
            folds: tuple[int, ...] = (0,)

        data = tmp_path / "train.csv"
        data.write_text("x")
        key = run_key(CFG(), data, tiny)
        assert key == run_key(configure(CFG(), "output_dir=elsewhere folds=0,1"), data, tiny)
        assert key != run_key(configure(CFG(), "lr=0.2"), data, tiny)
        data.write_text("y")
        assert key != run_key(CFG(), data, tiny)

    def test_a_tabular_run_keeps_embeddings_whatever_its_settings_and_folds_only_of_its_own(self, tmp_path, mounts):
        attached = mounts / "notebooks/me/nb"
        for name in ("tabular/fold_0.npz", "embeddings/block.npz"):
            (attached / name).parent.mkdir(parents=True)
            (attached / name).write_text("x")
        (attached / "tabular_run.json").write_text(json.dumps({"key": "k", "finished": False}))
        out = tmp_path / "out"
        begin_run(out, mounts, "k", TABULAR)
        assert (out / "tabular/fold_0.npz").is_file()
        assert (out / "embeddings/block.npz").is_file()
        begin_run(out, mounts, "other", TABULAR)
        assert not (out / "tabular").exists()
        assert (out / "embeddings/block.npz").is_file()
        end_run(out, "other", TABULAR)
        assert (out / "embeddings/block.npz").is_file()
        assert finished_folds(mounts) == [], "no fine-tuned model"

    def test_a_folder_that_cannot_be_written_is_told(self, tmp_path, mounts):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=r"CFG\.output_dir"):
            begin_run(tmp_path / "file" / "out", mounts, "k")
