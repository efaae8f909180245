"""Soft labels and pseudo-labels: refused when damaged, and what the teacher had seen is said."""

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.pairs.audit import audit_extra
from src_py.pairs.contest import LMSYS, WSDM
from src_py.pairs.load import load_pairs
from src_py.pairs.soft import check_teacher, load_pseudo, load_soft, soft_labels
from src_py.pairs.split import assign_folds


@pytest.fixture
def taught(pairs):
    """A teacher's file for the pairs."""
    probabilities = np.random.default_rng(0).dirichlet([3, 3, 3], len(pairs)).round(3)
    probabilities[:, 2] = 1 - probabilities[:, 0] - probabilities[:, 1]
    frame = pd.DataFrame(probabilities.clip(0), columns=["a", "b", "tie"])
    frame.insert(0, "id", pairs["id"])
    return frame.assign(fold=assign_folds(pairs, 3, 0))


def write(tmp_path, frame, name="oof.csv"):
    frame.to_csv(tmp_path / name, index=False)
    return tmp_path / name


def test_rows_are_matched_by_id_and_others_keep_their_label(tmp_path, pairs, taught, capsys):
    path = write(tmp_path, taught.sample(frac=1, random_state=0).loc[lambda f: f["id"] != pairs["id"][7]])
    soft, folds = load_soft(path, pairs, LMSYS)
    assert np.isnan(soft[7]).all()
    kept = np.arange(len(pairs)) != 7
    np.testing.assert_allclose(soft[kept], taught[["a", "b", "tie"]][kept], atol=1e-3)
    np.testing.assert_allclose(soft[kept].sum(1), 1)
    assert (folds[kept] == taught["fold"][kept]).all()
    assert "1 of 300 training rows have no soft label" in capsys.readouterr().out
    table = soft_labels(pairs, soft, folds, 0.3)
    assert table["soft_weight"].tolist() == [0.0 if row == 7 else 0.3 for row in range(len(pairs))]
    assert table["soft"][3] == soft[3].tolist()
    renamed = taught.rename(columns=dict(zip(LMSYS.classes, LMSYS.submission_columns))).drop(columns="fold")
    again, folds = load_soft(write(tmp_path, renamed), pairs, LMSYS)
    np.testing.assert_allclose(again[kept], soft[kept])
    assert folds is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.rename(columns={"tie": "draw"}), r"has the columns id, a, b, draw, fold, but class probabilities"),
        (lambda f: f.rename(columns={"id": "row"}), "has no column 'id'"),
        (lambda f: f.assign(id=["x9", *f["id"][1:]]), "1 of 300 ids have no row .* x9 in row 1 first"),
        (lambda f: f.assign(id=["t1", *f["id"][1:]]), r"1 of them test rows.*CFG\.pseudo_files"),
        (lambda f: pd.concat([f, f[4:5]]), "occurs more than once"),
        (lambda f: f.assign(b=[None, *f["b"][1:]]), r"are not all numbers in 1 rows, row 1 \(id"),
        (lambda f: f.assign(a=f["a"] - 1, b=f["b"] + 1), "are negative in places in 300 rows"),
        (lambda f: f.assign(a=[*f["a"][:-1], f["a"].iloc[-1] + 0.01]), "do not sum to 1 in 1 rows, row 300"),
        (lambda f: f[:2], "has soft labels for 2 of 300 training rows, fewer than 1%"),
        (lambda f: f.assign(fold="first"), "column fold, row 1 .* holds 'first'"),
        (lambda f: f.assign(fold=0.5), "column fold, row 1"),
        (lambda f: f.assign(fold=1e30), "column fold, row 1"),
        (lambda f: f.assign(a=0, b=1, tie=0), r"a, b, tie hold labels.*CFG\.soft_labels"),
    ],
)
def test_a_damaged_file_gets_one_sentence(tmp_path, pairs, taught, change, sentence):
    with pytest.raises(InputError, match=sentence) as raised:
        load_soft(write(tmp_path, change(taught)), pairs, LMSYS, test_ids=["t1"])
    assert "oof.csv" in str(raised.value)


