"""Inputs are found wherever they are mounted."""

import pytest

from src_py.errors import InputError
from src_py.kaggle.inputs import find_data


@pytest.mark.parametrize("mount", ["competitions/llm-classification-finetuning", "lmsys-chatbot-arena", "."])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_data_is_found_in_every_mount_layout(tmp_path, mount, suffix):
    folder = tmp_path / mount
    folder.mkdir(parents=True, exist_ok=True)
    for stem in ("train", "test"):
        (folder / f"{stem}{suffix}").touch()
    assert find_data(tmp_path).test == folder / f"test{suffix}"


def test_missing_or_ambiguous_data_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"set CFG\.input_dir"):
        find_data(tmp_path / "absent")
    with pytest.raises(InputError, match="attach the competition data"):
        find_data(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        for stem in ("train", "test"):
            (tmp_path / name / f"{stem}.csv").touch()
    with pytest.raises(InputError, match="Several folders"):
        find_data(tmp_path)
