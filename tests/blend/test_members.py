"""Members of a blend: found among what is attached, refused in one sentence, and predicting with their models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from src_py.blend.find import common_rows, doubts, find_members, limiting_line, member_table
from src_py.blend.fitting import Fitting
from src_py.blend.member import Job, left_out_if_scoring
from src_py.blend.predict import (
    answering,
    fit_into,
    fitting_in,
    forecast_line,
    measure_members,
    predict_members,
    time_line,
)
from src_py.blend.report import BlendSettings
from src_py.blend.weights import Blend, choose_blend
from src_py.errors import InputError
from src_py.evaluation.calibration import Calibration
from src_py.kaggle.clock import Clock
from src_py.model.preference import build_model
from src_py.model.saved import SavedSettings, predict_saved, save_trained
from src_py.pairs.contest import LMSYS, WSDM, write_submission
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
    job = Job(rows, CLASSES, "fp32", tmp_path / "scratch")
    return predict_members(members, job, seconds, clock or Clock())


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


def test_predictions_of_one_row_and_of_none(find, tune, foreign, inputs, fitted, test_rows, tmp_path):
    tune()
    shutil.copytree(fitted, inputs / "boosted")
    foreign(change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    for rows in (test_rows[:1], test_rows[:0]):
        members, left_out = answering(find().members, rows)
        assert left_out == []
        predicted, _ = _predict(members, rows, tmp_path)
        assert [array.shape for array in predicted.values()] == [(len(rows), 3)] * 3
        blend = Blend(dict.fromkeys(predicted, 1 / 3), "logits", Calibration())
        assert len(write_submission(tmp_path / "submission.csv", rows["id"], blend.apply(predicted), LMSYS)) == len(
            rows
        )


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
    assert "Without tuned they know 500" in limiting_line(members, known)


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
        (
            {"change": lambda oof: oof.drop(columns="tie")},
            "no csv file of out-of-fold predictions with the columns id, a, b, tie or id, winner_model_a",
        ),
        ({"marker": {"oof": "../oof.csv"}}, "not a file in that folder"),
        ({"marker": {"fold": "oof.csv"}}, "it may have name, oof, test, encoder"),
        ({"test": ["1", "1"]}, "one row an id"),
        ({"files": ("oof_2.csv", "other.csv")}, "no csv file of test predictions"),
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
    with pytest.raises(InputError, match=r"did you mean 'tuned'\?"):
        find(exclude=["tunde"])
    with pytest.raises(InputError, match="names every member"):
        find(exclude=["tuned", "llm"])


def test_folders_of_one_name_are_told_apart(find, foreign, tune):
    tune("me/run")
    foreign("you/run", change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    assert _names(find()) == ["me/run", "you/run"]


def test_outputs_of_this_recipe_and_of_the_ablation_are_said_to_be_no_members(find, inputs, saved, foreign):
    """They have files that would make them foreign members."""
    foreign()
    for number, recipe in enumerate(("blend_submissions", "ablate_subset_vs_full")):
        shift = 0.9 - 0.1 * number
        folder = foreign(
            recipe, change=lambda oof, shift=shift: oof.assign(a=oof["a"] * shift, tie=1 - oof["a"] * shift - oof["b"])
        )
        _record(folder, recipe)
    shutil.copytree(saved, inputs / "ablate_subset_vs_full/trained/key_recipe_00000100")
    found = find()
    assert _names(found) == ["llm"]
    ablation, blend = sorted(found.left_out)
    assert "an ablation has no out-of-fold predictions" in ablation
    assert "it is an output of this notebook" in blend


def test_a_member_with_another_order_of_classes_is_left_out(find, inputs, tune, tiny, fitted):
    output, tokenizer = tune(), load_tokenizer(tiny)
    model = build_model(tiny, tokenizer, "pairwise", [0.6, 0.3, 0.1])
    shutil.rmtree(output / "fold_2")
    settings = SavedSettings("finetune_deberta", ("tie", "a", "b"), Reading(max_length=32))
    save_trained(model, tokenizer, output / "fold_2", settings)
    shutil.copytree(fitted, inputs / "boosted")
    blend = SavedBlend(("b", "a", "tie"), FeatureSettings(("length",)), ("logistic",), (0,), {"all/logistic": 1.0}, 1.1)
    save_blend(inputs / "boosted/tabular", blend)
    found = find()
    assert found.members == []
    assert all("was trained for the classes" in sentence for sentence in found.left_out)
    assert len(found.left_out) == 2


def test_a_fold_of_another_run_is_not_taken_along(find, tune, saved, tiny):
    output, tokenizer = tune(), load_tokenizer(tiny)
    shutil.rmtree(output / "fold_1")
    model = build_model(tiny, tokenizer, "pairwise", [0.4, 0.3, 0.3])
    settings = SavedSettings("finetune_deberta", CLASSES, Reading(max_length=32), run="another")
    save_trained(model, tokenizer, output / "fold_1", settings)
    assert "is not from the run that tuned records" in find().left_out[0]


def test_labels_are_not_taken_for_predictions(find, foreign, table):
    """The usual file has the labels under the names that the submission has, and predictions under others."""
    truth = pd.DataFrame(np.eye(3)[table["label"]].astype(int), columns=list(LMSYS.submission_columns))

    def with_labels(oof):
        predictions = oof.rename(columns=dict(zip(CLASSES, ("pred_a", "pred_b", "pred_tie"))))
        return predictions.join(truth)

    foreign(change=with_labels)
    assert "holds labels where predictions should be" in find().left_out[0]


def test_a_file_without_folds_is_said_to_be_unchecked_and_one_that_knows_too_much_is_suspected(
    find, foreign, tune, table
):
    labels = table["label"].to_numpy()
    tune()
    foreign("fair", change=lambda oof: oof.assign(a=oof["b"], b=oof["a"]))
    foreign("leak", change=lambda oof: oof.assign(**dict(zip(CLASSES, (0.9 * np.eye(3)[labels] + 0.1 / 3).T))))
    fair, no_folds, leak = doubts(find().members, labels)
    assert "fair does not say its folds" in fair
    assert "leak does not say its folds" in no_folds
    assert "leak is too good to be true" in leak


def test_members_of_one_name_and_of_a_name_in_the_tables_are_told_apart(find, foreign):
    for number, (name, marker) in enumerate([("x", "y"), ("y", None), ("z", "y"), ("blend", None)]):
        shift = 1 - 0.1 * number
        foreign(
            name,
            marker={"name": marker} if marker else None,
            change=lambda oof, shift=shift: oof.assign(a=oof["a"] * shift, b=oof["b"] + oof["a"] * (1 - shift)),
        )
    names = _names(find())
    assert len(set(names)) == 4
    assert "blend" not in names
    assert _names(find(exclude=["y (x)"])) == [name for name in names if name != "y (x)"]


def test_a_marker_that_is_nested_too_deeply_is_one_sentence(find, foreign, inputs):
    folder = foreign()
    (folder / "member.json").write_text("[" * 200_000)
    assert "member.json cannot be read" in find().left_out[0]


def test_a_contest_with_one_column_of_winners_reads_the_probabilities_beside_it(inputs, table, prompts, test_rows):
    """WSDM's submission has a name for each row; a member's file needs probabilities."""
    folder, two = inputs / "other", table.assign(label=table["label"] % 2)
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0).uniform(0.2, 0.8, len(two))
    pd.DataFrame({"id": two["id"], "a": draw, "b": 1 - draw}).to_csv(folder / "oof.csv", index=False)
    pd.DataFrame({"id": test_rows["id"], "winner": "model_a"}).to_csv(folder / "submission.csv", index=False)
    pd.DataFrame({"id": test_rows["id"], "a": 0.6, "b": 0.4}).to_csv(folder / "test_probabilities.csv", index=False)
    (member,) = find_members(inputs, two, prompts, WSDM).members
    assert member.predict(Job(test_rows, ("a", "b"), "fp32", inputs)).tolist() == [[0.6, 0.4]] * len(test_rows)


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


def test_a_fine_tuned_model_in_a_boosted_blend_predicts_once(find, tune, inputs, fitted, test_rows, tmp_path, capsys):
    tune()
    digest = find().members[0].digest
    shutil.copytree(fitted, inputs / "boosted")
    weights = {"all/logistic": 0.5, "fine-tuned": 0.5}
    blend = SavedBlend(CLASSES, FeatureSettings(("length",)), ("logistic",), (0,), weights, 1.0, fine_tuned=digest)
    save_blend(inputs / "boosted/tabular", blend)
    tuned, boosted = find().members
    capsys.readouterr()
    predicted, _ = _predict([boosted, tuned], test_rows, tmp_path)
    said = capsys.readouterr().out
    for folder in tuned.folders:
        assert said.count(f"Predicting test rows, {folder.name} (12 pairs): 100%") == 1
    own = replace(blend, weights={"all/logistic": 1.0}, fine_tuned="")
    plain = replace(boosted, blend=own, fine_tuned=None)
    save_blend(inputs / "boosted/tabular", plain.blend)
    alone = plain.predict(Job(test_rows, CLASSES, "fp32", tmp_path))
    np.testing.assert_allclose(predicted["boosted"], (alone + predicted["tuned"]) / 2, atol=1e-9)


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
    assert "90 minutes for 25,000 rows; CFG.hours allows 510" in forecast_line(
        find().members, {"tuned": 5400.0, "llm": 0.0}, 8.5
    )
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
    assert fit_into(seconds, worth, -5) == ["file"]


def test_without_time_or_without_a_model_a_member_is_left_to_the_others(find, tune, foreign, table, prompts):
    """The choice is made again without it, and what the scoring run will blend is said."""
    tune()
    labels, noise = table["label"].to_numpy(), np.random.default_rng(1).normal(size=(len(table), 3))
    foreign(change=lambda oof: oof.assign(**dict(zip(CLASSES, softmax(noise + np.eye(3)[labels], axis=1).T))))
    members = find().members
    choice = choose_blend({m.name: m.oof for m in members}, labels, prompts, {}, calibrate=False)
    assert set(choice.blend.weights) == {"tuned", "llm"}
    seconds = {"tuned": 9000.0, "llm": 0.0}
    assert set(fitting_in(choice, seconds, 25_000, 1e4)) == {"tuned", "llm"}
    assert fitting_in(choice, seconds, 25_000, 100) == ["llm"]
    assert set(fitting_in(choice, seconds, 250, 100)) == {"tuned", "llm"}
    assert time_line(choice, ["llm"], seconds, 25_000, 100) == "There is time only for llm."
    assert time_line(choice, ["tuned", "llm"], seconds, 25_000, 1e4) == ""
    alone = choose_blend({"tuned": members[0].oof}, labels, prompts, {}, calibrate=False)
    assert "There is time for no member: tuned" in time_line(alone, ["tuned"], seconds, 25_000, 100)


@pytest.fixture
def fitting(table, prompts):
    return Fitting(table, prompts, BlendSettings(stacker=False), 0)


def test_the_scoring_run_is_foretold_from_all_models_also_those_that_this_run_leaves_out(
    find, tune, foreign, fitting, table
):
    """A file that knows too much drives the model out of this run's blend; the scoring run has the model alone."""
    tune()
    truth = 0.9 * np.eye(3)[table["label"]] + 0.1 / 3
    foreign(change=lambda oof: oof.assign(**dict(zip(CLASSES, truth.T))))
    members, seconds = find().members, {"tuned": 60.0, "llm": 0.0}
    now = fitting.fit(members)
    assert list(now.weights) == ["llm"]
    later = fitting.scoring_run(members, seconds, 8.5)
    assert list(later.weights) == ["tuned"]
    assert "will blend tuned only" in fitting.scoring_line(later, now)
    assert fitting.scoring_line(later, later) == ""
    first, second = fitting.judge(later, now).strips
    assert first.name.startswith("the scoring run's blend, which is what counts")
    assert f"{first.model:.4f}" in fitting.scoring_line(later, now)
    assert [strip.name for strip in fitting.judge(now, now).strips] == [second.name]
    assert fitting.scoring_run([member for member in members if member.name == "llm"], seconds, 8.5) is None


