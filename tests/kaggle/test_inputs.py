"""Inputs are found wherever they are mounted."""

import pytest

from src_py.errors import InputError
from src_py.kaggle.inputs import choose_folder, find_extra, tables_in, walk
from src_py.model.find import find_encoder


def tables(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_a_folder_is_chosen_by_the_tables_in_it(tmp_path):
    tables(tmp_path / "only-train", "train.csv")
    tables(tmp_path / "other", "train.txt", "test.txt")
    for folder in ("train.csv", "test.csv"):  # folders with the names of files are not files
        (tmp_path / "trap" / folder).mkdir(parents=True)
    with pytest.raises(InputError, match="No folder below"):
        choose_folder(tmp_path, "", [("train", "test")])
    mixed = tables(tmp_path / "deep/er", "train.parquet", "test.csv.gz", "train.csv")
    assert choose_folder(tmp_path, "", [("train", "test")]) == mixed
    assert [path.name for path in tables_in(mixed, "train")] == ["train.csv", "train.parquet"]
    with pytest.raises(InputError, match=r"No folder below .* a and b or c and d"):
        choose_folder(tmp_path, "", [("a", "b"), ("c", "d")])
    tables(tmp_path / "deep/er/sub", "train.csv", "test.csv")
    with pytest.raises(InputError, match="Several folders"):
        choose_folder(tmp_path, "deep", [("train", "test")])
    assert choose_folder(tmp_path, "deep/er", [("train", "test")]) == mixed


def test_a_link_in_a_circle_is_followed_once(tmp_path):
    folder = tables(tmp_path / "in/data", "train.csv", "test.csv")
    (folder / "up").symlink_to(tmp_path / "in")
    (folder / "self").symlink_to(folder)
    assert choose_folder(tmp_path / "in", "", [("train", "test")]) == folder
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    assert choose_folder(tmp_path / "linked", "", [("train", "test")]) == tmp_path / "linked/data"


def test_extra_files_are_found_by_name_or_path(tmp_path):
    folder = tables(tmp_path / "a", "more.csv")
    assert find_extra(tmp_path, "more.csv") == find_extra(tmp_path, str(folder / "more.csv")) == folder / "more.csv"
    with pytest.raises(InputError, match=r"CFG\.extra_files: no file is called less\.csv"):
        find_extra(tmp_path, "less.csv")
    tables(tmp_path / "b", "more.csv")
    with pytest.raises(InputError, match=r"CFG\.extra_files: several files .*a/more\.csv, .*b/more\.csv"):
        find_extra(tmp_path, "more.csv")


def test_folders_that_link_to_each_other_are_visited_once(tmp_path):
    folders = [tmp_path / f"folder_{number}" for number in range(8)]
    for folder in folders:
        folder.mkdir()
    for folder in folders:
        for other in folders:
            (folder / f"to_{other.name}").symlink_to(other)
    assert [folder for folder, _ in walk(tmp_path)] == [tmp_path, *folders]


def test_a_config_that_is_nested_too_deeply_is_no_encoder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        find_encoder(tmp_path, "")
