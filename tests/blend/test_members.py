"""Members of a blend: found among what is attached, refused in one sentence, and predicting with their models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src_py.blend.find import common_rows, find_members, member_table
from src_py.blend.predict import answering, fit_into, forecast_line, measure_members, predict_members
from src_py.errors import InputError
from src_py.kaggle.clock import Clock
from src_py.model.preference import build_model
from src_py.model.saved import SavedSettings, predict_saved, save_trained
from src_py.pairs.contest import LMSYS
from src_py.pairs.encode import Reading
from src_py.pairs.load import load_pairs, prompt_key
from src_py.pairs.tokenizer import load_tokenizer
from src_py.tabular.folds import fit_fold
from src_py.tabular.groups import Counted, FeatureSettings
from src_py.tabular.saved import SavedBlend, save_blend, save_fold
from tools.demo_data import write_contest

CLASSES = ("a", "b", "tie")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A contest of 500 training rows."""
    folder = tmp_path_factory.mktemp("contest")
    write_contest(folder, train_rows=500, test_rows=12)
    return folder


@pytest.fixture(scope="module")
def table(files) -> pd.DataFrame:
    return load_pairs(files / "train.csv", LMSYS)[0]


@pytest.fixture(scope="module")
def test_rows(files) -> pd.DataFrame:
    return load_pairs(files / "test.csv", LMSYS, labelled=False)[0]


@pytest.fixture(scope="module")
def prompts(table) -> np.ndarray:
    return pd.factorize(prompt_key(table))[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny) -> Path:
    """A trained folder, to be copied."""
    folder, tokenizer = tmp_path_factory.mktemp("trained") / "model", load_tokenizer(tiny)
    model = build_model(tiny, tokenizer, "pairwise", [0.4, 0.3, 0.3])
    save_trained(model, tokenizer, folder, SavedSettings("finetune_deberta", CLASSES, Reading(max_length=32)))
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, table, prompts) -> Path:
    """An output of embed_deberta_lightgbm, to be copied: one linear model on lengths, one fold of two."""
    output = tmp_path_factory.mktemp("boosted") / "output"
    fold_of, labels = prompts % 2, table["label"].to_numpy()
    result = fit_fold(Counted.of(table, ("length",), None), labels, prompts, fold_of, 0, ("logistic",), 3, seed=0)
    save_fold(output / "tabular", 0, result)
    features = FeatureSettings(("length",))
    save_blend(output / "tabular", SavedBlend(CLASSES, features, ("logistic",), (0,), {"all/logistic": 1.0}, 1.1))
    rows = pd.DataFrame({"id": table["id"], "fold": 0, "label": labels})[fold_of == 0].reset_index(drop=True)
    predicted = pd.DataFrame(result.predictions["all", "logistic"], columns=list(CLASSES))
    rows.join(predicted).to_csv(output / "oof_lightgbm.csv", index=False)
    _record(output, "embed_deberta_lightgbm")
    return output


@pytest.fixture
def inputs(tmp_path, fitted) -> Path:
    """An empty folder of inputs, and what attaches to it."""
    return tmp_path / "input"


def _record(folder: Path, recipe: str, **fields) -> None:
    state = {"recipe": recipe, "results": [], "identity": {"settings": {}, "code": {}}, "config": {}, "finished": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{recipe}_run.json").write_text(json.dumps(state | fields))


@pytest.fixture
def oof(table, prompts) -> pd.DataFrame:
    """Predictions of all rows in three folds by prompt, a little better than a guess."""
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(len(table), 3)) + np.eye(3)[table["label"]]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = pd.DataFrame({"id": table["id"], "fold": prompts % 3, "label": table["label"]})
    return rows.assign(**dict(zip(CLASSES, p.T)))


@pytest.fixture
def tune(inputs, saved, oof, prompts):
    """Attaches an output of finetune_deberta, trained on a split in `parts`."""

    def attach(name="tuned", folds=(0, 1, 2), parts=3, change=lambda oof: oof, **record) -> Path:
        output = inputs / name
        for fold in folds:
            shutil.copytree(saved, output / f"fold_{fold}")
        own = oof.assign(fold=prompts % parts)
        change(own[own["fold"].isin(folds)]).to_csv(output / "oof.csv", index=False)
        _record(output, "finetune_deberta", **record)
        return output

    return attach