def test_two_classes_have_their_own_columns(tmp_path, pairs, taught):
    half = taught.assign(a=0.25, b=0.75).drop(columns="tie")
    assert load_soft(write(tmp_path, half), pairs, WSDM)[0][0].tolist() == [0.25, 0.75]


def said(pairs, taught, theirs, ours):
    soft = taught[["a", "b", "tie"]].to_numpy()
    return " ".join(check_teacher(soft_labels(pairs, soft, theirs, 0.5), ours, [0], 3))


def test_what_the_teacher_had_seen_is_said(pairs, taught):
    ours = assign_folds(pairs, 3, 0)
    same = said(pairs, taught, (ours + 1) % 3, ours)  # other numbers, the same folds
    assert "is out of fold" in same
    assert "can be trusted" in same
    other = said(pairs, taught, assign_folds(pairs, 3, 1), ours)
    assert "is out of fold" in other
    assert "folds are not those of this run" in other
    torn = pd.concat([pairs, pairs], ignore_index=True)
    twice = pd.concat([taught, taught], ignore_index=True)
    assert "part rows with equal prompts" in said(torn, twice, np.repeat([0, 1], 300), np.r_[ours, ours])
    none = said(pairs, taught, None, ours)
    assert "Nothing says that the soft labels are out of fold" in none
    assert "can no longer be trusted" in none


def test_how_far_validation_may_flatter_is_computed_from_the_teacher(pairs):
    ours, label = assign_folds(pairs, 3, 0), pairs["label"].to_numpy()
    certain = pd.DataFrame(np.full((len(pairs), 3), 0.05) + 0.85 * np.eye(3)[label], columns=["a", "b", "tie"])
    sentence = said(pairs, certain, None, ours)
    held, rest = label[ours == 0], label[ours != 0]
    constant = -np.log(np.bincount(rest) / len(rest))[held].mean()
    assert f"{-np.log(0.9):.4f} on the validation rows" in sentence
    assert f"may flatter by up to {constant + np.log(0.9):.4f}" in sentence


def test_pseudo_labels_have_texts_or_the_ids_of_test_rows(tmp_path, contest, pairs, taught, capsys):
    test = load_pairs(contest / "test.csv", LMSYS, labelled=False)[0]
    answers = taught[["a", "b", "tie"]][: len(test)].assign(id=test["id"])
    texts = pd.read_csv(contest / "train.csv")[["prompt", "response_a", "response_b"]]
    with_texts = texts[:40].assign(**{name: answers[name] for name in "ab"}, tie=answers["tie"])
    paths = {"sub": write(tmp_path, answers, "sub.csv"), "texts": write(tmp_path, with_texts, "texts.csv")}
    files = load_pseudo(paths, LMSYS, test)
    said = capsys.readouterr().out
    assert all(f"{name}: nothing says whether its teacher has learned from validation rows" in said for name in paths)
    of_test, of_texts = (file.table for file in files)
    assert of_test["response_b"].tolist() == test["response_b"].tolist()
    assert of_texts["prompt"].tolist() == pairs["prompt"][:40].tolist()
    assert of_test["label"].tolist() == answers[["a", "b", "tie"]].to_numpy().argmax(1).tolist()
    assert set(of_test["soft_weight"]) == {1.0}
    left, shown = audit_extra(files, pairs, np.zeros(300, bool), test, LMSYS.classes)
    assert len(left[0].table) > 0
    assert len(left[1].table) == 0, "they are training rows"
    assert shown["texts"]["exact copies of training rows"] == 40


def test_a_pseudo_file_with_labels_or_unknown_ids_is_refused(tmp_path, pairs, taught):
    hard = taught.assign(a=1, b=0, tie=0)
    with pytest.raises(InputError, match=r"hold labels.*CFG\.extra_files"):
        load_pseudo({"hard": write(tmp_path, hard)}, LMSYS, pairs)
    with pytest.raises(InputError, match="ids have no row"):
        load_pseudo({"x": write(tmp_path, taught.assign(id=[f"q{i}" for i in range(300)]))}, LMSYS, pairs)
