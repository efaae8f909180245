"""Groups of rows for calibration."""

import numpy as np
import pandas as pd
import pytest

from src_py.pairs.contest import LMSYS
from src_py.pairs.groups import calibration_groups, merge_small, topic_of
from src_py.pairs.load import load_pairs


def table(**columns) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    texts = {name: [["text"]] * rows for name in ("prompt", "response_a", "response_b")}
    return pd.DataFrame(texts | columns)


def test_topics_keep_equal_prompts_together_and_have_names():
    subjects = ["bake bread flour oven", "write python function code", "capital city country map"]
    prompts = [[f"{subjects[i % 3]} {i // 6}"] for i in range(180)]
    found = calibration_groups(table(prompt=prompts), seed=0)["topic"]
    assert len(found) == 180
    for subject in range(3):
        members = set(found[subject::3])
        assert not members & set(found[(subject + 1) % 3 :: 3]) - {"other groups"}
        assert any(word in name for name in members for word in subjects[subject].split())
    numbers = topic_of(table(prompt=[["A  b cake"], ["a B\ncake"], ["other words here"]]), 0, 3)
    assert numbers[0] == numbers[1]
    assert numbers.dtype == np.int64


def test_length_script_and_turns():
    answers = [
        ["short"],
        ["Привет, как дела"],
        ["x" * 500],
        ["```python\n1\n```" + "y" * 900],
        ["déjà vu, garçon"],
    ] * 40
    found = calibration_groups(table(prompt=[["a"], ["a", "b"]] * 100, response_a=answers), seed=0)
    assert set(found["turns"]) == {"one turn", "several turns"}
    assert found["script"][:5].tolist() == ["ASCII letters", "Cyrillic", "ASCII letters", "code", "Latin beyond ASCII"]
    assert found["length"][0] != found["length"][3]
    assert found["length"][3].startswith("over ")
    assert "source" not in found


def test_a_source_column_is_a_grouping_and_small_groups_become_other():
    source = ["x"] * 60 + ["y"] * 40 + ["z"] * 5 + [None] * 3
    found = calibration_groups(table(prompt=[[f"p{i}"] for i in range(108)], source=source), seed=0)
    assert pd.Series(found["source"]).value_counts().to_dict() == {"x": 60, "y": 40, "other groups": 8}
    assert merge_small(np.array(["a", "b"])).tolist() == ["other groups", "other groups"]


def test_a_source_column_of_the_training_file_reaches_the_groups(tmp_path, contest):
    frame = pd.read_csv(contest / "train.csv").assign(language=["English", "Russian", None] * 100, source=7)
    frame.to_csv(tmp_path / "train.csv", index=False)
    pairs = load_pairs(tmp_path / "train.csv", LMSYS)[0]
    assert pairs["language"][:3].tolist() == ["English", "Russian", "unknown"]
    found = calibration_groups(pairs, seed=0)
    assert set(found["language"]) == {"English", "Russian", "unknown"}
    assert "source" not in found, "one group for all"
    assert "language" not in load_pairs(tmp_path / "train.csv", LMSYS, labelled=False)[0]


@pytest.mark.parametrize("text", ["", "?!", "the"])
def test_rows_without_words_form_no_groups(text):
    assert calibration_groups(table(prompt=[[text]] * 50), seed=0) == {}