def test_members_that_stay_are_fitted_again_when_they_know_many_more_rows(find, tune, foreign, fitting):
    tune(folds=(0,), parts=2, change=lambda oof: oof.assign(a=0.4, b=0.3, tie=0.3))
    foreign(change=lambda oof: oof)
    foreign("other", change=lambda oof: oof.assign(tie=0.9 * oof["tie"], a=oof["a"] + 0.1 * oof["tie"]))
    fitted = fitting.fit(find().members)
    assert "tuned" not in fitted.weights
    assert fitted.known.all()
    (first, few), (again, many) = fitted.steps
    assert "tuned" in few.table.index
    assert "500 rows" in again
    assert many is fitted.choice
    assert "500" not in first


def test_folds_of_one_run_that_were_trained_apart_are_one_member(find, tune, test_rows, tmp_path):
    tune("first", folds=(0,))
    tune("second", folds=(1, 2))
    (member,) = find().members
    assert (member.name, member.folds) == ("first + second", 3)
    assert member.known.all()
    predicted, _ = _predict([member], test_rows, tmp_path)
    folders = [*member.folder.glob("fold_*"), *(member.folder.parent / "second").glob("fold_*")]
    np.testing.assert_allclose(predicted["first + second"], predict_saved(folders, test_rows, CLASSES), atol=1e-12)
    assert _names(find(exclude=["first"])) == ["second"]


