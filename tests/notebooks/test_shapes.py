"""Another contest is one entry, another encoder family needs none: both go through the recipes from end to end."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src_py.model.families import FAMILIES
from src_py.pairs.contest import LMSYS
from tools.demo_data import make_pairs, write_contest, write_tiny
from tools.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
# The smallest runs that train; the rehearsal's settings, with one process.
SMALL = {
    name: recipe.rehearsal_cfg.replace("processes=2", "")
    for name, recipe in RECIPES.items()
    if recipe.submits and not recipe.members
}
DUELS = """
DUELS = Contest(
    name="Duels",
    classes=("left", "right", "even"),
    label_columns=("verdict",),
    label_values=("L", "R", "="),
    submission_columns=("p_left", "p_right", "p_even"),
    id_column="duel",
    text_columns=("question", "first", "second"),
    train="known",
    test="unknown",
)
CONTESTS = (LMSYS, WSDM, DUELS)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The helpers and notebooks, with a third contest as one more entry."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("src_py", "notebooks"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = root / "src_py/pairs/contest.py"
    text = path.read_text(encoding="utf-8")
    assert "\nCONTESTS = (LMSYS, WSDM)\n" in text
    path.write_text(text.replace("\nCONTESTS = (LMSYS, WSDM)\n", DUELS), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def duels(tmp_path_factory):
    """160 duels to learn from and 12 to judge, and a tiny encoder."""
    folder = tmp_path_factory.mktemp("duels")
    frame, _ = make_pairs(172, seed=1)
    table = frame[["id", "prompt", "response_a", "response_b"]].set_axis(
        ["duel", "question", "first", "second"], axis=1
    )
    labels = frame[list(LMSYS.label_columns)].to_numpy().argmax(1)
    table[:160].assign(verdict=np.array(["L", "R", "="])[labels[:160]]).to_csv(folder / "known.csv", index=False)
    table[160:].to_csv(folder / "unknown.csv", index=False)
    write_tiny(folder / "tiny", "deberta", hidden_size=32)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SMALL)
def test_a_third_contest_with_other_columns_and_classes_is_one_entry(project, duels, tmp_path, recipe):
    cfg = f"input_dir={duels} model_dir=tiny {SMALL[recipe]}"
    env = os.environ | {"PYTHONPATH": str(project), "RECIPE_CFG": cfg, "MPLBACKEND": "agg"}
    words = [sys.executable, str(project / f"notebooks/{recipe}.py")]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission) == ["duel", "p_left", "p_right", "p_even"]
    assert submission["duel"].tolist() == pd.read_csv(duels / "unknown.csv")["duel"].tolist()
    np.testing.assert_allclose(submission.drop(columns="duel").sum(axis=1), 1, atol=1e-6)
    for oof in tmp_path.glob("oof*.csv"):
        assert list(pd.read_csv(oof))[-3:] == ["left", "right", "even"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_through_the_recipes_that_use_an_encoder(family, tmp_path, monkeypatch, capsys):
    write_contest(tmp_path / "in/contest", train_rows=160, test_rows=12)
    folder = write_tiny(tmp_path / "in/models" / family, family, hidden_size=16)
    assert json.loads((folder / "config.json").read_text())["model_type"] == FAMILIES[family].model_type
    monkeypatch.setenv("MPLBACKEND", "agg")
    for recipe in ("finetune_deberta", "embed_deberta_lightgbm"):
        (tmp_path / recipe).mkdir()
        monkeypatch.chdir(tmp_path / recipe)
        monkeypatch.setenv("RECIPE_CFG", f"input_dir={tmp_path / 'in'} {SMALL[recipe]}")
        runpy.run_path(str(ROOT / f"notebooks/{recipe}.py"))
        assert str(folder) in capsys.readouterr().out
        values = pd.read_csv("submission.csv").drop(columns="id").to_numpy()
        assert np.isfinite(values).all()
        assert values.std(0).max() > 0
