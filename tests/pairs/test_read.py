"""A file is what its content says; whatever is wrong with it is said in one sentence that names the path."""

import gzip
import io
import zipfile

import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.pairs.contest import LMSYS, WSDM
from src_py.pairs.load import load_pairs
from src_py.pairs.read import read_cells, read_names

HEADER = "id,prompt,response_a,response_b,winner"
WHOLE = f'{HEADER}\n1,"hi, ""you""",A1,"two\nlines",model_a\n2,NA,A2,B2,model_b\n'
CELLS = {
    "id": ["1", "2"],
    "prompt": ['hi, "you"', "NA"],
    "response_a": ["A1", "A2"],
    "response_b": ["two\nlines", "B2"],
    "winner": ["model_a", "model_b"],
}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def as_parquet():
    buffer = io.BytesIO()
    pd.DataFrame(CELLS).to_parquet(buffer)
    return buffer.getvalue()


READABLE = {
    "plain": WHOLE.encode(),
    "BOM": WHOLE.encode("utf-8-sig"),
    "Windows line ends": WHOLE.replace("\n", "\r\n").replace("two\r\n", "two\n").encode(),
    "old Mac line ends": WHOLE.replace("\n", "\r").replace("two\r", "two\n").encode(),
    "no last line end": WHOLE.rstrip().encode(),
    "blank lines": WHOLE.replace("\n2", "\n\n\n2").encode() + b"\n\n",
    "spaces in the header": WHOLE.replace("prompt,", " prompt ,").encode(),
    "gzip": gzip.compress(WHOLE.encode()),
    "zip": zipped({"train.csv": WHOLE}),
    "zip from pandas": zipped({"train.zip": WHOLE}),
    "zip from a Mac": zipped({"train.csv": WHOLE, "__MACOSX/train.csv": "x"}),
    "zip of several": zipped({"folder/train.csv": WHOLE, "test.csv": "x", "readme.txt": "x"}),
    "parquet": as_parquet(),
    "parquet in gzip": gzip.compress(as_parquet()),
    "parquet in zip": zipped({"train.parquet": as_parquet()}),
}


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE)
@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz", "train.zip", "train.parquet"])
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert read_names(tmp_path / name) == list(CELLS)
    assert read_cells(tmp_path / name, list(CELLS)) == CELLS