@pytest.fixture
def foreign(inputs, oof, test_rows):
    """Attaches somebody's predictions."""

    def attach(name="llm", test=None, change=lambda oof: oof, marker=None, files=("oof.csv", "submission.csv")) -> Path:
        folder = inputs / name
        folder.mkdir(parents=True)
        change(oof.drop(columns=["fold", "label"])).to_csv(folder / files[0], index=False)
        ids = test_rows["id"] if test is None else test
        answers = pd.DataFrame({"id": ids, "a": 0.5, "b": 0.3, "tie": 0.2})
        answers.to_csv(folder / files[1], index=False)
        if marker is not None:
            (folder / "member.json").write_text(json.dumps(marker))
        return folder

    return attach


@pytest.fixture
def find(inputs, table, prompts):
    return lambda exclude=(): find_members(inputs, table, prompts, LMSYS, exclude)


def _names(found) -> list[str]:
    return [member.name for member in found.members]


def _predict(members, rows, tmp_path, seconds=None, clock=None):
    seconds = seconds or {member.name: 0.0 for member in members}
    return predict_members(members, rows, CLASSES, "fp32", tmp_path / "scratch", seconds, clock or Clock())


def test_outputs_of_every_kind_are_found_and_predict(
    find, tune, foreign, inputs, fitted, table, test_rows, prompts, tmp_path
):
    tuned = tune()
    shutil.copytree(fitted, inputs / "boosted")
    foreign(change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    found = find()
    assert _names(found) == ["tuned", "boosted", "llm"]
    assert found.left_out == []
    predicted, failed = _predict(found.members, test_rows, tmp_path)
    assert failed == []
    folders = [tuned / f"fold_{fold}" for fold in range(3)]
    np.testing.assert_allclose(predicted["tuned"], predict_saved(folders, test_rows, CLASSES), atol=1e-12)
    np.testing.assert_allclose(predicted["llm"], [[0.5, 0.3, 0.2]] * len(test_rows))
    assert np.allclose(predicted["boosted"].sum(1), 1)
    shown = member_table(found.members, table["label"].to_numpy(), prompts, {"tuned": 3.0}, 25_000)
    assert shown["rows known"].tolist() == [500, (prompts % 2 == 0).sum(), 500]
    assert shown["folds"].tolist() == [3, 1, "unknown"]
    assert "2 layers of 32" in shown.loc["tuned", "encoder"]


def test_predictions_of_one_row_and_of_none(find, tune, test_rows, tmp_path):
    tune()
    for rows in (test_rows[:1], test_rows[:0]):
        predicted, _ = _predict(find().members, rows, tmp_path)
        assert predicted["tuned"].shape == (len(rows), 3)


def test_a_member_with_one_fold_takes_part_on_its_rows(find, tune, foreign, prompts):
    tune(folds=(1,), parts=2)
    halves = np.asarray(prompts % 2 == 1)
    foreign(change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    members = find().members
    assert [member.folds for member in members] == [1, 0]
    assert members[0].known.tolist() == halves.tolist()
    kept, known = common_rows(members, prompts)
    assert len(kept.members) == 2
    assert known.tolist() == halves.tolist()


@pytest.mark.parametrize(
    ("attach", "sentence"),
    [
        (lambda tune: tune(finished=False), "did not come to its end"),
        (lambda tune: tune(learned=False), "did not learn"),
        (lambda tune: tune(config={"rows": 90}), "debug run on 90 rows"),
        (lambda tune: (tune() / "finetune_deberta_run.json").unlink(), "no record of its run"),
        (lambda tune: shutil.rmtree(tune() / "fold_1"), "fold_1, but that folder is missing"),
        (lambda tune: tune(change=lambda oof: oof.assign(label=(oof["label"] + 1) % 3)), "other training rows"),
        (lambda tune: tune(change=lambda oof: oof.assign(id="9" + oof["id"])), "other training rows"),
        (
            lambda tune: tune(change=lambda oof: oof.assign(fold=np.arange(len(oof)) % 3)),
            "rows of one prompt in several",
        ),
        (lambda tune: (tune() / "fold_0/preference.json").write_text("{}"), "cannot be read"),
        (lambda tune: tune(folds=(0,), change=lambda oof: oof[:0]), "does not hold one row an id"),
    ],
)
def test_what_cannot_take_part_is_left_out_in_a_sentence_and_the_others_stay(find, tune, foreign, attach, sentence):
    attach(tune)
    foreign()
    found = find()
    assert _names(found) == ["llm"]
    assert len(found.left_out) == 1
    assert sentence in found.left_out[0]
    assert "tuned" in found.left_out[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"change": lambda oof: oof.assign(id="9" + oof["id"])}, "other training rows"),
        ({"change": lambda oof: oof.assign(a=0.9)}, "sum to 1"),
        ({"change": lambda oof: oof[:150]}, "known for 150 rows"),
        ({"change": lambda oof: oof.drop(columns="tie")}, "cannot be read"),
        ({"marker": {"oof": "../oof.csv"}}, "not a file in that folder"),
        ({"marker": {"fold": "oof.csv"}}, "it may have name, oof, test, encoder"),
        ({"test": ["1", "1"]}, "one row an id"),
        ({"files": ("oof_2.csv", "other.csv")}, "no csv file with its test predictions"),
    ],
)
def test_a_foreign_folder_that_does_not_fit_is_left_out_in_a_sentence(find, foreign, options, sentence):
    folder = foreign(**options)
    found = find()
    assert found.members == []
    assert sentence in found.left_out[0]
    assert str(folder) in found.left_out[0]


