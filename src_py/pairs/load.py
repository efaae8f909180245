"""Read preference pairs into one clean table, and count every repair."""

import csv
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.page import say
from src_py.pairs.contest import CONTESTS, TEXT_COLUMNS, Contest
from src_py.pairs.read import read_cells, read_names
from src_py.pairs.turns import REPAIRS, TurnReader

CHATBOTS = ("model_a", "model_b")
SOURCE_COLUMNS = ("source", "dataset", "language")  # of a row, where its file has them
UNDECODABLE_SHARE, UNDECODABLE_ROWS = 0.01, 2  # more rows than either: the whole file has another encoding
# Soft hyphen, joiners, marks of direction, variation selectors and their like: they hide that two texts are the same.
_NO_WIDTH = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_NOT_IN_AN_ID = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


def load_pairs(
    path: str | Path, contest: Contest, labelled: bool = True, sample: str | Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a train or test file: csv or parquet, also packed as gzip or zip.

    Text cells are lists of turns (in parquet), JSON lists of turns (LMSYS) or plain texts (WSDM); JSON or plain is
    decided column by column, by most of its cells. A training row that cannot be read is an error; a test row is
    repaired and counted, because a scoring run must answer every row.

    Args:
        contest: from `find_contest`: how columns and classes are called in the file.
        labelled: False for the test file.
        sample: the sample submission, if there is one. Each of its ids must be in the file, or rows were lost.

    Returns:
        The table, with columns id (str), prompt, response_a, response_b (each a list of turns, str)
        and, if labelled, label (int64; number of the class in `contest.classes`), whatever the file calls them; of a
        labelled file that has both also model_a and model_b (str, the chatbots' names, "" where one is missing), and of
        `SOURCE_COLUMNS` (str, "unknown" where one is missing) those that it has; and a report with columns `count` and
        `what was done`.

    Raises:
        InputError: a file that `read_cells` refuses, an unreadable training cell, training answers that are all empty,
            a bad label, labels that contradict each other, a missing or duplicate id, an id of `sample` without a row,
            or undecodable bytes in more than 2 rows and more than 1 % of them. The message names the path and the row.
    """
    path = Path(path)
    names = read_names(path)
    labellings = _labellings(contest, names) if labelled else []
    label_columns = [column for labelling in labellings for column in labelling.label_columns]
    chatbots = chatbot_columns(names) if labelled else []
    sources = [column for column in SOURCE_COLUMNS if labelled and column in names]
    wanted = [contest.id_column, *contest.text_columns, *label_columns, *chatbots, *sources]
    cells = read_cells(path, list(dict.fromkeys(wanted)))
    table = pd.DataFrame({"id": read_ids(path, cells.pop(contest.id_column))})
    reader = read_texts(path, contest, names, cells, table, labelled)
    if labelled:
        table["label"] = _labels(path, contest, cells, table["id"])
        for other in labellings[1:]:
            check_agreement(path, contest, other, cells, table)
    for column in chatbots:
        table[column] = chatbot_names(cells[column])
    for column in sources:
        table[column] = [name or "unknown" for name in chatbot_names(cells[column])]
    strangers = None if sample is None else _compare_ids(path, table["id"], Path(sample), contest)
    return table, _report(table, reader, strangers)


def folded_words(turns: list[str]) -> list[str]:
    """The words of a text, folded: two texts with equal words are the same up to case, white space, characters without
    width, and forms of a character that Unicode calls compatible (full-width letters, ligatures)."""
    text = "\n".join(turns)
    if not text.isascii():
        text = _NO_WIDTH.sub("", unicodedata.normalize("NFKC", text))
    return text.casefold().split()


def prompt_key(table: pd.DataFrame) -> pd.Series:
    """One text a row that is equal for equal prompts, folded as `folded_words` does."""
    return table["prompt"].map(lambda turns: " ".join(folded_words(turns)))


def distinct_prompts(table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Number of each row's prompt, (rows,), and the text of every prompt; rows with equal `prompt_key` share one.

    The texts are folded in case and white space alone, so that clusters made of them stay what they were.
    """
    numbers, keys = pd.factorize(prompt_key(table))
    firsts = np.searchsorted(np.maximum.accumulate(numbers), np.arange(len(keys)))
    return numbers, [" ".join("\n".join(turns).casefold().split()) for turns in table["prompt"].iloc[firsts]]


def excerpt(table: pd.DataFrame, rows: int = 3, most: int = 60) -> pd.DataFrame:
    """The first rows of a table of pairs, to look at: of each cell, as text, at most `most` characters."""

    def cut(cell: Any) -> Any:
        text = cell if isinstance(cell, str) else " | ".join(map(str, cell)) if isinstance(cell, list) else None
        return cell if text is None else text if len(text) <= most else f"{text[: most - 1]}…"

    return table.head(rows).map(cut)


def swap_sides(table: pd.DataFrame) -> pd.DataFrame:
    """The same pairs with A and B exchanged, labels, soft labels and chatbots' names included: class 0 becomes 1 and 1
    becomes 0, others stay."""
    swapped = table.assign(response_a=table["response_b"], response_b=table["response_a"])
    if "label" in table:
        swapped["label"] = table["label"].where(table["label"] > 1, 1 - table["label"])
    if "soft" in table:
        swapped["soft"] = table["soft"].map(lambda soft: [soft[1], soft[0], *soft[2:]])
    if "model_a" in table:
        swapped = swapped.assign(model_a=table["model_b"], model_b=table["model_a"])
    return swapped


def read_texts(
    path: Path, contest: Contest, names: list[str], cells: dict[str, list[Any]], table: pd.DataFrame, strict: bool
) -> TurnReader:
    """Add the columns prompt, response_a and response_b to `table`, and take them out of `cells`.

    Args:
        names: all columns of the file.
        table: with the column id.
        strict: a cell that cannot be read is an error; else it is repaired and counted.

    Returns:
        The reader, with its counts of repairs.

    Raises:
        InputError: as `load_pairs`, about texts.
    """
    reader = TurnReader()
    for canonical, column in zip(TEXT_COLUMNS, contest.text_columns):
        raw = cells.pop(column)
        turns, bad = reader.read(raw)
        if strict and bad is not None:
            raise InputError(
                f"{path}: column {column}, row {bad + 1} (id {table['id'][bad]}) is not a JSON list of texts: "
                f"{str(raw[bad])[:60]!r}; mend or remove that row."
            )
        if strict:
            _refuse_swallowed_rows(path, contest, names, column, raw, table["id"])
        if canonical != "prompt":
            reader.counts["empty answer"] += sum(not "".join(turn).strip() for turn in turns)
        table[canonical] = pd.Series(turns, dtype=object)
    if strict and reader.counts["empty answer"] == 2 * len(table):
        raise InputError(
            f"{path}: all answers in the columns {', '.join(contest.text_columns[1:])} are empty; attach the file that "
            "has their texts."
        )
    _check_encoding(path, reader.undecodable, len(table))
    return reader


def chatbot_columns(names: list[str]) -> list[str]:
    """The columns of the chatbots' names, if a file has both."""
    return list(CHATBOTS) if set(CHATBOTS) <= set(names) else []


def chatbot_names(cells: list[Any]) -> list[str]:
    """Chatbots' names as texts, "" where one is missing."""
    texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    return [text.encode("utf-8", "replace").decode() for text in texts]  # a damaged byte must not reach the output


def _labellings(contest: Contest, names: list[str]) -> list[Contest]:
    """The contest, and others whose label columns the file has as well: they must say the same."""
    others = [
        other
        for other in CONTESTS
        if other.label_columns != contest.label_columns and set(other.label_columns) <= set(names)
    ]
    return [contest, *others]


def read_ids(path: Path, values: list[Any]) -> list[str]:
    """Ids as texts; raises `InputError` for one that is missing, repeated or not a plain text."""
    ids = [_id(path, value, row) for row, value in enumerate(values, 1)]
    repeated = pd.Series(ids, dtype=object).duplicated()
    if repeated.any():
        raise InputError(f"{path}: id {ids[int(repeated.argmax())]} occurs more than once; ids must be unique.")
    return ids


def _id(path: Path, value: Any, row: int) -> str:
    """The id as text. A whole number that parquet holds as a float (5.0) is written without its point."""
    if isinstance(value, float) and math.isfinite(value):
        if abs(value) > 2**53:
            raise InputError(f"{path}: row {row} has the id {value!r}, a float that lost digits; store ids as text.")
        value = int(value) if value == int(value) else value
    text = "" if value is None or value != value else str(value)
    if not text.strip():
        raise InputError(f"{path}: row {row} has no id; a submission needs one for every row: mend or remove that row.")
    if isinstance(value, list) or _NOT_IN_AN_ID.search(text):
        raise InputError(
            f"{path}: row {row} has the id {text[:60]!r}, which is not a plain text; is there a stray quote before it?"
        )
    return text


def _refuse_swallowed_rows(
    path: Path, contest: Contest, names: list[str], column: str, cells: list[Any], ids: pd.Series
) -> None:
    """A stray quote makes one cell of the rest of its row and of rows below: its first line then ends in a label."""
    rest = names[names.index(column) :]
    places = [rest.index(name) for name in contest.label_columns if name in rest]
    for row, cell in enumerate(cells):
        if not isinstance(cell, str) or not places or "\n" not in cell:
            continue
        line = cell.partition("\n")[0].rstrip("\r")
        fields = next(csv.reader([line]), []) if line.count(",") >= len(rest) - 1 else []
        if len(fields) == len(rest) and contest.is_label([fields[place] for place in places]):
            raise InputError(
                f"{path}: column {column}, row {row + 1} (id {ids[row]}) holds what looks like the rest of its row and "
                f"rows below it ({line[:60]!r}); remove the stray quote before it."
            )


def _check_encoding(path: Path, rows: set[int], total: int) -> None:
    if len(rows) > max(UNDECODABLE_ROWS, UNDECODABLE_SHARE * total):
        raise InputError(
            f"{path}: {len(rows)} of {total} rows hold bytes that are not UTF-8, row {min(rows) + 1} first (the limit "
            f"is {UNDECODABLE_ROWS} rows or {UNDECODABLE_SHARE:.0%}); save the file as UTF-8, from cp1252, GB18030 or "
            "whatever it is in."
        )


def _labels(path: Path, contest: Contest, cells: dict[str, list[Any]], ids: pd.Series) -> np.ndarray:
    labels = contest.read_labels({column: cells[column] for column in contest.label_columns})
    bad = labels < 0
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{path}: columns {', '.join(contest.label_columns)}, row {row + 1} (id {ids[row]}) hold "
            f"{[cells[column][row] for column in contest.label_columns]} where {contest.label_rule} is wanted; "
            "mend or remove that row."
        )
    return labels


def check_agreement(
    path: Path, contest: Contest, other: Contest, cells: dict[str, list[Any]], table: pd.DataFrame
) -> None:
    """Raise `InputError` where `other`'s label columns contradict the labels of `table`.

    A label that the other columns cannot express (a tie) may stand there as anything but one of its classes.
    """
    columns = {column: cells[column] for column in other.label_columns}
    said, label = other.read_labels(columns), table["label"].to_numpy()
    blank = np.array([all(cell is None or cell != cell for cell in row) for row in zip(*columns.values())])
    # The two answers are the first two classes everywhere; any class after them is a tie.
    if (said < 0).all():  # not labels but, for example, the name of the model that won
        return
    wrong = ~blank & (np.where(said < 0, 2, np.minimum(said, 2)) != np.minimum(label, 2))
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{path}: row {row + 1} (id {table['id'][row]}) contradicts itself: {', '.join(contest.label_columns)} say "
            f"{contest.classes[label[row]]}, but {', '.join(other.label_columns)} "
            f"{[cells[column][row] for column in other.label_columns]}; mend or remove the wrong columns."
        )