UNREADABLE = {
    "nothing": (b"", "is empty"),
    "only a BOM": (b"\xef\xbb\xbf", "is empty"),
    "blank": (b"\n  \n\n", "is empty"),
    "commas": (b",,,\n1,2,3,4\n", "is empty"),
    "UTF-16": (WHOLE.encode("utf-16"), "is UTF-16"),
    "UTF-16 without a BOM": (WHOLE.encode("utf-16-le"), "no column 'id'"),
    "UTF-32": (WHOLE.encode("utf-32"), "is UTF-16"),
    "xlsx": (zipped({"xl/workbook.xml": "x", "train.csv": "x"}), "is an Excel file"),
    "xls": (b"\xd0\xcf\x11\xe0" + bytes(99), "is an Excel file"),
    "web page": (b"<!DOCTYPE html><html>Sign in", "is a web page"),
    "UTF-16 in gzip": (gzip.compress(WHOLE.encode("utf-16")), "is UTF-16"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "gzip cut off": (gzip.compress(WHOLE.encode())[:-9], "cannot be read"),
    "zip cut off": (zipped({"train.csv": WHOLE})[:-9], "cannot be read"),
    "empty zip": (zipped({}), "must hold one csv or parquet file"),
    "zip without a table": (zipped({"a.txt": "x", "b.txt": "x"}), "must hold one csv or parquet file"),
    "ambiguous zip": (zipped({"a.csv": WHOLE, "b.csv": WHOLE}), "must hold one csv or parquet file"),
    "parquet cut off": (as_parquet()[:-30], "cannot be read"),
    "parquet's first bytes": (b"PAR1", "cannot be read"),
    "semicolons": (WHOLE.replace(",", ";").encode(), "separated by ';'"),
    "tabs": (WHOLE.replace(",", "\t").encode(), "separated by"),
    "random bytes": (bytes(range(128, 256)), "no column 'id'"),
    "JSON": (b'{"id": 1}', "no column 'id'"),
    "a column twice": (WHOLE.replace("response_b", "response_a").encode(), "has 2 columns 'response_a'"),
}


@pytest.mark.parametrize(("content", "words"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_what_cannot_be_read_is_said_with_the_path(tmp_path, content, words, name):
    path = tmp_path / name
    path.write_bytes(content)
    for columns in (["id", "prompt", "response_a", "response_b"], ["id"]):
        if columns == ["id"] and "response_a" in words:
            continue
        with pytest.raises(InputError) as caught:
            read_cells(path, columns)
        assert str(path) in str(caught.value)
        assert words in str(caught.value)


def test_a_parquet_column_twice(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([pa.array(["1"])] * 2, names=["id", "id"]), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"test\.parquet has 2 columns 'id'"):
        read_cells(tmp_path / "test.parquet", ["id"])


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "train.csv", tmp_path):
        with pytest.raises(InputError, match=f"{path} does not exist"):
            read_cells(path, ["id"])


MISCOUNTED = {
    "a comma in a text": (2, "2,hello, world,A2,B2,model_b", "row 2 .line 4. has 6 fields where the header has 5"),
    "a comma at the end": (1, "1,hi,A1,B1,model_a,", "row 1 .line 2. has 6 fields"),
    "a field too few": (2, "2,hi,A2,B2", "row 2 .line 4. has 4 fields"),
    "cut off between fields": (2, "2,hi", "row 2 .line 4. has 2 fields"),
    "cut off inside a quoted text": (2, '2,hi,"A2', "row 2 .line 4. begins a quoted text that never ends"),
    "a quote after a quoted text": (2, '2,"hi" you,A2,B2,model_b', "row 2 .line 4. has a stray quote"),
    "a comma lost before a quoted text": (2, '2,hi"you, there",B2,model_b', "row 2 .line 4. has a single quote"),
    "a comma lost in a row of right width": (2, '2,hi"A2, or",B2,C,model_b', "row 2 .line 4. has a single quote"),
    "backslashes before quotes": (2, r'2,"say \"hi\"",A2,B2,model_b', "row 2 .line 4. has a stray quote"),
}


@pytest.mark.parametrize(("row", "line", "words"), MISCOUNTED.values(), ids=MISCOUNTED)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_row_with_other_fields_than_the_header_is_named(tmp_path, row, line, words, labelled):
    """Neither a training nor a test row may shift its columns; a quoted line break is counted as a line, not a row."""
    lines = [HEADER, '1,"hi\nyou",A1,B1,model_a', "2,hi,A2,B2,model_b"]
    lines[row] = line
    (tmp_path / "file.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"{tmp_path / 'file.csv'}: {words}"):
        load_pairs(tmp_path / "file.csv", WSDM, labelled=labelled)


def test_pairs_of_quotes_need_no_quoting(tmp_path):
    (tmp_path / "test.csv").write_text('id,prompt,response_a,response_b\n1,["p"],["a"],she said "b"\n')
    table, _ = load_pairs(tmp_path / "test.csv", LMSYS, labelled=False)
    assert table.iloc[0].tolist() == ["1", ["p"], ["a"], ['she said "b"']]


@pytest.mark.parametrize("column", ["prompt", "response_a", "response_b"])
@pytest.mark.parametrize("swallowed", [0, 1, 5])
def test_training_rows_that_a_stray_quote_swallows_are_missed(tmp_path, column, swallowed):
    """Two quotes, one in an early and one in a later row, leave a file with sound field counts."""
    rows = [{"id": str(i), "prompt": "hi", "response_a": "A", "response_b": "B", "winner": "model_a"} for i in range(9)]
    rows[1][column] = f'"{rows[1][column]}'
    rows[2 + swallowed][column] = f'{rows[2 + swallowed][column]}"'
    text = "\n".join([HEADER, *(",".join(row.values()) for row in rows)])
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(InputError, match=rf"train\.csv: column {column}, row 2 \(id 1\) holds what looks like"):
        load_pairs(tmp_path / "train.csv", WSDM)
    (tmp_path / "sample.csv").write_text("id,winner\n" + "\n".join(f"{i},model_a" for i in range(9)))
    with pytest.raises(InputError, match=rf"train\.csv: {swallowed + 1} of the 9 ids"):
        load_pairs(tmp_path / "train.csv", WSDM, labelled=False, sample=tmp_path / "sample.csv")


def test_answers_that_hold_tables_are_not_taken_for_swallowed_rows(tmp_path):
    frame = pd.DataFrame({key: cells * 3 for key, cells in CELLS.items()}).assign(id=range(6))
    table = "a,b,c\n1,2,3\nx,model_a,\nmodel_a"
    frame["response_a"] = table
    frame.to_csv(tmp_path / "train.csv", index=False)
    assert load_pairs(tmp_path / "train.csv", WSDM)[0]["response_a"].tolist() == [[table]] * 6


def test_a_text_longer_than_the_csv_module_expects(tmp_path):
    long = "x" * 200_000
    (tmp_path / "test.csv").write_text(f"id,prompt\n1,{long}\n")
    assert read_cells(tmp_path / "test.csv", ["prompt"]) == {"prompt": [long]}
