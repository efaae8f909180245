"""A contest is recognised by its columns, found where it is attached, and submitted in its own form."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.pairs.contest import CONTESTS, LMSYS, WSDM, Contest, find_contest, recognise, write_submission
from src_py.pairs.load import load_pairs, swap_sides

DUELS = Contest(
    name="Duels",
    classes=("left", "right"),
    label_columns=("better",),
    label_values=("L", "R"),
    submission_columns=("p_left", "p_right"),
    id_column="duel",
    text_columns=("question", "left", "right"),
    train="duels",
    test="duels_open",
    sample="example",
)
DUEL = {"duel": ["x", "y"], "question": ["q", "r"], "left": ["1", "2"], "right": ["3", "4"]}


def write_files(folder, contest=LMSYS, suffix=".csv", sample=False):
    folder.mkdir(parents=True, exist_ok=True)
    texts = {contest.id_column: ["1", "2"]} | {column: ["p", "q"] for column in contest.text_columns}
    if len(contest.label_columns) == 1:
        labels = {contest.label_columns[0]: contest.label_values[:2]}
    else:
        labels = {column: [int(k == 0), int(k == 1)] for k, column in enumerate(contest.label_columns)}
    frames = {contest.train: pd.DataFrame(texts | labels), contest.test: pd.DataFrame(texts)}
    if sample:
        columns = dict.fromkeys(contest.submission_columns, 0)
        frames[contest.sample] = pd.DataFrame({contest.id_column: ["1", "2"]} | columns)
    for stem, frame in frames.items():
        path = folder / f"{stem}{suffix}"
        frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    return folder


@pytest.mark.parametrize("mount", ["competitions/llm-classification-finetuning", "lmsys-chatbot-arena", "."])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zip", ".zip", ".parquet"])
@pytest.mark.parametrize("contest", [LMSYS, WSDM], ids=lambda contest: contest.name)
def test_a_contest_is_found_in_every_mount_and_format(tmp_path, mount, suffix, contest):
    folder = write_files(tmp_path / mount, contest, suffix, sample=mount == ".")
    files = find_contest(tmp_path)
    assert files.contest is contest
    assert (files.train, files.test) == (folder / f"train{suffix}", folder / f"test{suffix}")
    assert files.sample == (folder / f"sample_submission{suffix}" if mount == "." else None)
    assert len(load_pairs(files.train, contest)[0]) == 2
    assert len(load_pairs(files.test, contest, labelled=False, sample=files.sample)[0]) == 2


def test_missing_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"set CFG\.input_dir"):
        find_contest(tmp_path / "absent")
    with pytest.raises(InputError, match=r"attach the competition data .*set CFG\.input_dir"):
        find_contest(tmp_path)
    write_files(tmp_path)
    (tmp_path / "test.csv").unlink()
    with pytest.raises(InputError, match="attach the competition data"):
        find_contest(tmp_path)


def test_data_dir_picks_among_several(tmp_path):
    one, two = (write_files(tmp_path / "in" / f"competitions/{name}") for name in ("lmsys", "wsdm-lmsys"))
    for unclear in ("", "lmsys", "compet"):
        with pytest.raises(InputError, match=r"Several folders .*/lmsys, .*/wsdm-lmsys; set CFG\.data_dir"):
            find_contest(tmp_path / "in", unclear)
    for part, folder in (("wsdm", two), ("competitions/lmsys", one), (one, one), (str(two), two), ("s/lm", one)):
        assert find_contest(tmp_path / "in", part).train.parent == folder
    outside = write_files(tmp_path / "elsewhere")
    assert find_contest(tmp_path / "in", outside).train.parent == outside
    assert find_contest(tmp_path / "absent", outside).train.parent == outside


@pytest.mark.parametrize("attached", [["a"], ["a", "b"]])
@pytest.mark.parametrize("nowhere", ["titanic", "/nowhere", "A"])
def test_a_data_dir_that_matches_nothing_never_picks_another_folder(tmp_path, attached, nowhere):
    folders = [write_files(tmp_path / name) for name in attached]
    with pytest.raises(InputError, match=r"CFG\.data_dir is .*set it to one of") as caught:
        find_contest(tmp_path, nowhere)
    assert all(str(folder) in str(caught.value) for folder in folders)


def test_a_data_dir_without_data_says_so(tmp_path):
    write_files(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"No folder below .*/b holds .*CFG\.data_dir"):
        find_contest(tmp_path, "b")


def test_a_folder_with_two_formats_says_which_it_reads(tmp_path, capsys):
    write_files(tmp_path, suffix=".parquet")
    assert find_contest(tmp_path).train.name == "train.parquet"
    assert capsys.readouterr().out == ""
    write_files(tmp_path)
    assert find_contest(tmp_path).train.name == "train.csv"
    assert "train.csv is read; train.parquet beside it is not." in capsys.readouterr().out


def test_a_contest_is_recognised_by_its_columns():
    extra = ["model_a", "language"]
    assert all(recognise([*contest.columns, *extra]) is contest for contest in CONTESTS)
    both = [*LMSYS.columns, "winner"]
    assert recognise(both) is LMSYS
    assert recognise(both, ["winner", "id"]) is WSDM
    assert recognise(both, ["id", *LMSYS.submission_columns]) is LMSYS


def test_unknown_columns_are_listed_beside_what_is_known(tmp_path):
    write_files(tmp_path)
    frame = pd.read_csv(tmp_path / "train.csv").rename(columns={"winner_tie": "draw"})
    frame.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError) as caught:
        find_contest(tmp_path)
    for words in (str(tmp_path / "train.csv"), "draw", "LMSYS needs id, prompt", "WSDM Cup needs id, prompt"):
        assert words in str(caught.value)


def test_a_sample_that_wants_other_columns_is_said(tmp_path):
    write_files(tmp_path, sample=True)
    (tmp_path / "sample_submission.csv").write_text("id,choice\n1,a\n")
    with pytest.raises(InputError, match=r"looks like LMSYS, which submits .* has id, choice"):
        find_contest(tmp_path)


def test_a_new_contest_is_one_entry(tmp_path):
    """Other file names, column names, class names and label values, and a submission of probabilities."""
    write_files(tmp_path, DUELS, sample=True)
    files = find_contest(tmp_path, contests=(*CONTESTS, DUELS))
    assert files.contest is DUELS
    assert [path.name for path in (files.train, files.test, files.sample)] == [
        "duels.csv",
        "duels_open.csv",
        "example.csv",
    ]
    table, _ = load_pairs(files.train, DUELS)
    assert list(table) == ["id", "prompt", "response_a", "response_b", "label"]
    assert swap_sides(table)["label"].tolist() == [1, 0]
    test, _ = load_pairs(files.test, DUELS, labelled=False, sample=files.sample)
    written = write_submission(tmp_path / "submission.csv", test["id"], np.array([[0.7, 0.3], [0.2, 0.8]]), DUELS)
    assert list(written) == ["duel", "p_left", "p_right"]
    assert written["p_left"].tolist() == [0.7, 0.2]


def test_messages_use_the_file_s_own_names(tmp_path):
    pd.DataFrame(DUEL | {"better": ["L", "?"]}).to_csv(tmp_path / "duels.csv", index=False)
    with pytest.raises(InputError, match=r"columns better, row 2 \(id y\) hold \['\?'\] where L or R is wanted"):
        load_pairs(tmp_path / "duels.csv", DUELS)
    pd.DataFrame(DUEL).drop(columns="left").to_csv(tmp_path / "duels.csv", index=False)
    with pytest.raises(InputError, match="no column 'left'"):
        load_pairs(tmp_path / "duels.csv", DUELS, labelled=False)


@pytest.mark.parametrize(
    "change",
    [
        {"label_values": ()},
        {"label_values": ("L", "R", "tie")},
        {"submission_columns": ("p", "q", "r")},
        {"classes": ("left",), "label_values": ("L",)},
        {"label_columns": ()},
    ],
)
def test_an_entry_that_does_not_fit_together_is_refused(change):
    with pytest.raises(InputError, match="Contest Duels"):
        replace(DUELS, **change)


def test_one_column_may_name_one_of_three_classes():
    three = replace(WSDM, classes=("a", "b", "tie"), label_values=("model_a", "model_b", "tie"))
    assert three.read_labels({"winner": ["tie", " model_a ", "x", None]}).tolist() == [2, 0, -1, -1]