def _compare_ids(path: Path, ids: pd.Series, sample: Path, contest: Contest) -> int:
    """Number of ids that `sample` does not have."""
    wanted = [str(value) for value in read_ids(sample, read_cells(sample, [contest.id_column])[contest.id_column])]
    here = set(ids)
    missing = [value for value in wanted if value not in here]
    strangers = len(here.difference(wanted))
    if 0 < len(missing) < len(wanted):  # with none in common it is the sample of another test file
        raise InputError(
            f"{path}: {len(missing)} of the {len(wanted)} ids of {sample} have no row here, {', '.join(missing[:5])} "
            "among them; the file is cut off, or a stray quote hides rows: attach it again."
        )
    if wanted and len(missing) == len(wanted):
        say(f"No id of {sample} occurs in {path}: it seems to belong to another test file and is not used.")
    return strangers


def _report(table: pd.DataFrame, reader: TurnReader, strangers: int | None) -> pd.DataFrame:
    rows = {"rows": (len(table), "all kept")}
    rows |= {name: (reader.counts[name], done) for name, done in REPAIRS.items()}
    rows["repeated prompt"] = (int(prompt_key(table).duplicated().sum()), "kept; never on both sides of a split")
    if strangers is not None:
        rows["not in the sample submission"] = (strangers, "kept")
    return pd.DataFrame.from_dict(rows, orient="index", columns=["count", "what was done"])
