"""Inputs are found wherever they are mounted."""

import json
import shutil

import pytest

from src_py.errors import InputError
from src_py.kaggle.inputs import find_data, find_model, find_trained


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


def test_the_model_is_found_by_what_its_config_says(tmp_path):
    for path, kind in (("x/deberta-v3-base/1", "deberta-v2"), ("x/deberta-v3-small/1", "deberta-v2"), ("y", "gpt2")):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert find_model(tmp_path, "base") == tmp_path / "x/deberta-v3-base/1"
    assert find_model(tmp_path, str(tmp_path / "y")) == tmp_path / "y"
    with pytest.raises(InputError, match="Several DeBERTa folders"):
        find_model(tmp_path, "")
    shutil.rmtree(tmp_path / "x/deberta-v3-base")
    assert find_model(tmp_path, "base") == tmp_path / "x/deberta-v3-small/1"
    (tmp_path / "x/deberta-v3-small/1/preference.json").touch()
    with pytest.raises(InputError, match="No folder below"):
        find_model(tmp_path, "base")
    assert find_trained(tmp_path) == [tmp_path / "x/deberta-v3-small/1"]
    with pytest.raises(InputError, match=r"CFG\.model_dir is"):
        find_model(tmp_path, str(tmp_path / "nowhere"))