def test_a_member_whose_helpers_were_edited_since_is_named(find, tune, table):
    from src_py.kaggle.identity import helper_digests

    code = helper_digests() | {
        "src_py/pairs/counts.py": "edited",
        "src_py/doctor/watch.py": "edited",
        "new_model()": "x",
    }
    tune(identity={"settings": {}, "code": code})
    (sentence,) = doubts(find().members, table["label"].to_numpy())
    assert "other helpers than this notebook's (src_py/pairs/counts.py)" in sentence


@pytest.mark.parametrize("leak", ["everywhere", "in one fold"])
def test_a_file_that_is_good_beyond_belief_is_named_although_it_has_folds(find, foreign, table, prompts, leak):
    labels = table["label"].to_numpy()
    truth = 0.95 * np.eye(3)[labels] + 0.05 / 3

    def change(oof):
        where = (prompts % 3 == 0) if leak == "in one fold" else np.full(len(oof), True)
        predictions = np.where(where[:, None], truth, oof[list(CLASSES)].to_numpy())
        folds = prompts % 3 if leak == "in one fold" else 0
        return oof.assign(fold=folds, label=labels, **dict(zip(CLASSES, predictions.T)))

    foreign(change=change)
    said = " ".join(doubts(find().members, labels))
    assert ("does not say its folds" if leak == "everywhere" else "in most others; if its models have seen") in said


