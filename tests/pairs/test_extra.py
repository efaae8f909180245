"""Further files: read whatever their coding, compared with the contest's rows, and added without a leak."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.pairs.audit import add_extra, audit_extra, training_rows
from src_py.pairs.contest import LMSYS, WSDM
from src_py.pairs.copies import BAND, BANDS, NEAR, find_copies, similarity
from src_py.pairs.extra import ExtraFile, load_extra
from src_py.pairs.load import load_pairs, prompt_key, swap_sides

ONE_HOT = ["winner_model_a", "winner_model_b", "winner_tie"]


def write(tmp_path, frame, name="more.csv"):
    frame.to_csv(tmp_path / name, index=False)
    return {name: tmp_path / name}


def pair(prompt, a, b, label=0):
    return pd.DataFrame({"prompt": [[prompt]], "response_a": [[a]], "response_b": [[b]], "label": [label]})


def words(start, count=60):
    return " ".join(f"w{number}" for number in range(start, start + count))


def table_of(*pairs):
    table = pd.concat(pairs, ignore_index=True)
    table.insert(0, "id", [f"t{row}" for row in range(len(table))])
    return table


def audit(extra, train, test, is_valid=None, pseudo=False):
    if pseudo and "soft" not in extra:
        extra = extra.assign(soft=np.eye(3)[extra["label"]].tolist())
    is_valid = np.zeros(len(train), bool) if is_valid is None else is_valid
    return audit_extra([ExtraFile("x", extra, pseudo)], train, is_valid, test, LMSYS.classes)


@pytest.fixture
def own():
    return table_of(*(pair(words(1000 * k), words(1000 * k + 100), words(1000 * k + 200), k % 3) for k in range(6)))


def test_files_of_other_codings_are_read_with_this_contests_labels(tmp_path, rows, capsys):
    arena = rows.drop(columns=[*ONE_HOT, "id"]).assign(winner=["tie (bothbad)", "tie", "model_b", "model_a"])
    arena["prompt"] = ["plain text"] * 4
    [file] = load_extra(write(tmp_path, arena), LMSYS)
    assert file.table["label"].tolist() == [2, 2, 1, 0]
    assert file.table["id"].tolist() == [f"more.csv:{row}" for row in range(1, 5)]
    assert file.table["model_a"].tolist() == ["x"] * 4
    assert file.table["prompt"][0] == ["plain text"]
    assert file.counts["ties where both are bad"] == 1
    assert "1 ties in which both answers are bad" in capsys.readouterr().out
    [file] = load_extra(write(tmp_path, arena), WSDM)
    assert file.table["label"].tolist() == [1, 0]
    assert file.counts["left out: ties"] == 2
    [file] = load_extra(write(tmp_path, rows), WSDM)  # one-hot of three classes
    assert file.table["label"].tolist() == [0, 1, 0]
    two = arena.assign(winner=["model_a", "model_b"] * 2)
    assert load_extra(write(tmp_path, two), LMSYS)[0].table["label"].tolist() == [0, 1, 0, 1]


def test_rows_of_zeros_are_ties_in_which_both_are_bad(tmp_path, rows, capsys):
    rows.loc[1, ONE_HOT] = 0
    [file] = load_extra(write(tmp_path, rows), LMSYS)
    assert file.table["label"].tolist() == [0, 2, 2, 0]
    assert "both answers are bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.drop(columns=ONE_HOT), r"more\.csv has no labels: it needs the columns winner_model_a"),
        (lambda f: f.assign(**dict.fromkeys(ONE_HOT, 0)), "4 of 4 rows have 0 in all of"),
        (lambda f: f.assign(**dict.fromkeys(ONE_HOT, 0.333)), r"hold probabilities.*CFG\.pseudo_files"),
        (
            lambda f: f.assign(winner_model_a=[1, 1, 0, 1]),
            "1 of 4 rows.* row 2, the first, has winner_model_a '1', winner_model_b '1'",
        ),
        (
            lambda f: f.drop(columns=ONE_HOT).assign(winner=["A", "B", "A", "B"]),
            "4 of 4 rows have labels that are not model_a .*has winner 'A'",
        ),
        (lambda f: f.drop(columns="prompt"), "has no column 'prompt'"),
        (lambda f: f.assign(winner=["model_a", "model_a", "tie", "model_a"]), "contradicts itself"),
    ],
)
def test_labels_that_mean_something_else_get_a_sentence(tmp_path, rows, change, sentence):
    with pytest.raises(InputError, match=sentence):
        load_extra(write(tmp_path, change(rows)), LMSYS)


def test_a_file_of_nothing_but_ties_is_refused_where_there_are_none(tmp_path, rows):
    ties = rows.assign(winner_model_a=0, winner_model_b=0, winner_tie=1)
    with pytest.raises(InputError, match="all 4 rows are ties"):
        load_extra(write(tmp_path, ties), WSDM)


@pytest.mark.parametrize("cell", [None, "", "[]", "[null]", '[" "]'])
def test_a_file_whose_answers_are_all_missing_is_refused(tmp_path, rows, cell):
    rows["response_b"] = cell
    assert len(load_extra(write(tmp_path, rows), LMSYS)[0].table) == 4  # one side has texts
    rows["response_a"] = cell
    for load in (lambda: load_extra(write(tmp_path, rows), LMSYS), lambda: load_pairs(tmp_path / "more.csv", LMSYS)):
        with pytest.raises(InputError, match=r"more\.csv: all answers in the columns response_a, response_b are empty"):
            load()


def test_copies_are_found_where_they_are_and_left_out(own):
    near = own[1:2].assign(response_a=[[words(1100, 59) + " other"]])
    fresh = table_of(pair(words(9000), words(9100), words(9200)))
    loud = own[2:3].assign(prompt=[[f"  {words(2000).upper()}\n"]])
    extra = pd.concat([swap_sides(own[:1]), near, loud, fresh, fresh, own[5:6]], ignore_index=True)
    [file], shown = audit(extra, own[:5], own[5:], is_valid=np.arange(5) == 2)
    assert file.table["prompt"].tolist() == fresh["prompt"].tolist()
    found = shown["x"]
    assert found["exact copies of training rows"] == 1
    assert found["near copies of training rows"] == 1
    assert found["exact copies of validation rows"] == 1
    assert found["exact copies of test rows"] == 1
    assert found["exact copies of its own rows"] == 1
    assert found["prompt among the validation rows"] == 1
    assert found["rows in the file"] == 6
    assert found["rows added"] == 1
    assert found["share of a"] == round(np.mean(extra["label"] == 0), 3)
    assert shown["contest"]["median characters, prompt"] == own["prompt"][:5].map(lambda turns: len(turns[0])).median()


def test_copies_in_other_characters_are_copies(own):
    def wide(text):
        return "".join(chr(ord(x) + 0xFEE0) if "!" <= x <= "~" else x for x in text)

    hidden = own.assign(
        prompt=own["prompt"].map(lambda turns: [turns[0].replace("w", "\u200bw\ufeff")]),
        response_a=own["response_a"].map(lambda turns: [wide(turns[0])]),
    )
    assert hidden["prompt"][0] != own["prompt"][0]
    left, table = audit(hidden, own, own[:0])
    assert table.loc["exact copies of training rows", "x"] == len(own)
    assert left[0].table.empty


def test_a_row_of_an_earlier_file_is_not_added_twice(own):
    one, two = (ExtraFile(name, own[3:5].reset_index(drop=True)) for name in ("one", "two"))
    left, shown = audit_extra([one, two], own[:3], np.zeros(3, bool), own[5:], LMSYS.classes)
    assert [len(file.table) for file in left] == [2, 0]
    assert shown["two"]["exact copies of earlier files' rows"] == 2


def test_test_rows_are_loud_most_of_them_an_error_and_pseudo_labelled_ones_welcome(own, capsys):
    test, train = own[4:].reset_index(drop=True), own[:2]
    [file], _ = audit(own[1:5].iloc[1:], train, test)
    assert len(file.table) == 2
    assert "WARNING: 1 of the 3 rows of x" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"2 of the 3 rows of x .* take it out of CFG\.extra_files"):
        audit(own[3:].reset_index(drop=True), train, test)
    [file], _ = audit(own[3:].reset_index(drop=True), train, test, pseudo=True)
    assert len(file.table) == 3
    assert "they are used" in capsys.readouterr().out


def test_class_shares_of_pseudo_labelled_rows_are_means_of_their_probabilities(own):
    soft = [[0.4, 0.3, 0.3]] * 3 + [[0.3, 0.4, 0.3]] * 3
    guessed = own.assign(soft=soft, soft_weight=1.0, label=[0] * 3 + [1] * 3)
    _, table = audit(guessed, own, own, pseudo=True)
    assert [table.loc[f"share of {name}", "x"] for name in LMSYS.classes] == [0.35, 0.35, 0.3]


def test_pseudo_labelled_test_rows_stay_where_an_earlier_file_had_them_with_labels(own):
    """Those are left out, so that nothing is there twice; the same rows of two pseudo files are."""
    test, more = own[4:].reset_index(drop=True), own[1:5].reset_index(drop=True)
    guessed = test.assign(soft=[[0.2, 0.3, 0.5]] * len(test))
    files = [ExtraFile("labelled", more)] + [ExtraFile(name, guessed, pseudo=True) for name in ("one", "two")]
    left, shown = audit_extra(files, own[:1], np.zeros(1, bool), test, LMSYS.classes)
    assert [len(file.table) for file in left] == [3, 2, 0]
    assert shown.loc["rows added"].tolist()[1:] == [3, 2, 0]


def test_each_fold_leaves_out_the_extra_rows_with_its_own_prompts(own, capsys):
    answers = [pair(words(1000 * k), words(50 + 7000 * k), words(99 + 8000 * k)) for k in (0, 1, 9)]
    extra = [ExtraFile("x", table_of(*answers))]
    table, ends = add_extra(own, extra)
    assert ends == {"x": 9}
    fold_of = np.array([0, 1, 2, 0, 1, 2, -1, -1, -1])
    assert training_rows(table, fold_of, 0).tolist() == [1, 2, 4, 5, 7, 8]
    assert training_rows(table, fold_of, 1).tolist() == [0, 2, 3, 5, 6, 8]
    assert training_rows(table, fold_of, 2).tolist() == [0, 1, 3, 4, 6, 7, 8]
    longer, ends = add_extra(own[2:], extra, without=own[:1])
    assert ends == {"x": 6}
    assert not set(prompt_key(longer)) & set(prompt_key(own[:1]))
    assert "2 rows added, 1 left out" in capsys.readouterr().out
    assert len(add_extra(own, extra, rows=2)[0]) == 8


def test_tables_with_other_columns_are_filled(own):
    taught = own.assign(soft=[[0.1, 0.2, 0.7]] * 6, soft_weight=0.5, teacher_fold=0)
    table, _ = add_extra(taught, [ExtraFile("x", own[:1].assign(model_a="m", model_b="n"))])
    assert table["soft_weight"].tolist() == [0.5] * 6 + [0.0]
    assert np.isnan(table["soft"][6]).all()
    assert table["model_a"].tolist() == [""] * 6 + ["m"]
    assert table["teacher_fold"].tolist() == [0] * 6 + [-1]


def test_near_copies_are_those_of_a_comparison_of_all_pairs():
    rng = np.random.default_rng(0)
    made = []
    for _ in range(12):
        text = [[f"w{number}" for number in rng.integers(200, size=40)] for _ in range(3)]
        for share in (0.0, 0.01, 0.03, 0.1):
            changed = [[f"v{rng.integers(99)}" if rng.random() < share else word for word in part] for part in text]
            made.append(pair(*(" ".join(part) for part in changed)))
    table = table_of(*made)
    copies = find_copies([table], np.zeros(len(table), int), first=0)
    expected = np.zeros(len(table), bool)
    for one, other in itertools.combinations(range(len(table)), 2):
        expected[other] |= similarity(table[one : one + 1], table[other : other + 1]) >= NEAR
    assert expected.sum() >= 12
    assert not expected.all()
    assert ((copies.near | copies.exact)[:, 0] == expected).all()
    assert 1 - (1 - NEAR**BAND) ** BANDS > 0.999


def test_texts_without_spaces_and_empty_ones_can_be_compared():
    text = "機械学習の歴史について詳しく説明してください。" * 3
    near = table_of(
        pair(text, "答え" * 30, "b"), pair(text + "は", "答え" * 30, "b"), pair("", "", ""), pair("", "", "")
    )
    copies = find_copies([near], np.zeros(4, int), first=0)
    assert copies.near[:, 0].tolist() == [False, True, False, False]
    assert copies.exact[:, 0].tolist() == [False, False, False, True]


def test_json_and_plain_texts_are_the_same_rows(tmp_path, rows):
    as_json, plain = write(tmp_path, rows), rows.copy()
    for column in ("prompt", "response_a", "response_b"):
        plain[column] = plain[column].map(lambda cell: json.loads(cell)[0])
    files = load_extra(as_json | write(tmp_path, plain, "plain.csv"), LMSYS)
    for column in ("prompt", "response_a", "label"):
        assert files[0].table[column].tolist() == files[1].table[column].tolist()


def test_thousands_of_near_copies_are_found_in_linear_time():
    """Each is compared with its neighbours only; all but the first are copies of one before them."""
    words = [f"word{i}" for i in range(60)]
    texts = [[" ".join([*words, str(i)])] for i in range(600)]
    table = pd.DataFrame({"prompt": [["Say it"]] * 600, "response_a": texts, "response_b": [["No"]] * 600})
    found = find_copies([table], np.zeros(600, int), 0)
    assert found.near[1:, 0].all()
    assert not found.near[0, 0]
