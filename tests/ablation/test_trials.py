"""One trial: what is trained, and what its result depends on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from src_py.ablation.arms import REPAIRS
from src_py.ablation.trials import RECIPE, Trial, run_trial, steps_of
from src_py.kaggle import identity
from src_py.model import find_trained, predict_saved, read_settings
from tools.demo_data import write_tiny_deberta


def test_each_repair_changes_what_is_trained(problem):
    posted = run_trial(problem, Trial("posted", 16, 0)).probabilities[-1]
    for repair in REPAIRS:
        repaired = run_trial(problem, Trial(f"posted+{repair}", 16, 0)).probabilities[-1]
        assert np.abs(repaired - posted).max() > 1e-6, repair


def test_the_control_arm_gets_the_steps_of_the_larger_subset(problem):
    settings = problem.settings
    assert steps_of(Trial("recipe", 80, 0, as_rows=800), settings) == steps_of(Trial("recipe", 800, 0), settings) == 100
    assert steps_of(Trial("posted", 80, 0), settings) == 40  # batches of 2


def test_a_trial_names_itself_fully():
    assert str(Trial("recipe", 1250, 2)) == "recipe, 1,250 rows, seed 2"
    assert str(Trial("recipe", 125, 0, as_rows=1000)) == "recipe, 125 rows for the steps of 1,000 (control arm), seed 0"


def test_a_saved_model_names_its_recipe_and_predicts_as_the_trial_did(problem, tmp_path):
    outcome = run_trial(problem, Trial("recipe", 24, 0), tmp_path / "recipe_24")
    assert find_trained(tmp_path, RECIPE) == [tmp_path / "recipe_24"]
    assert find_trained(tmp_path, "finetune_deberta") == []
    assert read_settings(tmp_path / "recipe_24").classes == problem.classes
    predicted = predict_saved([tmp_path / "recipe_24"], problem.valid, problem.classes)
    np.testing.assert_allclose(predicted, outcome.probabilities[-1], atol=1e-5)


def test_the_key_changes_with_rows_labels_blocks_settings_and_weights(problem, tmp_path):
    folder = shutil.copytree(problem.model_dir, tmp_path / "model")
    assert replace(problem, model_dir=folder).key() == problem.key()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    labels = problem.train.assign(label=problem.train["label"].to_numpy()[::-1])
    texts = problem.valid.assign(response_b=problem.valid["response_a"])
    changed = [{"train": labels}, {"valid": texts}, {"blocks": (100,)}, {"model_dir": folder}]
    changed.append({"settings": replace(problem.settings, epochs=2.0)})
    keys = [replace(problem, **change).key() for change in changed]
    assert len({problem.key(), *keys}) == 6


@pytest.mark.parametrize("helper", ["model/heads.py", "pairs/encode.py", "ablation/trials.py"])
def test_the_key_changes_with_the_code_of_a_helper(problem, tmp_path, monkeypatch, helper):
    copy = shutil.copytree(identity.HELPERS, tmp_path / "src_py", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "HELPERS", copy)
    before = problem.key()
    with open(copy / helper, "a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert problem.key() != before


def test_an_arm_with_another_encoder_is_trained_with_it(problem, tmp_path):
    problem.encoders["wide"] = write_tiny_deberta(tmp_path / "deberta-wide", hidden_size=64)
    trial = Trial("recipe+encoder=wide", 20, 0)
    own, other = run_trial(problem, replace(trial, arm="recipe")), run_trial(problem, trial, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["hidden_size"] == 64
    assert not np.allclose(own.probabilities, other.probabilities)
    assert len(problem._readings) == 2  # each encoder has a tokenizer of its own
