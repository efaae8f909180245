"""The cells of a csv or parquet file as they stand: what a file is, its content says and not its name."""

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from src_py.errors import InputError

_GZIP, _ZIP, _PARQUET = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06"), b"PAR1"
_OTHER_FORMATS = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x00\x00\xfe\xff": "UTF-32 text",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"ARROW1": "an Arrow file",
    b"FEA1": "a Feather file",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"SQLite format": "a database",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF file",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a Git LFS pointer without the data",
}
_TEXT_TYPES = (  # the views are newer than some pyarrow
    "is_string", "is_large_string", "is_string_view",
    "is_binary", "is_large_binary", "is_binary_view", "is_fixed_size_binary",
)  # fmt: skip
_FIELD = re.compile(r'(?:^|,)(?:"(?:[^"]++|"")*+"|([^,\r\n]*))')  # group 1: a text that is not quoted
_LONGEST_FIELD = 2**31 - 1  # the csv module's own limit of 131,072 characters is shorter than some answers


def read_names(path: str | Path) -> list[str]:
    """Column names of a csv or parquet file, also inside a gzip file or a zip archive.

    Raises:
        InputError: as for `read_cells`.
    """
    path = Path(path)
    with _opened(path) as (is_parquet, stream):
        if is_parquet:
            return _parquet(stream).schema_arrow.names
        return next(_csv_rows(path, stream))


def read_cells(path: str | Path, columns: list[str]) -> dict[str, list[Any]]:
    """Read some columns, every row of them, and verify that each row has as many fields as the header.

    Returns:
        For each column its cells. A cell is None (missing), a str in which a byte that is not UTF-8 stands as a
        surrogate (`surrogateescape`), and from parquet also a list of str and None, or another scalar.

    Raises:
        InputError: the file is missing, empty, cut off, or neither csv nor parquet; a column is missing, twice there
            or nested; a row has too many or too few fields, or its quotes do not match. The message names the path.
    """
    path = Path(path)
    with _opened(path) as (is_parquet, stream):
        if is_parquet:
            file = _parquet(stream)
            _check_names(path, file.schema_arrow.names, columns)
            table = file.read(columns=list(dict.fromkeys(columns)))
            cells = {name: _parquet_cells(path, name, table.column(name)) for name in columns}
        else:
            rows = _csv_rows(path, stream)
            names = next(rows)
            _check_names(path, names, columns)
            cells = {name: [] for name in columns}
            places = [(names.index(name), column) for name, column in cells.items()]
            for row in rows:
                for place, column in places:
                    column.append(row[place] or None)  # an answer may well read "NA": only an empty cell is missing
    if not any(cells.values()):
        raise InputError(f"{path} has a header but no rows; attach the data again.")
    return cells


