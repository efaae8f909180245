"""Reading pairs: every wart is repaired and counted, or refused with file, column and row."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src_py.errors import InputError
from src_py.pairs.contest import LMSYS, WSDM, write_submission
from src_py.pairs.load import distinct_prompts, load_pairs, prompt_key, swap_sides
from src_py.pairs.split import assign_folds
from src_py.pairs.topics import topic_count, topic_of


def write(tmp_path, frame, name="train.csv"):
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


def plain(rows=4):
    """Rows of the two-class contest, as texts without JSON."""
    ids = [f"x{i}" for i in range(rows)]
    frame = pd.DataFrame({"id": ids, "prompt": [f"question {i}" for i in range(rows)]})
    frame["response_a"], frame["response_b"] = "answer a", "answer b"
    return frame.assign(winner=[f"model_{'ab'[i % 2]}" for i in range(rows)])


def test_csv_and_parquet_read_alike(tmp_path, rows):
    one, report = load_pairs(write(tmp_path, rows), LMSYS)
    two, _ = load_pairs(write(tmp_path, rows, "train.parquet"), LMSYS)
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
        (' \n["spaces around"] ', ["spaces around"], None),
        ('["two\nlines"]', ["two\nlines"], "line break inside JSON"),
        ('["a \0NUL"]', ["a NUL"], "NUL character"),
        ('["\\u0000"]', ["\0"], None),
    ],
)
@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_warts_are_repaired_and_counted(tmp_path, rows, cell, turns, counted, name):
    rows.loc[2, "response_a"] = cell
    table, report = load_pairs(write(tmp_path, rows, name), LMSYS)
    assert table["response_a"][2] == turns
    repaired = report["count"].drop(["rows", "empty answer"])
    assert report["count"]["empty answer"] == (turns == [""])
    assert repaired[repaired > 0].to_dict() == ({counted: 1} if counted and counted != "empty answer" else {})
    assert len(table) == 4


@pytest.mark.parametrize("cell", ["plain", '{"a": 1}', '["a", 3]', '["unfinished', r"[\"escaped\"]"])
def test_a_cell_that_is_not_a_json_list_is_named_in_train_and_kept_in_test(tmp_path, rows, cell):
    rows.loc[2, "response_b"] = cell
    path = write(tmp_path, rows)
    with pytest.raises(InputError, match=r"train\.csv: column response_b, row 3 \(id 13\)"):
        load_pairs(path, LMSYS)
    table, report = load_pairs(path, LMSYS, labelled=False)
    assert table["response_b"][2] == [cell]
    assert report["count"]["not a JSON list"] == 1


def test_each_column_is_json_or_plain_by_its_own_cells(tmp_path):
    """Missing cells have no vote; what most cells are not is counted."""
    frame = plain(10).assign(prompt=[' ["q"]'] * 3 + [None] * 7, response_a=['["x"]'] * 4 + ["plain"] * 6)
    table, report = load_pairs(write(tmp_path, frame), WSDM)
    assert table["prompt"].tolist() == [["q"]] * 3 + [[""]] * 7
    assert table["response_a"].tolist() == [['["x"]']] * 4 + [["plain"]] * 6
    assert report["count"]["JSON list in a plain column"] == 4
    frame["response_a"] = ['["x"]'] * 6 + ["plain"] * 4
    table, report = load_pairs(write(tmp_path, frame), WSDM, labelled=False)
    assert table["response_a"].tolist() == [["x"]] * 6 + [["plain"]] * 4
    assert report["count"]["not a JSON list"] == 4


@pytest.mark.parametrize("label", [(1, 1, 0), (0, 0, 0), (0.5, 0.5, 0), ("yes", 0, 0), (None, 0, 1)])
def test_labels_that_are_not_one_hot_are_named(tmp_path, rows, label):
    columns = ["winner_model_a", "winner_model_b", "winner_tie"]
    rows[columns] = rows[columns].astype(object)
    rows.loc[1, columns] = label
    with pytest.raises(InputError, match=r"row 2 \(id 12\)"):
        load_pairs(write(tmp_path, rows), LMSYS)


@pytest.mark.parametrize("winner", ["model_c", "", "0", "Model_A"])
def test_a_winner_that_is_not_a_class_is_named(tmp_path, winner):
    frame = plain()
    frame.loc[2, "winner"] = winner
    with pytest.raises(InputError, match=r"row 3 \(id x2\).* model_a or model_b is wanted"):
        load_pairs(write(tmp_path, frame), WSDM)


def test_label_columns_that_contradict_each_other_are_named(tmp_path, rows):
    rows["winner"] = ["model_a", "model_b", "tie", "model_a"]
    assert load_pairs(write(tmp_path, rows), LMSYS)[0]["label"].tolist() == [0, 1, 2, 0]
    load_pairs(write(tmp_path, rows.assign(winner=["gpt-4", "llama", "vicuna", "gpt-4"])), LMSYS)
    for row, wrong in ((1, "model_a"), (2, "model_b"), (3, "tie")):
        changed = rows.copy()
        changed.loc[row, "winner"] = wrong
        with pytest.raises(InputError, match=rf"train\.csv: row {row + 1} \(id 1{row + 1}\) contradicts itself"):
            load_pairs(write(tmp_path, changed), LMSYS)


def test_missing_files_columns_and_rows_are_named(tmp_path, rows):
    with pytest.raises(InputError, match="does not exist"):
        load_pairs(tmp_path / "train.csv", LMSYS)
    with pytest.raises(InputError, match="no rows"):
        load_pairs(write(tmp_path, rows[:0]), LMSYS)
    with pytest.raises(InputError, match="no rows"):
        load_pairs(write(tmp_path, rows[:0], "train.parquet"), LMSYS)
    with pytest.raises(InputError, match="no column 'response_b'"):
        load_pairs(write(tmp_path, rows.drop(columns="response_b")), LMSYS)


def test_the_two_class_contest_with_plain_texts(tmp_path, rows):
    frame = rows[["id"]].assign(prompt="hi", response_a="[1] a list", response_b='"quoted"', winner="model_b")
    table, _ = load_pairs(write(tmp_path, frame, "train.parquet"), WSDM)
    assert table["label"].tolist() == [1] * 4
    assert table["response_b"][0] == ['"quoted"']


# Ids


@pytest.mark.parametrize("name", ["test.csv", "test.parquet"])
def test_ids_are_kept_as_text_to_the_submission(tmp_path, name):
    ids = ["NA", "null", "nan", "None", "007", "1e5", "-1", "a,b", ' "q" ']
    table, _ = load_pairs(write(tmp_path, plain(len(ids)).assign(id=ids), name), WSDM, labelled=False)
    assert table["id"].tolist() == ids
    chances = np.tile([0.4, 0.6], (len(ids), 1))
    assert write_submission(tmp_path / "submission.csv", table["id"], chances, WSDM)["id"].tolist() == ids


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("missing", [None, "", "  "])
@pytest.mark.parametrize("name", ["file.csv", "file.parquet"])
def test_a_missing_id_is_refused_before_training(tmp_path, labelled, missing, name):
    frame = plain()
    frame.loc[2, "id"] = missing
    with pytest.raises(InputError, match=rf"{name}: row 3 has no id"):
        load_pairs(write(tmp_path, frame, name), WSDM, labelled=labelled)


def test_ids_that_parquet_holds_as_numbers(tmp_path):
    for numbers in ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]):
        path = write(tmp_path, plain().assign(id=numbers), "test.parquet")
        assert load_pairs(path, WSDM, labelled=False)[0]["id"].tolist() == ["1", "2", "3", "4"]
    for numbers, words in (([1.0, None, 3, 4], "row 2 has no id"), ([1, 2, 3, 2.0**60], "row 4 .* lost digits")):
        with pytest.raises(InputError, match=words):
            load_pairs(write(tmp_path, plain().assign(id=numbers), "test.parquet"), WSDM, labelled=False)


@pytest.mark.parametrize("wrong", ["a\nb", "\0", "x1"])
def test_ids_that_cannot_be_submitted_are_refused(tmp_path, wrong):
    frame = plain()
    frame.loc[3, "id"] = wrong
    with pytest.raises(InputError, match=r"test\.csv: .*(row 4 has the id|occurs more than once)"):
        load_pairs(write(tmp_path, frame, "test.csv"), WSDM, labelled=False)


def test_ids_are_compared_with_the_sample_submission(tmp_path):
    frame = plain(6)
    sample = write(tmp_path, frame[["id", "winner"]], "sample_submission.csv")
    _, report = load_pairs(write(tmp_path, frame), WSDM, labelled=False, sample=sample)
    assert report["count"]["not in the sample submission"] == 0
    with pytest.raises(InputError, match=r"test\.csv: 2 of the 6 ids of .*sample_submission\.csv .* x4, x5"):
        load_pairs(write(tmp_path, frame[:4], "test.csv"), WSDM, labelled=False, sample=sample)
    more, report = load_pairs(write(tmp_path, plain(9)), WSDM, labelled=False, sample=sample)
    assert len(more) == 9
    assert report["count"]["not in the sample submission"] == 3
    # The scoring run's test file beside the sample of the visible rows: other ids altogether.
    other = plain(9).assign(id=[f"y{i}" for i in range(9)])
    assert len(load_pairs(write(tmp_path, other), WSDM, labelled=False, sample=sample)[0]) == 9
    assert len(load_pairs(write(tmp_path, other[:5]), WSDM, labelled=False, sample=sample)[0]) == 5


# Text types of parquet


def parquet(tmp_path, column, frame=None):
    """A file of the two-class contest with this arrow array as response_a."""
    table = pa.Table.from_pandas(plain(len(column)), preserve_index=False)
    table = table.set_column(table.column_names.index("response_a"), "response_a", column)
    pq.write_table(table, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.binary()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_lists_of_texts_are_turns(tmp_path, kind):
    turns = [["turn"] * 2000, ["a", None], [], None, ['["x"]']]
    if pa.types.is_dictionary(kind.value_type):
        column = pa.array(turns, pa.list_(pa.string()))
        column = pa.ListArray.from_arrays(column.offsets, column.values.dictionary_encode(), mask=column.is_null())
    else:
        column = pa.array(turns, kind)
    table, report = load_pairs(parquet(tmp_path, column), WSDM)
    assert table["response_a"].tolist() == [["turn"] * 2000, ["a", ""], [""], [""], ['["x"]']]
    assert report["count"][["null turn", "missing cell"]].tolist() == [1, 1]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array([b"x", b"y"]),
        pa.array(["x", "y"], pa.large_string()),
        pa.array([b"x", b"y"], pa.binary(1)),
    ],
    ids=lambda column: str(column.type).split("<")[0],
)
def test_every_kind_of_text_column_is_read(tmp_path, column):
    assert load_pairs(parquet(tmp_path, column), WSDM)[0]["response_a"].tolist() == [["x"], ["y"]]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "cells",
    [[{"text": "a"}, {"text": "b"}], [[1, 2], [3]], [[["a"]], [["b"]]], [[{"role": "user"}], []]],
    ids=["struct", "numbers", "lists", "structs"],
)
def test_nested_cells_that_are_not_lists_of_texts_are_refused(tmp_path, cells, labelled):
    with pytest.raises(InputError, match=r"train\.parquet: column response_a is of type"):
        load_pairs(parquet(tmp_path, pa.array(cells)), WSDM, labelled=labelled)


@pytest.mark.parametrize("cells", [[1, 2], [0.5, 1.5], [True, False], [pd.Timestamp("2024-01-01"), None]], ids=str)
def test_numbers_are_refused_in_train_and_text_in_test(tmp_path, cells):
    path = parquet(tmp_path, pa.array(cells))
    with pytest.raises(InputError, match=r"train\.parquet: column response_a, row 1 \(id x0\)"):
        load_pairs(path, WSDM)
    table, report = load_pairs(path, WSDM, labelled=False)
    assert table["response_a"].tolist() == [[str(cell) if cell is not None else ""] for cell in cells]
    assert report["count"][["not a text", "missing cell"]].tolist() == [2 - cells.count(None), cells.count(None)]


# Text in another encoding


def test_single_bytes_that_are_not_utf8_are_counted(tmp_path, rows):
    path = write(tmp_path, rows)
    path.write_bytes(path.read_bytes().replace(b"response_a 1", b"response_a \xff"))
    table, report = load_pairs(path, LMSYS)
    assert table["response_a"][1] == ["response_a �"]
    assert report["count"][["undecodable bytes", "lone surrogate"]].tolist() == [1, 0]


@pytest.mark.parametrize(("encoding", "text"), [("cp1252", "très “bon”"), ("gb18030", "你好"), ("shift_jis", "日本")])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_file_in_another_encoding_is_refused(tmp_path, encoding, text, labelled):
    path = tmp_path / "file.csv"
    plain(300).assign(response_b=["x"] * 296 + [text] * 4).to_csv(path, index=False, encoding=encoding)
    with pytest.raises(InputError, match=r"file\.csv: 4 of 300 rows .* not UTF-8, row 297 first .*2 rows or 1%"):
        load_pairs(path, WSDM, labelled=labelled)
    plain(300).assign(response_b=["x"] * 297 + [text] * 3).to_csv(path, index=False, encoding=encoding)
    assert load_pairs(path, WSDM)[1]["count"]["undecodable bytes"] == 3


def test_undecodable_bytes_in_parquet_are_counted_too(tmp_path):
    raw = pa.array([b"good", b"b\xe4d"])
    column = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    table, report = load_pairs(parquet(tmp_path, column), WSDM)
    assert table["response_a"].tolist() == [["good"], ["b�d"]]
    assert report["count"]["undecodable bytes"] == 1


def test_half_an_emoji_as_bytes_is_a_surrogate(tmp_path):
    path = write(tmp_path, plain().replace("answer a", "HALF"))
    path.write_bytes(path.read_bytes().replace(b"HALF", b"\xed\xa0\xbd"))
    table, report = load_pairs(path, WSDM)
    assert table["response_a"].tolist() == [["�"]] * 4
    assert report["count"][["undecodable bytes", "lone surrogate"]].tolist() == [0, 4]


# Swapping and splitting


def test_swap_exchanges_answers_and_labels(pairs):
    swapped = swap_sides(pairs)
    assert swapped["response_a"].equals(pairs["response_b"])
    assert (swapped["label"][pairs["label"] == 2] == 2).all()
    assert swapped["label"][pairs["label"] == 0].eq(1).all()
    pd.testing.assert_frame_equal(swap_sides(swapped), pairs)
    labels = swap_sides(pairs[:5].assign(label=range(5)))["label"]
    assert labels.tolist() == [1, 0, 2, 3, 4]
    assert labels.dtype == np.int64


def test_folds_keep_prompts_together_and_shares_alike(pairs):
    folds = assign_folds(pairs, 3, seed=0)
    prompts = pairs["prompt"].map(json.dumps)
    assert pd.Series(folds).groupby(prompts.to_numpy()).nunique().eq(1).all()
    assert pairs["label"].eq(0).groupby(folds).mean().std() < 0.05
    assert (assign_folds(pairs, 3, seed=0) == folds).all()


def test_only_prompts_that_differ_in_nothing_one_sees_are_joined():
    """Folds depend on which prompts are equal, and topics on their texts: both stay what they were for others."""
    prompts = [
        "Ｈｅｌｌｏ\u3000World",
        "hello wor\u200bld",
        "hello w\u00f6rld",
        "hello wo\u0308rld",
        "“a” … ½",
        "“a” … 1⁄2",
        "\u200b",
    ]
    table = pd.DataFrame({"prompt": [[prompt] for prompt in [*prompts, "été 👩‍💻 привет 日本語"]]})
    numbers, texts = distinct_prompts(table)
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 4]
    assert texts == ["ｈｅｌｌｏ world", "hello wörld", "“a” … ½", "\u200b", "été 👩‍💻 привет 日本語"]
    assert prompt_key(table).tolist()[3:7] == ["hello wörld", "“a” ... 1⁄2", "“a” ... 1⁄2", ""]


def test_data_that_cannot_be_split_is_refused(pairs):
    with pytest.raises(InputError, match="nothing to learn"):
        assign_folds(pairs[:1], 2, seed=0)
    with pytest.raises(InputError, match="nothing to learn"):
        assign_folds(pairs.assign(label=1), 2, seed=0)
    with pytest.raises(InputError, match="distinct prompts"):
        assign_folds(pairs.assign(prompt=[["same"]] * len(pairs)), 2, seed=0)


def test_fewer_rows_of_a_class_than_folds(pairs, capsys, recwarn):
    few = pairs[:12].assign(label=[0, 1, 2] * 4, prompt=[[str(i)] for i in range(12)])
    with pytest.raises(InputError, match=r"CFG.n_folds is 5, but no class has more than 4 of the 12 training rows"):
        assign_folds(few, 5, seed=0)
    folds = assign_folds(few.assign(label=[0, 1] * 5 + [2] * 2), 5, seed=0)
    assert set(folds) == set(range(5))
    assert "Class 2 has 2 rows, fewer than CFG.n_folds = 5" in capsys.readouterr().out
    assert not recwarn.list


def test_chatbots_are_read_from_training_files_that_name_both(tmp_path, rows):
    rows["model_a"] = ["gpt-4", None, " vicuna ", "NA"]
    path = write(tmp_path, rows)
    table = load_pairs(path, LMSYS)[0]
    assert table["model_a"].tolist() == ["gpt-4", "", "vicuna", "NA"]
    assert table["model_b"].tolist() == ["y"] * 4
    assert "model_a" not in load_pairs(path, LMSYS, labelled=False)[0]
    assert "model_b" not in load_pairs(write(tmp_path, rows.drop(columns="model_a")), LMSYS)[0]


def test_swapping_sides_swaps_chatbots_and_soft_labels(tmp_path, rows):
    table = load_pairs(write(tmp_path, rows), LMSYS)[0].assign(soft=[[0.1, 0.2, 0.7]] * 4)
    swapped = swap_sides(table)
    assert swapped["model_a"].tolist() == ["y"] * 4
    assert swapped["soft"][0] == [0.2, 0.1, 0.7]
    pd.testing.assert_frame_equal(swap_sides(swapped), table)


@pytest.mark.parametrize("split", ["prompt", "topic", "length"])
def test_every_split_keeps_prompts_together_and_can_be_repeated(pairs, split):
    doubled = pd.concat([pairs, pairs[:100]], ignore_index=True)
    folds = assign_folds(doubled, 3, 0, split)
    assert set(folds) == {0, 1, 2}
    assert pd.Series(folds).groupby(prompt_key(doubled)).nunique().max() == 1
    assert (assign_folds(doubled, 3, 0, split) == folds).all()


def test_a_length_split_holds_out_a_range_of_lengths(pairs):
    folds = assign_folds(pairs, 4, 0, "length")
    lengths = sum(pairs[side].map(lambda turns: sum(map(len, turns))) for side in ("response_a", "response_b"))
    mean = lengths.groupby(prompt_key(pairs)).transform("mean")
    ranges = mean.groupby(folds).agg(["min", "max"])
    assert (ranges["max"][:3].to_numpy() <= ranges["min"][1:].to_numpy()).all()
    assert np.bincount(folds).min() > len(pairs) / 8


def test_a_topic_is_never_split():
    words = ["parrots birds feathers", "engines wheels brakes", "violins cellos concert", "tomatoes garden soil"]
    prompts = [[f"{words[i % 4]} number {i}"] for i in range(80)]
    table = pd.DataFrame({"prompt": prompts, "label": [i // 4 % 2 for i in range(80)]})
    topics = topic_of(table, seed=0, count=4)
    assert all(len(set(topics[k::4])) == 1 for k in range(4))
    assert len(set(topics)) == 4
    folds, topics = assign_folds(table, 2, 0, "topic"), topic_of(table, 0, topic_count(80))
    assert pd.Series(folds).groupby(topics).nunique().max() == 1


def test_an_unknown_split_and_too_few_topics_are_refused(pairs):
    with pytest.raises(InputError, match=r"CFG\.split is 'random'"):
        assign_folds(pairs, 3, 0, "random")
    few = pairs[~prompt_key(pairs).duplicated()][:8].assign(label=[0, 1] * 4)
    with pytest.raises(InputError, match="make only 4 topics"):
        assign_folds(pd.concat([few, few]), 5, 0, "topic")