def test_columns_of_both_kinds_are_no_trouble(find, foreign, table):
    """The submission's columns, and another one that is called like a class."""
    foreign(change=lambda oof: oof.rename(columns=dict(zip(CLASSES, LMSYS.submission_columns))).assign(a=1))
    (member,) = find().members
    assert member.oof.shape == (len(table), 3)


@pytest.mark.parametrize("attached", [("submission.csv",), ("oof.parquet", "submission.csv"), ("OOF_final.csv",)])
def test_predictions_that_cannot_take_part_are_not_passed_over_in_silence(find, inputs, attached):
    folder = inputs / "public"
    folder.mkdir(parents=True)
    for name in attached:
        (folder / name).write_text("id,x\n1,2\n")
    assert "cannot take part" in find().left_out[0]


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\ud83d", "x" * 1000])
def test_a_name_that_could_forge_a_line_is_refused(find, foreign, name):
    foreign(marker={"name": name})
    assert "printable characters" in find().left_out[0]


def test_rounded_probabilities_and_decimal_ids(find, foreign):
    foreign("rounded", change=lambda oof: oof.round(dict.fromkeys(CLASSES, 2)))
    foreign("decimal", change=lambda oof: oof.assign(id=oof["id"] + ".0"))
    found = find()
    assert _names(found) == ["rounded"]
    np.testing.assert_allclose(found.members[0].oof.sum(1), 1)
    assert "whole numbers that became decimals" in found.left_out[0]


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


def test_what_nobody_foresaw_ends_a_run_but_not_a_scoring_run(tmp_path, monkeypatch):
    left_out: list[str] = []
    with pytest.raises(ZeroDivisionError), left_out_if_scoring(tmp_path, left_out):
        raise ZeroDivisionError("odd")
    assert left_out == []
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    with left_out_if_scoring(tmp_path, left_out):
        raise ZeroDivisionError("odd")
    assert left_out == [f"{tmp_path}: ZeroDivisionError: odd"]