def test_a_marker_names_files_and_member_and_columns_may_be_the_submissions(find, foreign, table):
    columns = dict(zip(CLASSES, LMSYS.submission_columns))
    marker = {"name": "Gemma", "oof": "train_predictions.csv", "test": "test_predictions.csv", "encoder": "9 b"}
    files = (marker["oof"], marker["test"])
    foreign(marker=marker, change=lambda oof: oof.rename(columns=columns), files=files)
    (member,) = find().members
    assert (member.name, member.encoder) == ("Gemma", "9 b")
    assert member.known.all()


def test_a_file_for_other_test_rows_is_left_out_in_a_scoring_run(find, foreign, test_rows):
    foreign(test=test_rows["id"][:3])
    able, left_out = answering(find().members, test_rows)
    assert able == []
    assert "answers 3 of 12 test rows" in left_out[0]
    assert answering(find().members, test_rows[:3])[1] == []


def test_a_copy_and_a_twin_are_left_out(find, foreign, tune, inputs):
    shutil.copytree(tune(), inputs / "again")
    foreign()
    found = find()
    assert len(found.members) == 1
    assert all("predicts the same as" in sentence for sentence in found.left_out)
    assert len(found.left_out) == 2  # the copy, and the file with the same predictions


def test_excluded_members_are_left_out_and_a_name_that_nobody_has_is_refused(find, foreign, tune):
    foreign()
    tune()
    assert _names(find(exclude=["tuned"])) == ["llm"]
    with pytest.raises(InputError, match=r"exclude names 'x'; attached are llm, tuned"):
        find(exclude=["x"])


