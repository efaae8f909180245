"""Trained folders: complete or refused, for the classes and the run that they name."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src_py.errors import InputError
from src_py.kaggle import files
from src_py.kaggle.files import require_space
from src_py.model.preference import build_model
from src_py.model.saved import (
    SavedSettings,
    find_trained,
    finished_models,
    load_trained,
    predict_saved,
    read_settings,
    save_trained,
    stopped_models,
)
from src_py.pairs.encode import Reading

CLASSES = ("a", "b", "tie")
SAVED = SavedSettings("finetune_deberta", CLASSES, Reading(max_length=48), run="key")


@pytest.fixture
def model(tiny, tokenizer):
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
    torch.nn.init.normal_(model.head.score.weight)
    return model


@pytest.fixture
def output(tmp_path, model, tokenizer):
    for name in ("fold_0", "fold_1"):
        save_trained(model, tokenizer, tmp_path / name, SAVED)
        for table in ("validation.csv", "history.csv"):
            (tmp_path / name / table).touch()
    return tmp_path


def edit(folder, **fields):
    marker = folder / "preference.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | fields))


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["one byte", "missing"])
def test_every_file_is_compared_with_its_digest(output, pairs, name, damage):
    path = output / "fold_0" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage == "one byte":
        path.write_bytes(data)
    with pytest.raises(InputError, match=f"fold_0 cannot be read: {name} is missing or differs"):
        predict_saved([output / "fold_0"], pairs[:2], CLASSES)


@pytest.mark.parametrize(
    "fields",
    [
        {"calibration": {"temperature": -1, "tie_shift": 0.0}},
        {"calibration": {"temperature": float("nan"), "tie_shift": 0.0}},
        {"calibration": {"temperature": 1e9, "tie_shift": 0.0}},
        {"calibration": {"temperature": "1", "tie_shift": 0.0}},
        {"pooling": "max"},
        {"side_bias": "no"},
        {"classes": ["a"]},
        {"classes": ["a", "a", "b"]},
        {"classes": 3},
        {"reading": {"style": "pairwise", "max_length": 48, "prompt_share": 7, "head_share": 0.6}},
        {"reading": {"max_length": "48"}},
        {"reading": {"length": 48}},
        {"files": {"../../secret": "0"}},
        {"files": 3},
        {"something": "else"},
        {"recipe": None},
    ],
)
def test_settings_that_no_run_writes_are_refused_in_one_sentence(output, fields):
    edit(output / "fold_0", **fields)
    with pytest.raises(InputError, match=r"The trained folder .*fold_0 cannot be read") as found:
        load_trained(output / "fold_0")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"recipe": "finetune_deberta"}', "\x00"])
def test_a_marker_that_was_cut_is_refused_or_its_fold_trained_again(output, text, capsys):
    (output / "fold_0/preference.json").write_text(text)
    with pytest.raises(InputError, match="damaged or of another version"):
        read_settings(output / "fold_0")
    assert finished_models(output, "key") == ["fold_1"]
    assert "fold_0 is trained again" in capsys.readouterr().out


def test_a_fold_that_is_damaged_or_lacks_a_table_is_trained_again(output, capsys):
    (output / "fold_0/history.csv").unlink()
    weights = bytearray((output / "fold_1/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (output / "fold_1/model.safetensors").write_bytes(weights)
    assert finished_models(output, "key") == []
    said = capsys.readouterr().out
    assert "fold_0 is trained again" in said
    assert "fold_1 is trained again" in said


def test_a_field_altered_to_another_possible_value_is_noticed(output):
    edit(output / "fold_0", calibration={"temperature": 11.0, "tie_shift": 0.0})
    with pytest.raises(InputError, match="a field differs from what was saved"):
        read_settings(output / "fold_0")


def test_a_fold_that_the_time_limit_ended_is_said(output, model, tokenizer, capsys):
    save_trained(model, tokenizer, output / "fold_1", replace(SAVED, ended="step 98 of 220"))
    assert finished_models(output, "key") == ["fold_0", "fold_1"]
    assert "CFG.hours ended fold_1 at step 98 of 220" in capsys.readouterr().out


def test_only_folds_of_the_same_run_are_finished(output, model, tokenizer):
    save_trained(model, tokenizer, output / "fold_1", replace(SAVED, run="another"))
    assert finished_models(output, "key") == ["fold_0"]
    assert find_trained(output, "finetune_deberta") == [output / "fold_0", output / "fold_1"]
    assert find_trained(output, "ablate_subset_vs_full") == []


def test_a_stopped_fold_is_known_as_such(output, model, tokenizer):
    save_trained(model, tokenizer, output / "fold_1", replace(SAVED, stopped="step 30: collapse"))
    assert stopped_models(output, ["fold_0", "fold_1", "fold_2"]) == {"fold_1": "step 30: collapse"}


def test_a_model_predicts_only_for_its_own_classes(output, pairs):
    with pytest.raises(InputError, match="trained for the classes a, b, tie, but this contest has a, b"):
        predict_saved([output / "fold_0"], pairs[:2], ("a", "b"))
    with pytest.raises(InputError, match="no trained model"):
        predict_saved([], pairs[:2], CLASSES)


def test_fp16_takes_half_of_the_space_and_predicts_within_a_thousandth(tmp_path, output, model, tokenizer, pairs):
    save_trained(model, tokenizer, tmp_path / "half", SAVED, half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "fold_0")]
    assert sizes[0] < 0.6 * sizes[1]
    assert next(model.parameters()).dtype == torch.float32, "the model in memory is not changed"
    half, full = (predict_saved([tmp_path / name], pairs[:20], CLASSES) for name in ("half", "fold_0"))
    assert 0 < np.abs(half - full).max() < 1e-3
    assert full.std(0).max() > 0.01


def test_what_does_not_fit_the_disk_is_refused_before_it_is_written(tmp_path, model, tokenizer, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"Saving the model in fold_0 needs .* GB, but .* has room for 0\.0 GB"):
        save_trained(model, tokenizer, tmp_path / "fold_0", SAVED)
    assert not (tmp_path / "fold_0").exists()
    require_space(tmp_path, 999, "A small file")