@contextmanager
def _opened(path: Path) -> Iterator[tuple[bool, IO[bytes]]]:
    """Whether the content is parquet (else csv), and a stream of it; any reader's error becomes one that names it."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; attach the competition data or set CFG.input_dir.")
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            stream: Any = file
            if file.peek(4).startswith(_GZIP):
                stream = stack.enter_context(gzip.open(file))
            elif file.peek(4).startswith(_ZIP):
                archive = stack.enter_context(zipfile.ZipFile(file))
                stream = stack.enter_context(archive.open(_member(path, archive)))
            head = stream.peek(32)
            if not head:
                raise InputError(f"{path} is empty; attach the data again.")
            for magic, what in _OTHER_FORMATS.items():
                if head.startswith(magic):
                    raise InputError(f"{path} is {what}; save it as csv (UTF-8) or parquet, or attach the data again.")
            is_parquet = head.startswith(_PARQUET)
            yield is_parquet, io.BytesIO(stream.read()) if is_parquet and stream is not file else stream
    except (InputError, MemoryError):
        raise
    except Exception as error:  # gzip, zlib, zipfile, csv and pyarrow raise a dozen kinds; the path is what helps
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise InputError(f"{path} cannot be read ({reason}); it may be cut off or damaged: attach it again.") from error
    finally:
        csv.field_size_limit(before)


def _member(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if any(name.startswith(("xl/", "[Content_Types]")) for name in names):
        raise InputError(f"{path} is an Excel file; save it as csv (UTF-8) or parquet.")
    tables = [name for name in names if name.lower().endswith((".csv", ".parquet"))] or names
    if len(tables) > 1:
        stem = path.name.split(".")[0]
        tables = [name for name in tables if Path(name).name.split(".")[0] == stem]
    if len(tables) != 1:
        raise InputError(f"{path} must hold one csv or parquet file; it holds {', '.join(names[:9]) or 'nothing'}.")
    return tables[0]


def _check_names(path: Path, names: list[str], columns: list[str]) -> None:
    shown = ", ".join(names[:30])[:500]
    for column in columns:
        if column not in names:
            parted = next((f"; is it separated by {c!r}, not by a comma?" for c in ";\t|" if c in shown), ".")
            raise InputError(f"{path} has no column {column!r}; it has {shown}{parted}")
        if names.count(column) > 1:
            raise InputError(f"{path} has {names.count(column)} columns {column!r}; rename or remove all but one.")


def _csv_rows(path: Path, stream: IO[bytes]) -> Iterator[list[str]]:
    """The header, then each row, with the header's number of fields. Blank lines are not rows, as in pandas."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines: list[str] = []  # of the row that is being read

    def remembered() -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    reader = csv.reader(remembered(), strict=True)
    width, row, start = 0, -1, 1
    try:
        for fields in reader:
            record = "".join(lines)
            lines.clear()
            if not fields:
                continue
            row += 1
            if _has_single_quote(record, fields):
                raise InputError(
                    f"{path}: row {row} (line {start}) has a single quote inside a text that is not quoted; remove it, "
                    'or quote the whole text and double the quote ("").'
                )
            if row == 0:
                fields = [name.strip().lstrip("\ufeff").strip() for name in fields]
                if not any(fields):
                    break
                width = len(fields)
            elif len(fields) != width:
                raise InputError(
                    f"{path}: row {row} (line {start}) has {len(fields)} fields where the header has {width}; quote "
                    "texts that hold commas, and see that no line is cut off."
                )
            yield fields
            start = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            fault = "begins a quoted text that never ends"
        else:
            fault = f"has a stray quote ({error})"
        raise InputError(
            f"{path}: row {row + 1} (line {start}) {fault}; the file may be cut off, or a quote inside a quoted text "
            'is not doubled (""): attach it again, or mend that row.'
        ) from error
    if row < 0 or not width:
        raise InputError(f"{path} is empty; attach the data again.")


def _has_single_quote(record: str, fields: list[str]) -> bool:
    """Whether a text that is not quoted holds an odd number of quotes.

    It does when a comma before a quoted text is lost: the text then parts at a comma inside it, and where it has just
    one, the number of fields still is right although all columns up to it have shifted.
    """
    quoted_only = sum(2 * field.count('"') + 2 * any(c in field for c in '",\n\r') for field in fields)
    if record.count('"') == quoted_only:  # the usual case: whatever needs quotes has them, and nothing else
        return False
    return any(match[1] and match[1].count('"') % 2 for match in _FIELD.finditer(record))


def _parquet(stream: IO[bytes]) -> pq.ParquetFile:
    return pq.ParquetFile(stream, page_checksum_verification=True)


def _parquet_cells(path: Path, name: str, column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column, kind = column.cast(kind.storage_type), kind.storage_type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if _is_text(kind):
        return [_text(value) for chunk in column.chunks for value in chunk.cast(pa.large_binary()).to_pylist()]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        if types.is_dictionary(inner):
            inner = inner.value_type
        if _is_text(inner) or types.is_null(inner):
            lists = column.cast(pa.large_list(pa.large_binary())).to_pylist()
            return [cell and [_text(turn) for turn in cell] for cell in lists]
    if types.is_nested(kind):
        raise InputError(f"{path}: column {name} is of type {kind}; texts or lists of texts are wanted.")
    return column.to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    return any(getattr(types, name, lambda _: False)(kind) for name in _TEXT_TYPES)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")
