"""Recipes, killed at their worst moments and run again, end as if nothing had happened."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tools.demo_data import write_contest

ROOT = Path(__file__).resolve().parents[2]
CFG = {
    "finetune_deberta": "max_length=48 n_folds=2 folds=0,1 epochs=2 evals_per_epoch=2 lr=0.002 stop_on_failure=no",
    "embed_deberta_lightgbm": "max_length=48 n_folds=2 search_minutes=0.01",
}
# Each kills the process by itself: as the interpreter starts, functions are wrapped.
KILL = """
import os

def before(owner, name, condition=lambda *a: True):
    real = getattr(owner, name)
    def wrapped(*args, **kwargs):
        if condition(*args):
            os.kill(os.getpid(), 9)
        return real(*args, **kwargs)
    setattr(owner, name, wrapped)

moment = os.environ.get("MOMENT", "")
if moment:
    import src_py.model.saved
    from src_py.training.batches import BudgetTrainer
    from transformers import Trainer

    if moment == "training":
        before(BudgetTrainer, "training_step", lambda trainer, *_: trainer.state.global_step == 6)
    if moment == "checkpointing":
        before(Trainer, "_save_optimizer_and_scheduler", lambda trainer, *_: trainer.state.global_step >= 9)
    if moment == "evaluation":
        before(BudgetTrainer, "prediction_step", lambda trainer, *_: trainer.state.global_step >= 9)
    if moment == "fold":
        before(src_py.model.saved, "save_file", lambda _, path: "fold_1" in str(path) and "head" in str(path))
    if moment == "embedding":
        import src_py.tabular.embeddings
        before(src_py.tabular.embeddings, "embed_block")
    files = {"submission": "submission", "storing": "fold_1.npz", "settings": "tabular.json"}
    if moment in files:
        before(os, "replace", lambda source, target: files[moment] in str(target))
"""


@pytest.fixture
def recipe(tmp_path, tiny):
    write_contest(tmp_path / "in", train_rows=160, test_rows=12)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(KILL)

    def start(out, moment="", name="finetune_deberta"):
        (tmp_path / out).mkdir(exist_ok=True)
        paths = os.pathsep.join(map(str, (tmp_path / "site", ROOT)))
        env = os.environ | {"PYTHONPATH": paths, "MOMENT": moment, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
        env["RECIPE_CFG"] = f"input_dir={tmp_path / 'in'} model_dir={tiny} {CFG[name]}"
        words = [sys.executable, str(ROOT / f"notebooks/{name}.py")]
        options = {"cwd": tmp_path / out, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(words, **options, text=True)

    return start


def finish(process):
    said = process.communicate()[0]
    assert process.returncode == 0, said[-3000:]
    return said


def results(folder):
    return [pd.read_csv(path) for pattern in ("oof*.csv", "submission.csv") for path in folder.glob(pattern)]


def assert_same(one, other):
    assert len(results(one)) == 2
    for a, b in zip(results(one), results(other), strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.mark.slow
def test_killed_in_training_checkpointing_evaluation_saving_and_submission(recipe, tmp_path):
    finish(recipe("undisturbed"))
    said = ""
    for moment in ("training", "checkpointing", "evaluation", "fold", "submission"):
        process = recipe("killed", moment)
        said += process.communicate()[0]
        assert process.returncode == -9, (moment, said[-3000:])
    said += finish(recipe("killed"))
    assert said.count("Resuming from") >= 3
    assert "interrupted before" in said
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")
    assert not (tmp_path / "killed/checkpoints").exists()


@pytest.mark.slow
def test_boosting_killed_in_embedding_storing_and_submission(recipe, tmp_path):
    for moment in ("embedding", "storing", "settings", "submission"):
        process = recipe("killed", moment, "embed_deberta_lightgbm")
        said = process.communicate()[0]
        assert process.returncode == -9, (moment, said[-3000:])
        if moment == "storing":
            kept = [tmp_path / "killed/tabular" / name for name in ("fold_0.npz", "options.json")]
            written = [path.stat().st_mtime_ns for path in kept]
    said = finish(recipe("killed", name="embed_deberta_lightgbm"))
    assert "fold_0, fold_1 finished" in said
    assert [path.stat().st_mtime_ns for path in kept] == written, "neither fitted nor searched again"
    # A search that is bounded by time is not the same twice: the undisturbed run has what the killed one found.
    for name in ("embed_deberta_lightgbm_run.json", "tabular/options.json"):
        (tmp_path / "undisturbed" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "killed" / name, tmp_path / "undisturbed" / name)
    assert "no fold finished" in finish(recipe("undisturbed", name="embed_deberta_lightgbm"))
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.long
def test_killed_at_twenty_random_moments(recipe, tmp_path):
    finish(recipe("undisturbed"))
    rng = random.Random(0)
    kills = 0
    while kills < 20:
        process = recipe("killed")
        try:
            said = process.communicate(timeout=rng.uniform(4, 30))[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0, said[-3000:]
            assert_same(tmp_path / "killed", tmp_path / "undisturbed")
            shutil.rmtree(tmp_path / "killed")
    finish(recipe("killed"))
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")
