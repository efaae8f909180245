"""Read preference pairs into one clean table, and count every repair."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from src_py.errors import InputError
from src_py.pairs.contest import LABEL_COLUMNS, TEXT_COLUMNS, WINNER_VALUES

_SURROGATE = re.compile("[\ud800-\udfff]")


def class_names(path: str | Path) -> tuple[str, ...]:
    """Classes of a training file in label order: ("a", "b", "tie"), or ("a", "b") in a contest without ties."""
    return ("a", "b") if "winner" in _columns(Path(path)) else ("a", "b", "tie")


def load_pairs(path: str | Path, labelled: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a train or test file (csv or parquet).

    Text cells are JSON lists of turns (LMSYS) or plain texts (WSDM), whichever most cells are.
    A training row that cannot be read is an error; a test row never is: it is repaired and counted,
    because a scoring run must answer every row.

    Returns:
        The table, with columns id (str), prompt, response_a, response_b (each a list of turns, str)
        and, if labelled, label (int64; 0 a, 1 b, 2 tie); and a report with columns `count` and `what was done`.

    Raises:
        InputError: missing or empty file, missing column, unreadable cell, bad label, duplicate ids.
    """
    path = Path(path)
    label_columns = [c for c in _columns(path) if c == "winner"] or list(LABEL_COLUMNS)
    frame = _read(path, ["id", *TEXT_COLUMNS, *(label_columns if labelled else [])])
    table = pd.DataFrame({"id": frame["id"].map(str)})
    repeated = table["id"].duplicated()
    if repeated.any():
        raise InputError(f"{path}: id {table['id'][repeated].iloc[0]} occurs more than once; ids must be unique.")

    counts = dict.fromkeys(_REPAIRS, 0)
    as_json = _mostly_json(frame)
    for column in TEXT_COLUMNS:
        cells = frame.pop(column)
        turns = [_turns(cell, as_json, counts) for cell in cells]
        if labelled and None in turns:
            row = turns.index(None)
            raise InputError(
                f"{path}: column {column}, row {row + 1} (id {table['id'][row]}) is no JSON list of texts: "
                f"{str(cells[row])[:60]!r}; mend or remove that row."
            )
        counts["not a JSON list"] += turns.count(None)
        table[column] = [[_clean(str(cell), counts)] if turn is None else turn for cell, turn in zip(cells, turns)]
        if column != "prompt":
            counts["empty answer"] += sum(not "".join(turn).strip() for turn in table[column])
    if labelled:
        table["label"] = _labels(frame, label_columns, path, table["id"])
    return table, _report(table, counts)


def prompt_key(table: pd.DataFrame) -> pd.Series:
    """One text a row that is equal for equal prompts (case and white space folded)."""
    return table["prompt"].map(lambda turns: " ".join("\n".join(turns).casefold().split()))


def swap_sides(table: pd.DataFrame) -> pd.DataFrame:
    """The same pairs with A and B exchanged, labels included."""
    swapped = table.assign(response_a=table["response_b"], response_b=table["response_a"])
    if "label" in table:
        swapped["label"] = table["label"].map({0: 1, 1: 0, 2: 2})
    return swapped


_REPAIRS = {
    "null turn": "read as an empty turn",
    "missing cell": "read as one empty turn",
    "not a JSON list": "read as plain text",
    "lone surrogate": "replaced by U+FFFD",
    "empty answer": "kept",
    "repeated prompt": "kept; never on both sides of a split",
}


def _columns(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; attach the competition data or set CFG.input_dir.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; attach the data again.")
    if path.suffix == ".parquet":
        return pq.read_schema(path).names
    return list(pd.read_csv(path, nrows=0, encoding="utf-8", encoding_errors="surrogateescape").columns)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    missing = [column for column in columns if column not in _columns(path)]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}; it has {', '.join(_columns(path))}.")
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path, columns=columns)
    else:
        # dtype=object keeps Python strings: Arrow-backed ones cannot hold a lone surrogate. Only a
        # truly empty cell is missing: an answer may well read "NA".
        frame = pd.read_csv(
            path,
            usecols=columns,
            dtype=object,
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8",
            encoding_errors="surrogateescape",
        )
    if frame.empty:
        raise InputError(f"{path} has a header but no rows; attach the data again.")
    return frame.astype(object)


def _mostly_json(frame: pd.DataFrame) -> bool:
    looks = [
        isinstance(cell, str) and cell.startswith("[") and cell.endswith("]")
        for column in TEXT_COLUMNS
        for cell in frame[column]
    ]
    return sum(looks) * 2 >= len(looks)


def _turns(cell, as_json: bool, counts: dict) -> list[str] | None:
    """The turns of one cell; None when it should be a JSON list of texts and is not."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        counts["missing cell"] += 1
        return [""]
    if not as_json:
        return [_clean(str(cell), counts)]
    try:
        turns = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    if not isinstance(turns, list) or not all(turn is None or isinstance(turn, str) for turn in turns):
        return None
    counts["null turn"] += turns.count(None)
    return [_clean(turn or "", counts) for turn in turns] or [""]


def _clean(text: str, counts: dict) -> str:
    if not _SURROGATE.search(text):
        return text
    counts["lone surrogate"] += 1
    # A round trip through UTF-16 joins a proper pair and leaves only the lone ones to replace.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _labels(frame: pd.DataFrame, columns: list[str], path: Path, ids: pd.Series) -> np.ndarray:
    if columns == ["winner"]:
        label = frame["winner"].map(WINNER_VALUES)
        bad, wanted = label.isna(), "model_a or model_b"
    else:
        one_hot = frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
        bad = ~(np.isin(one_hot, (0, 1)).all(1) & (one_hot.sum(1) == 1))
        label, wanted = one_hot.argmax(1), "one 1 and otherwise 0"
    bad = np.asarray(bad)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{path}: columns {', '.join(columns)}, row {row + 1} (id {ids[row]}) hold "
            f"{frame[columns].iloc[row].tolist()} where {wanted} is wanted; mend or remove that row."
        )
    return np.asarray(label, dtype=np.int64)


def _report(table: pd.DataFrame, counts: dict) -> pd.DataFrame:
    counts["repeated prompt"] = int(prompt_key(table).duplicated().sum())
    rows = {"rows": (len(table), "all kept")}
    rows |= {name: (counts[name], done) for name, done in _REPAIRS.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["count", "what was done"])