def test_folders_of_one_name_are_told_apart(find, foreign, tune):
    tune("me/run")
    foreign("you/run", change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    assert _names(find()) == ["me/run", "you/run"]


def test_outputs_of_this_recipe_and_of_the_ablation_are_said_to_be_no_members(find, inputs, saved, foreign):
    foreign()
    for recipe in ("blend_submissions", "ablate_subset_vs_full"):
        _record(inputs / recipe, recipe)
        (inputs / recipe / "oof_blend.csv").write_text("id,a,b,tie\n")
    shutil.copytree(saved, inputs / "ablate_subset_vs_full/trained/key_recipe_00000100")
    found = find()
    assert _names(found) == ["llm"]
    assert len(found.left_out) == 2


def test_a_model_with_another_order_of_classes_answers_in_this_order(find, inputs, tune, tiny, test_rows, tmp_path):
    output, tokenizer = tune(folds=(0, 1)), load_tokenizer(tiny)
    model = build_model(tiny, tokenizer, "joint", [0.6, 0.3, 0.1])
    for name, classes in (("fold_2", ("tie", "a", "b")), ("straight", CLASSES)):
        settings = SavedSettings("finetune_deberta", classes, Reading(style="joint", max_length=32))
        save_trained(model, tokenizer, output / name, settings)
    turned = predict_saved([output / "fold_2"], test_rows, CLASSES)
    straight = predict_saved([output / "straight"], test_rows, CLASSES)
    np.testing.assert_allclose(turned, straight[:, [1, 2, 0]])


def test_damage_that_shows_only_in_prediction_ends_a_run_but_not_a_scoring_run(
    find, tune, foreign, table, test_rows, tmp_path, monkeypatch
):
    output = tune()
    foreign(change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    members = find().members
    (output / "fold_2/head.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"head\.safetensors"):
        _predict(members, test_rows, tmp_path)
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    seconds, failed = measure_members(members, table, 10, "fp32")
    assert (list(seconds), failed) == (["tuned", "llm"], [])  # the first model is sound
    predicted, failed = _predict(members, test_rows, tmp_path)
    assert list(predicted) == ["llm"]
    assert "head.safetensors" in failed[0]
    with pytest.raises(InputError, match="No member could predict"):
        _predict(members[:1], test_rows, tmp_path)
    (output / "fold_0/head.safetensors").write_bytes(b"damaged")
    seconds, failed = measure_members(members, table, 10, "fp32")
    assert list(seconds) == ["llm"]
    assert "head.safetensors" in failed[0]
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN")
    with pytest.raises(InputError, match=r"head\.safetensors"):
        measure_members(members, table, 10, "fp32")


def test_a_boosted_member_needs_its_encoder_and_its_fine_tuned_model(find, inputs, fitted):
    shutil.copytree(fitted, inputs / "boosted")
    for field, needed in (("encoder", "needs the encoder"), ("fine_tuned", "finetune_deberta that is not attached")):
        blend = SavedBlend(CLASSES, FeatureSettings(("length",)), ("logistic",), (0,), {"all/logistic": 1.0}, 1.1)
        weights = {"all/logistic": 0.5, "fine-tuned": 0.5} if field == "fine_tuned" else blend.weights
        groups = ("length", "embeddings") if field == "encoder" else ("length",)
        save_blend(
            inputs / "boosted/tabular",
            SavedBlend(CLASSES, FeatureSettings(groups), ("logistic",), (0,), weights, 1.1, **{field: "x" * 24}),
        )
        found = find()
        assert found.members == []
        assert needed in found.left_out[0]


def test_members_share_rows_or_the_one_that_costs_most_is_left_out(find, tune, foreign, prompts):
    tune(folds=(0, 1))
    foreign(change=lambda oof: oof[np.asarray(prompts % 3 != 0)])
    foreign("whole", change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    members = find().members
    kept, known = common_rows(members, prompts)
    assert known.sum() >= 200
    assert len(kept.members) == 2
    assert "weights need 200" in kept.left_out[0]


def test_without_a_single_model_the_notebook_says_that_the_scoring_run_would_fail(find, foreign, tune, prompts):
    foreign(change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    members = find().members
    assert forecast_line(members, {"llm": 0.0}, 8.5).startswith("NO MEMBER HAS A MODEL")
    tune()
    assert "90 minutes for 25,000 rows; CFG.hours allows 510" in forecast_line(find().members, {"tuned": 5400.0}, 8.5)
    with pytest.raises(InputError, match="nothing to predict with"):
        common_rows([], prompts)


def test_what_brings_least_for_its_time_is_left_out_first():
    seconds = {"slow": 100.0, "useless": 10.0, "good": 50.0, "file": 0.0}
    worth = {"slow": 0.01, "useless": 0.0, "good": 0.02, "file": 0.0}
    assert fit_into(seconds, worth, 200) == list(seconds)
    assert fit_into(seconds, worth, 155) == ["slow", "good", "file"]
    assert fit_into(seconds, worth, 60) == ["good", "file"]
    assert fit_into(seconds, worth, 1) == ["file"]
    assert fit_into({"a": 5.0, "b": 3.0}, {"a": 1.0, "b": 0.0}, 1) == ["b"]


def test_a_member_for_which_no_time_is_left_is_not_started(find, tune, foreign, test_rows, tmp_path):
    tune()
    foreign(change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    members = find().members[::-1]
    predicted, left_out = _predict(members, test_rows, tmp_path, {"llm": 0.0, "tuned": 1e6}, Clock(1))
    assert list(predicted) == ["llm"]
    assert "no time left" in left_out[0]


def test_seconds_grow_with_the_rows(find, tune, foreign, inputs, fitted, table):
    tune()
    shutil.copytree(fitted, inputs / "boosted")
    members = find().members
    few, many = (measure_members(members, table, rows, "fp32")[0] for rows in (1_000, 100_000))
    for name in few:
        assert many[name] > 10 * few[name] > 0
