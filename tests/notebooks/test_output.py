"""What a run prints: no more than one reads, and nothing about rows that it does not use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.demo_data import write_contest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_many_models_are_shown_briefly_and_a_run_that_only_predicts_shows_no_split(tmp_path, tiny):
    write_contest(tmp_path / "in/contest", train_rows=120, test_rows=8)
    (tmp_path / "in/tiny").symlink_to(tiny)

    def run(out):
        (tmp_path / out).mkdir()
        cfg = f"input_dir={tmp_path / 'in'} model_dir=tiny max_length=32 epochs=1 n_folds=2 folds=0,1 seeds=2 "
        env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
        env["RECIPE_CFG"] = cfg + "evals_per_epoch=1 stop_on_failure=no temperature=no processes=1"
        words = [sys.executable, str(ROOT / "notebooks/finetune_deberta.py")]
        done = subprocess.run(words, cwd=tmp_path / out, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    said = run("one")
    assert said.count("validation, 60 rows") == 1
    assert said.count("model better by at least") == 2
    for name in ("fold_0", "fold_0_seed_1", "fold_1", "fold_1_seed_1"):
        assert sum(line.startswith(f"{name}: ") for line in said.splitlines()) == 1  # its verdict
    (tmp_path / "in/earlier").symlink_to(tmp_path / "one")
    said = run("two")
    assert "PREDICTING ONLY" in said
    assert "validation, 60 rows" not in said
