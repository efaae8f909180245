"""Saved runs: they predict the same, and whatever is missing, damaged or altered in them is refused in a sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from src_py.errors import InputError
from src_py.kaggle.files import write_arrays
from src_py.tabular.groups import GROUPS, FeatureSettings, group_sets
from src_py.tabular.models import MODELS
from src_py.tabular.plots import plot_boosting
from src_py.tabular.saved import (
    SavedBlend,
    check_blend,
    encoder_digest,
    finished_fold,
    load_fold,
    predict_folds,
    read_blend,
    save_blend,
    save_fold,
    save_options,
    saved_options,
)
from src_py.tabular.sides import join

CLASSES = ("a", "b", "tie")


@pytest.fixture
def blend(tiny) -> SavedBlend:
    features = FeatureSettings(GROUPS, 48, "mean")
    weights = {"all/lightgbm": 0.75, "length/mlp": 0.25}
    return SavedBlend(CLASSES, features, MODELS, (0,), weights, 1.1, encoder_digest(tiny))


@pytest.fixture
def folder(fold, blend, tmp_path):
    """A finished run of one fold."""
    folder = tmp_path / "tabular"
    save_fold(folder, 0, fold)
    save_options(folder, {"num_leaves": 7, "lambda_l2": 0.0})
    save_blend(folder, blend)
    return folder


def edit(folder, **fields) -> None:
    """Change tabular.json as somebody with an editor would; a value `...` removes the field."""
    found = json.loads((folder / "tabular.json").read_text()) | fields
    found = {name: value for name, value in found.items() if value is not ...}
    (folder / "tabular.json").write_text(json.dumps(found))


def test_a_saved_fold_predicts_the_same(fold, held, data, folder):
    again = load_fold(folder, 0)
    sides = again.features.transform(data.counted.take(np.flatnonzero(data.fold_of == 0)))
    assert again.models.keys() == fold.models.keys()
    for (name, model), fitted in again.models.items():
        chosen = join([sides[group] for group in group_sets(GROUPS)[name]])
        np.testing.assert_allclose(fitted.predict(chosen), fold.predictions[name, model], atol=1e-6)
        np.testing.assert_array_equal(again.predictions[name, model], fold.predictions[name, model])
    plot_boosting({0: again.models["all", "lightgbm"]}, held)


def test_a_saved_blend_is_read_back_and_predicts_its_members(fold, data, blend, folder):
    assert read_blend(folder) == blend
    rows = np.flatnonzero(data.fold_of == 0)
    predicted = predict_folds(folder, blend, data.counted.take(rows))
    assert list(predicted) == list(blend.weights)
    for member, probabilities in predicted.items():
        np.testing.assert_allclose(probabilities, fold.predictions[tuple(member.split("/"))], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"temperature": ...}, "has no temperature"),
        ({"temperature": -1}, "temperature = '-1'"),
        ({"temperature": float("nan")}, "temperature = 'nan'"),
        ({"temperature": 1e9}, "temperature = "),
        ({"temperature": 10**400}, "temperature = "),
        ({"temperature": "1.0"}, "temperature = "),
        ({"temperature": True}, "temperature = "),
        ({"temperature": 1.2}, "was changed after it was saved"),
        ({"weights": {"all/lightgbm": 0.5}}, "weights = "),
        ({"weights": {}}, "weights = "),
        ({"weights": {"all/lightgbm": 1.5, "length/mlp": -0.5}}, "weights = "),
        ({"weights": {"all/lightgbm": 0.5, "words/mlp": 0.5}}, "weighs words/mlp, which was not trained"),
        ({"weights": {"all/lightgbm": 0.5, "fine-tuned": 0.5}}, "contradicts itself about the fine-tuned model"),
        ({"weights": [1.0]}, "weights = "),
        ({"groups": ["length", "words"]}, "groups = "),
        ({"groups": ["length", "length"]}, "groups = "),
        ({"groups": "length"}, "groups = "),
        ({"groups": [["length"]]}, "groups = "),
        ({"groups": ["length"]}, "contradicts itself about the encoder"),
        ({"models": ["svm"]}, "models = "),
        ({"models": []}, "models = "),
        ({"folds": [0, 1]}, "fold_1.npz is missing"),
        ({"folds": [-1]}, "folds = "),
        ({"folds": ["0"]}, "folds = "),
        ({"classes": ["a"]}, "classes = "),
        ({"max_length": 0}, "max_length = "),
        ({"max_length": 48.5}, "max_length = "),
        ({"pooling": "max"}, "pooling = "),
        ({"pooling": ["mean"]}, "pooling = "),
        ({"recipe": "ablate_subset_vs_full"}, "recipe = "),
        ({"files": {"../fold_0.npz": "0"}}, "files = "),
        ({"files": {}}, "fold_0.npz is missing"),
        ({"encoder": None}, "encoder = "),
        ({"digest": ...}, "has no digest"),
    ],
)
def test_an_altered_field_is_refused_with_the_folder_and_the_reason(folder, fields, reason):
    edit(folder, **fields)
    with pytest.raises(InputError) as caught:
        read_blend(folder)
    assert str(caught.value).startswith(f"The folder {folder} cannot be used: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"recipe": "\udc00', "\x00"])
def test_a_marker_that_is_not_json_is_refused(folder, text):
    (folder / "tabular.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"cannot be used: tabular\.json"):
        read_blend(folder)


def test_a_folder_without_its_marker_is_refused(folder):
    (folder / "tabular.json").unlink()
    with pytest.raises(InputError, match=r"tabular.json cannot be read .* attach the complete output"):
        read_blend(folder)


@pytest.mark.parametrize("name", ["fold_0.npz", "options.json"])
def test_every_file_is_compared_with_its_digest(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is not the file that was saved"):
        read_blend(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_blend(folder)


def test_a_lightgbm_text_altered_by_a_byte_is_caught_before_lightgbm_sees_it(fold, folder):
    """Without the check, LightGBM ends the whole process: this one."""
    with np.load(folder / "fold_0.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    text = str(arrays["models/all/lightgbm/text"])
    arrays["models/all/lightgbm/text"] = np.array(text.replace("tree_sizes=", "tree_sizes=9", 1))
    write_arrays(folder / "fold_0.npz", arrays)
    with pytest.raises(InputError, match="its contents were changed"):
        load_fold(folder, 0)


def test_a_pickle_in_a_fold_is_not_read(folder):
    np.savez(folder / "fold_0.npz", **{"features/length/columns": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(InputError, match="cannot be read"):
        load_fold(folder, 0)


def test_a_truncated_fold_is_refused_in_one_sentence(folder):
    path = folder / "fold_0.npz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="attach the complete output"):
        load_fold(folder, 0)


def test_a_run_resumes_with_its_folds_but_not_with_a_damaged_one(fold, tmp_path, capsys):
    assert finished_fold(tmp_path, 0) is None
    assert capsys.readouterr().out == ""
    for number in (0, 1):
        save_fold(tmp_path, number, fold)
    path = tmp_path / "fold_1.npz"
    path.write_bytes(path.read_bytes()[:2000])
    assert finished_fold(tmp_path, 0).predictions.keys() == fold.predictions.keys()
    assert finished_fold(tmp_path, 1) is None
    assert "Fold 1 is fitted again" in capsys.readouterr().out


def test_searched_options_come_back_even_where_the_defaults_won(tmp_path):
    assert saved_options(tmp_path / "tabular") is None
    save_options(tmp_path / "tabular", {})
    assert saved_options(tmp_path / "tabular") == {}


@pytest.mark.parametrize(
    "text", ['{"num_leaves": 7', "[7]", '{"num_leaves": -7}', '{"num_leaves": NaN}', '{"num_leaves": "7"}', '{"x": 1}']
)
def test_options_that_no_search_writes_are_refused(tmp_path, text):
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(InputError, match=rf"The folder {tmp_path} cannot be used: options.json"):
        saved_options(tmp_path)


def test_another_contest_or_encoder_is_refused(blend, tmp_path, tiny):
    check_blend(tmp_path, blend, CLASSES, tiny)
    with pytest.raises(InputError, match=r"its classes are a, b, tie, this contest's a, b;"):
        check_blend(tmp_path, blend, ("a", "b"), tiny)
    with pytest.raises(InputError, match="was trained with another encoder"):
        check_blend(tmp_path, replace(blend, encoder="0" * 24), CLASSES, tiny)


def test_a_folder_that_cannot_be_written_is_said(fold, blend, tmp_path):
    (tmp_path / "file").write_text("")
    for write, *written in ((save_fold, 0, fold), (save_options, {}), (save_blend, blend)):
        with pytest.raises(InputError, match="free some space"):
            write(tmp_path / "file/tabular", *written)
