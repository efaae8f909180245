"""Mutated files give a correct table or one sentence that names the path; a test row is never lost."""

import gzip
import io
import json
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from src_py.errors import InputError
from src_py.pairs.contest import LMSYS, WSDM
from src_py.pairs.load import load_pairs
from tools.demo_data import make_pairs

ROWS = 12
TEXTS = ["prompt", "response_a", "response_b"]
BYTES = (b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xc3", b"\\", b"[", b"]", b";", b"NA")
STRANGE = ("a, b", 'he said "hi"', "two\nlines", "NA", "null", "😀 é 你好", "[1] x", '["x"]', " spaces ", ",", "1.0")


@cache
def clean(plain: bool) -> pd.DataFrame:
    """The rows before they are mutated: JSON and one-hot labels, or strange plain texts and a winner."""
    frame = make_pairs(ROWS, seed=5)[0]
    if not plain:
        return frame.assign(id=range(100, 100 + ROWS))
    rng = np.random.default_rng(5)
    texts = {column: [" ".join(rng.choice(STRANGE, 2)) for _ in range(ROWS)] for column in TEXTS}
    return pd.DataFrame({"id": [f"x{i}" for i in range(ROWS)]} | texts).assign(
        winner=["model_a", "model_b"] * (ROWS // 2)
    )


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One small change of some bytes: the kinds of damage that transfers, editors and spreadsheets do."""
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    piece = BYTES[rng.integers(len(BYTES))]
    return (
        [
            lambda: data[:at] + piece + data[at:],
            lambda: data[:at] + piece + data[at + len(piece) :],
            lambda: data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :],
            lambda: data[:at] + data[at + 1 :],
        ][rng.integers(4)]()
        if rng.random() < 0.6
        else [
            lambda: data[:at],
            lambda: data[at:],
            lambda: data[:at] + data[at + length :],
            lambda: data[:at] + data[at : at + length] * 2 + data[at + length :],
            lambda: data[:at] + bytes(length) + data[at + length :],
            lambda: data.decode("utf-8", "replace").encode(str(rng.choice(["utf-16", "cp1252", "gb18030"])), "replace"),
            lambda: gzip.compress(data)[: -int(rng.integers(20)) or None],
        ][rng.integers(7)]()
    )


def check(path, plain: bool, labelled: bool, sample, small: bool) -> str:
    """Load, and hold the promise. `small`: only one place was changed, so that no more than one cell may differ."""
    contest = WSDM if plain else LMSYS
    try:
        table, report = load_pairs(path, contest, labelled, sample=None if labelled else sample)
    except InputError as error:
        return "refused" if str(path) in str(error) and len(str(error)) < 2500 else f"without its path: {error}"
    assert report["count"]["rows"] == len(table)
    assert table["id"].map(type).eq(str).all()
    assert table["id"].is_unique
    for column in TEXTS:
        assert table[column].map(lambda turns: bool(turns) and all(type(turn) is str for turn in turns)).all()
        "".join(turn for turns in table[column] for turn in turns).encode()
    if labelled:
        assert table["label"].between(0, len(contest.classes) - 1).all()
    else:
        assert set(clean(plain)["id"].astype(str)) <= set(table["id"])
    if small:
        assert differing_cells(table, plain, labelled) <= 1
    return "read"


def differing_cells(table: pd.DataFrame, plain: bool, labelled: bool) -> int:
    frame = clean(plain)
    assert len(table) == len(frame)
    changed = int((table["id"] != frame["id"].astype(str)).sum())
    for column in TEXTS:
        known = [[cell] for cell in frame[column]] if plain else [_turns(cell) for cell in frame[column]]
        changed += sum(left != right for left, right in zip(table[column], known))
    if labelled:
        labels = frame["winner"].eq("model_b") if plain else frame["winner_model_b"] + 2 * frame["winner_tie"]
        changed += int((table["label"] != labels.astype(int)).sum())
    return changed


def _turns(cell: str) -> list[str]:
    turns = [turn or "" for turn in json.loads(cell)] or [""]
    return ["".join("�" if "\ud800" <= c <= "\udfff" else c for c in turn) for turn in turns]


def fuzz_csv(folder, seeds) -> list[str]:
    outcomes = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        plain, labelled, small = bool(seed % 2), rng.random() < 0.5, rng.random() < 0.5
        frame = clean(plain)
        frame[["id"]].to_csv(folder / "sample.csv", index=False)
        if not labelled:
            frame = frame[["id", *TEXTS]]
        data = frame.to_csv(index=False).encode()
        if small:  # one byte, which leaves the header and its own cell at most
            at = int(rng.integers(len(data)))
            data = data[:at] + BYTES[rng.integers(len(BYTES))] * int(rng.random() < 0.7) + data[at + 1 :]
        else:
            for _ in range(rng.integers(1, 4)):
                data = mutated(data, rng) or b"x"
        path = folder / f"file{seed}.csv"
        path.write_bytes(data)
        outcomes.append(check(path, plain, labelled, folder / "sample.csv", small))
        path.unlink()
    return outcomes


def retyped(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Another type, a missing cell, or no column at all, where the contest has a column of texts or numbers."""
    place = int(rng.integers(table.num_columns))
    name, cells = table.column_names[place], table.column(place).to_pylist()
    column = [
        lambda: pa.array([None, *cells[1:]]),
        lambda: pa.array(range(len(cells))),
        lambda: pa.array([i / 2 for i in range(len(cells))]),
        lambda: pa.array([[str(cell), None] for cell in cells]),
        lambda: pa.array([[i] for i in range(len(cells))]),
        lambda: pa.array([{"text": str(cell)} for cell in cells]),
        lambda: pa.array([str(cell).encode("utf-16") for cell in cells]),
        lambda: pa.array([str(cell) for cell in cells]).dictionary_encode(),
        lambda: pa.nulls(len(cells)),
        lambda: None,
    ][rng.integers(10)]()
    return table.remove_column(place) if column is None else table.set_column(place, name, column)


def fuzz_parquet(folder, seeds) -> list[str]:
    outcomes = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        plain, labelled = bool(seed % 2), rng.random() < 0.5
        frame = clean(plain)
        frame[["id"]].to_csv(folder / "sample.csv", index=False)
        table = pa.Table.from_pandas(frame if labelled else frame[["id", *TEXTS]], preserve_index=False)
        by_type, buffer = rng.random() < 0.4, io.BytesIO()
        pq.write_table(
            retyped(table, rng) if by_type else table,
            buffer,
            compression=str(rng.choice(["none", "snappy", "gzip"])),
            use_dictionary=bool(rng.random() < 0.5),
            write_page_checksum=bool(rng.random() < 0.5),
        )
        data = buffer.getvalue() if by_type else mutated(buffer.getvalue(), rng) or b"x"
        path = folder / f"file{seed}.parquet"
        path.write_bytes(data)
        outcomes.append(check(path, plain, labelled, folder / "sample.csv", small=False))
        path.unlink()
    return outcomes


@pytest.mark.parametrize("plain", [True, False])
def test_unchanged_files_are_read(tmp_path, plain):
    """Otherwise a loader that refuses everything would pass."""
    frame = clean(plain)
    frame.to_csv(tmp_path / "file.csv", index=False)
    frame.to_parquet(tmp_path / "file.parquet")
    for name in ("file.csv", "file.parquet"):
        for labelled in (True, False):
            assert check(tmp_path / name, plain, labelled, tmp_path / "file.csv", small=True) == "read"


def test_forty_mutated_csv_files(tmp_path):
    assert set(fuzz_csv(tmp_path, range(40))) == {"read", "refused"}


def test_twenty_mutated_parquet_files(tmp_path):
    assert set(fuzz_parquet(tmp_path, range(20))) == {"read", "refused"}


@pytest.mark.long
def test_thousands_of_mutated_csv_files(tmp_path):
    assert set(fuzz_csv(tmp_path, range(4000))) == {"read", "refused"}


@pytest.mark.long
def test_hundreds_of_mutated_parquet_files(tmp_path):
    assert set(fuzz_parquet(tmp_path, range(1000))) == {"read", "refused"}
