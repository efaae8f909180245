"""A training that the watcher stops ends the run: it is said, no further fold is trained, nobody predicts with it."""

import json
import runpy
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

import src_py.training
from src_py.model import build_model
from src_py.pairs import Reading, encode_pairs
from src_py.training import TrainingSettings, fit, make_trainer
from tools.demo_data import write_contest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/finetune_deberta.py"
CFG = "max_length=128 epochs=2 n_folds=3 folds=0,1 evals_per_epoch=1 lr=0.001 head_lr=0.001"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stop", [True, False])
def test_fit_says_why_the_watcher_stopped(tiny, tokenizer, pairs, tmp_path, processes, stop):
    """Far too high a rate: every row soon gets the same prediction."""
    encoded = encode_pairs(pairs[:240], tokenizer, Reading(max_length=48))
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
    settings = TrainingSettings(epochs=6, lr=0.5, head_lr=1e-5, warmup=0.02, evals_per_epoch=2, layer_decay=1.0)
    sets = encoded.select(range(60, 240)), encoded.select(range(60))
    trainer = make_trainer(model, *sets, tokenizer.pad_token_id, tmp_path / "out", settings)
    reason = fit(trainer, stop, time.time() + 3600, 0, processes, scratch=tmp_path / "scratch")
    assert ("step" in reason) == stop
    assert (trainer.state.global_step < trainer.state.max_steps) == stop
    assert not (tmp_path / "scratch/job").exists()


@pytest.mark.slow
def test_the_notebook_trains_no_further_fold_and_its_output_is_not_for_predicting(tmp_path, tiny, monkeypatch, capsys):
    write_contest(tmp_path / "in/contest", train_rows=90, test_rows=6)
    shutil.copytree(tiny, tmp_path / "in/tiny")

    def stopped_in_the_first_fold(*args, **options):
        return fit(*args, **options) or "step 3: every row gets the same prediction."

    def run(out, cfg=CFG):
        (tmp_path / out).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / out)
        monkeypatch.setenv("RECIPE_CFG", f"input_dir={tmp_path / 'in'} {cfg}")
        monkeypatch.setenv("MPLBACKEND", "agg")
        runpy.run_path(str(NOTEBOOK))
        return capsys.readouterr().out

    with monkeypatch.context() as patched:
        patched.setattr(src_py.training, "fit", stopped_in_the_first_fold)
        said = run("one")
    assert "The watcher stopped fold_0. step 3: every row gets the same prediction." in said
    assert "NOT LEARNED: this submission comes from a training that was stopped" in said
    assert "judged so (fold_0: " in said
    assert not (tmp_path / "one/fold_1").exists()
    assert json.loads((tmp_path / "one/finetune_deberta_run.json").read_text())["learned"] is False
    assert len(pd.read_csv(tmp_path / "one/submission.csv")) == 6
    said = run("one")
    assert "NOT LEARNED" in said, "run again, nothing has changed"
    assert not (tmp_path / "one/fold_1").exists()
    shutil.copytree(tmp_path / "one", tmp_path / "in/one")
    said = run("two")
    assert "PREDICTING ONLY" not in said
    said = run("one", f"{CFG} mode=train stop_on_failure=no")
    assert "Models to train: fold_0 fold_1" in said, "a stopped model is trained on request"
    assert (tmp_path / "one/fold_1").is_dir()
