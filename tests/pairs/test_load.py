"""Reading pairs: every wart is repaired and counted, or refused with file, column and row."""

import json

import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.pairs.load import class_names, load_pairs, swap_sides
from src_py.pairs.split import assign_folds


def write(tmp_path, frame, name="train.csv"):
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


def test_csv_and_parquet_read_alike(tmp_path, rows):
    one, report = load_pairs(write(tmp_path, rows))
    two, _ = load_pairs(write(tmp_path, rows, "train.parquet"))
    pd.testing.assert_frame_equal(one, two)
    assert one["id"].tolist() == ["11", "12", "13", "14"]
    assert one["prompt"][0] == ["prompt 0"]
    assert one["label"].tolist() == [0, 1, 2, 0]
    assert report["count"]["rows"] == 4


@pytest.mark.parametrize(
    ("cell", "turns", "counted"),
    [
        ('["a", null]', ["a", ""], "null turn"),
        ('["half \\ud83d emoji"]', ["half � emoji"], "lone surrogate"),
        ('["whole \\ud83d\\ude00 emoji"]', ["whole 😀 emoji"], None),
        ('["😀"]', ["😀"], None),
        ('[""]', [""], "empty answer"),
        ("[]", [""], "empty answer"),
        (None, [""], "missing cell"),
        ('["NA"]', ["NA"], None),
        ('["first", "second"]', ["first", "second"], None),
    ],
)
def test_warts_are_repaired_and_counted(tmp_path, rows, cell, turns, counted):
    rows.loc[2, "response_a"] = cell
    table, report = load_pairs(write(tmp_path, rows))
    assert table["response_a"][2] == turns
    if counted:
        assert report["count"][counted] == 1
    assert len(table) == 4


@pytest.mark.parametrize("cell", ["plain", '{"a": 1}', '["a", 3]', '["unfinished'])
def test_a_cell_that_is_no_json_list_is_named_in_train_and_kept_in_test(tmp_path, rows, cell):
    rows.loc[2, "response_b"] = cell
    path = write(tmp_path, rows)
    with pytest.raises(InputError, match=r"train\.csv: column response_b, row 3 \(id 13\)"):
        load_pairs(path)
    table, report = load_pairs(path, labelled=False)
    assert table["response_b"][2] == [cell]
    assert report["count"]["not a JSON list"] == 1


@pytest.mark.parametrize("label", [(1, 1, 0), (0, 0, 0), (0.5, 0.5, 0), ("yes", 0, 0), (None, 0, 1)])
def test_labels_that_are_not_one_hot_are_named(tmp_path, rows, label):
    columns = ["winner_model_a", "winner_model_b", "winner_tie"]
    rows[columns] = rows[columns].astype(object)
    rows.loc[1, columns] = label
    with pytest.raises(InputError, match=r"row 2 \(id 12\)"):
        load_pairs(write(tmp_path, rows))


def test_missing_files_columns_and_rows_are_named(tmp_path, rows):
    with pytest.raises(InputError, match="does not exist"):
        load_pairs(tmp_path / "train.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv is empty"):
        load_pairs(tmp_path / "empty.csv")
    with pytest.raises(InputError, match="no rows"):
        load_pairs(write(tmp_path, rows[:0]))
    with pytest.raises(InputError, match="no column 'response_b'"):
        load_pairs(write(tmp_path, rows.drop(columns="response_b")))
    with pytest.raises(InputError, match="id 11 occurs more than once"):
        load_pairs(write(tmp_path, pd.concat([rows, rows[:1]])))


def test_the_two_class_contest_with_plain_texts(tmp_path, rows):
    frame = rows[["id"]].assign(prompt="hi", response_a="[1] a list", response_b='"quoted"', winner="model_b")
    path = write(tmp_path, frame, "train.parquet")
    table, _ = load_pairs(path)
    assert class_names(path) == ("a", "b")
    assert table["response_a"][0] == ["[1] a list"]
    assert table["label"].tolist() == [1] * 4


def test_bytes_that_are_no_utf8_are_counted(tmp_path, rows):
    path = write(tmp_path, rows)
    path.write_bytes(path.read_bytes().replace(b"response_a 1", b"response_a \xff"))
    table, report = load_pairs(path)
    assert table["response_a"][1] == ["response_a �"]
    assert report["count"]["lone surrogate"] == 1


def test_swap_exchanges_answers_and_labels(pairs):
    swapped = swap_sides(pairs)
    assert swapped["response_a"].equals(pairs["response_b"])
    assert (swapped["label"][pairs["label"] == 2] == 2).all()
    assert swapped["label"][pairs["label"] == 0].eq(1).all()


def test_folds_keep_prompts_together_and_shares_alike(pairs):
    folds = assign_folds(pairs, 3, seed=0)
    prompts = pairs["prompt"].map(json.dumps)
    assert pd.Series(folds).groupby(prompts.to_numpy()).nunique().eq(1).all()
    assert pairs["label"].eq(0).groupby(folds).mean().std() < 0.05
    assert (assign_folds(pairs, 3, seed=0) == folds).all()


def test_data_that_cannot_be_split_is_refused(pairs):
    with pytest.raises(InputError, match="nothing to learn"):
        assign_folds(pairs[:1], 2, seed=0)
    with pytest.raises(InputError, match="nothing to learn"):
        assign_folds(pairs.assign(label=1), 2, seed=0)
    with pytest.raises(InputError, match="distinct prompts"):
        assign_folds(pairs.assign(prompt=[["same"]] * len(pairs)), 2, seed=0)
