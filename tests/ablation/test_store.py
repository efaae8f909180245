"""Stored trials and models: used again only where nothing changed, and said where not."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from src_py.ablation.store import RECORD, TrialStore, find_answered, find_runs, finished_model, write_record
from src_py.ablation.trials import Trial, run_trial
from src_py.errors import InputError

TRIAL = Trial("recipe", 20, 1)


def change_weights(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b" ")


def test_what_is_saved_is_loaded_and_nothing_else(problem, outcome, tmp_path):
    made = outcome(1.0)
    TrialStore(tmp_path, problem).save(TRIAL, made)
    loaded = TrialStore(tmp_path, problem).load(TRIAL)
    np.testing.assert_array_equal(loaded.probabilities, made.probabilities)
    assert (loaded.at, loaded.step_seconds, loaded.blind) == (made.at, made.step_seconds, None)
    made.blind = made.probabilities[0]
    TrialStore(tmp_path, problem).save(TRIAL, made)
    np.testing.assert_array_equal(TrialStore(tmp_path, problem).load(TRIAL).blind, made.blind)
    assert TrialStore(tmp_path, problem).load(replace(TRIAL, seed=2)) is None
    assert TrialStore(tmp_path, problem).load(replace(TRIAL, as_rows=40)) is None
    assert TrialStore(tmp_path, problem).unused() == []


def test_trials_of_other_settings_are_not_used_and_the_setting_is_named(problem, outcome, tmp_path):
    TrialStore(tmp_path, problem).save(TRIAL, outcome(1.0))
    other = TrialStore(tmp_path, replace(problem, settings=replace(problem.settings, epochs=2.0)))
    assert other.load(TRIAL) is None
    (sentence,) = other.unused()
    assert sentence.startswith("1 stored trial in")
    assert "CFG.epochs (2.0, was 1.0)" in sentence
    assert TrialStore(tmp_path, problem).load(TRIAL) is not None, "they come back with the setting"


def test_trials_of_other_code_are_not_used_and_the_file_is_named(problem, outcome, tmp_path, monkeypatch):
    TrialStore(tmp_path, problem).save(TRIAL, outcome(1.0))
    identity = problem.identity()
    code = identity["code"] | {"src_py/model/heads.py": "0" * 12}
    monkeypatch.setattr(type(problem), "identity", lambda self: identity | {"code": code})
    edited = TrialStore(tmp_path, problem)
    assert edited.load(TRIAL) is None
    assert "changed since then: src_py/model/heads.py." in edited.unused()[0]


def test_trials_without_a_record_are_not_used_and_counted(problem, outcome, tmp_path):
    earlier = TrialStore(tmp_path, replace(problem, blocks=(7,)))
    earlier.save(TRIAL, outcome(1.0))
    (tmp_path / "trials" / f"{earlier.keys['']}.json").write_text('{"settings": 3')
    assert "is not recorded" in TrialStore(tmp_path, problem).unused()[0]


def test_an_attached_run_is_read_and_left_as_it_is(problem, outcome, tmp_path):
    attached = tmp_path / "input/notebook"
    earlier = TrialStore(attached, problem)
    earlier.save(TRIAL, outcome(1.0))
    write_record(attached, earlier.identity, {}, finished=False)
    before = {path: path.read_bytes() for path in attached.rglob("*") if path.is_file()}
    store = TrialStore(tmp_path / "working", problem, find_runs(tmp_path / "input"))
    assert list(store.outcomes([TRIAL, replace(TRIAL, seed=2)])) == [TRIAL]
    assert store.unused() == []
    never = TrialStore(tmp_path / "working", problem, find_runs(tmp_path / "input"), resume="never")
    assert never.load(TRIAL) is None
    assert "CFG.resume is 'never'" in never.unused()[0]
    assert before == {path: path.read_bytes() for path in attached.rglob("*") if path.is_file()}


def test_never_trains_again_but_loses_nothing(problem, outcome, tmp_path, capsys):
    earlier = TrialStore(tmp_path, problem)
    earlier.save(TRIAL, outcome(1.0))
    again = TrialStore(tmp_path, problem, resume="never")
    assert "1 stored trials are moved to" in capsys.readouterr().out
    assert again.load(TRIAL) is None
    assert [path.name for path in (tmp_path / "earlier_runs").rglob("*.npz")] == [earlier.path(TRIAL).name]
    again.save(TRIAL, outcome(0.5))
    assert again.load(TRIAL) is not None, "what this run trains is seen"


@pytest.mark.parametrize("fault", ["cut", "shape", "sums", "times", "negative", "pickle", "text", "another"])
def test_a_damaged_trial_is_said_once_and_counts_as_not_done(problem, outcome, tmp_path, capsys, fault):
    store, made = TrialStore(tmp_path, problem), outcome(1.0)
    path = store.path(TRIAL)
    if fault == "shape":
        made.probabilities = made.probabilities[:, :-1]
    if fault == "sums":
        made.probabilities = made.probabilities * 2
    if fault == "times":
        made.train_seconds = "long"
    if fault == "negative":
        made.predict_seconds = -1.0
    store.save(TRIAL, made)
    if fault == "another":  # copied by hand: it would count as one more seed
        other = replace(TRIAL, seed=5)
        store.save(other, made)
        shutil.copy(store.path(other), path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:100])
    if fault == "text":
        path.write_text("not an archive")
    if fault == "pickle":
        np.savez(path, probabilities=np.array([print], dtype=object), measured="{}")
    assert store.load(TRIAL) is None
    assert store.outcomes([TRIAL]) == {}
    assert capsys.readouterr().out.count("is damaged (") == 1


def test_trials_of_another_encoder_are_kept_apart_and_the_others_stay(problem, outcome, tmp_path, capsys):
    own, large = Trial("recipe", 20, 0), Trial("recipe+encoder=large", 20, 0)
    TrialStore(tmp_path, problem).save(own, outcome(0.1))
    folder = tmp_path / "attached" / "large"
    shutil.copytree(problem.model_dir, folder)
    change_weights(folder)
    problem.encoders["large"] = folder
    store = TrialStore(tmp_path, problem)
    assert list(store.outcomes([own, large])) == [own]
    store.save(large, outcome(0.2))
    assert list(store.outcomes([own, large])) == [own, large]
    assert store.unused() == []
    change_weights(folder)
    store = TrialStore(tmp_path, problem)
    assert list(store.outcomes([own, large])) == [own]
    assert ["encoder" in line for line in store.unused()] == [True]


def test_a_half_written_trial_is_removed_and_said(problem, tmp_path, capsys):
    part = tmp_path / "trials" / f"{problem.key()}_recipe_20_0_1.npz.123.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    TrialStore(tmp_path, problem)
    assert "half-written" in capsys.readouterr().out
    assert not part.exists()


@pytest.fixture
def finished(problem, outcome, tmp_path) -> tuple:
    """A finished run with models on 8 and 16 rows, below an input folder."""
    run = tmp_path / "input/ablation"
    store = TrialStore(run, problem)
    for rows in (8, 16):
        run_trial(problem, Trial("recipe", rows, 0), store.model_folder(Trial("recipe", rows, 0)))
    write_record(run, store.identity, {"max_length": 32}, finished=True)
    return run, store


class TestModel:
    def test_the_model_on_the_most_rows_of_the_same_problem_is_used(self, problem, finished, tmp_path):
        run, store = finished
        assert finished_model(run).name == f"{store.keys['']}_recipe_00000016"
        assert store.largest_model("recipe") == finished_model(run)
        assert store.largest_model("recipe-batch") is None
        changed = replace(problem, settings=replace(problem.settings, epochs=2.0))
        assert TrialStore(run, changed).largest_model("recipe") is None, "a model of other settings is not used"
        store.keep_largest_model("recipe")
        assert [path.name for path in (run / "trained").iterdir()] == [f"{store.keys['']}_recipe_00000016"]

    def test_auto_predicts_in_the_scoring_run_only(self, finished, tmp_path, monkeypatch, capsys):
        run, _ = finished
        monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
        assert find_answered(tmp_path / "input", "auto", {"max_length": 32}) is None
        assert "set CFG.mode = 'predict'" in capsys.readouterr().out
        monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
        assert find_answered(tmp_path / "input", "auto", {"max_length": 64}) == run
        said = capsys.readouterr().out
        assert "PREDICTING ONLY" in said
        assert "CFG.max_length (64, was 32)" in said
        assert find_answered(tmp_path / "input", "train", {}) is None

    def test_predict_needs_a_finished_run_of_this_recipe_with_its_model(self, finished, tmp_path):
        run, store = finished
        assert find_answered(tmp_path / "input", "predict", {}) == run
        (run / RECORD).rename(run / "finetune_deberta_run.json")
        with pytest.raises(InputError, match="no finished run of ablate_subset_vs_full"):
            find_answered(tmp_path / "input", "predict", {})
        write_record(run, store.identity | {"rows": "other"}, {}, finished=True)
        with pytest.raises(InputError, match="no trained model"):
            find_answered(tmp_path / "input", "predict", {})

    def test_the_scoring_run_trains_where_no_run_is_attached_and_says_so(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
        assert find_answered(tmp_path, "auto", {}) is None
        assert "TRAINING in the scoring run" in capsys.readouterr().out


def test_a_record_that_is_not_one_names_no_model(tmp_path):
    (tmp_path / RECORD).write_text(json.dumps(["no", "record"]))
    assert finished_model(tmp_path) is None
    assert find_runs(tmp_path) == (tmp_path,)
