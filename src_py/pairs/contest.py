"""What a contest is: its files, columns, classes, submission and metric. A new one of this shape is one entry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.files import write_csv
from src_py.kaggle.inputs import choose_folder, tables_in
from src_py.kaggle.page import say
from src_py.pairs.read import read_names

TEXT_COLUMNS = ("prompt", "response_a", "response_b")  # of our own tables, whatever a contest's file calls them
FLOOR = 1e-6  # log loss of a certain and wrong prediction would be infinite


@dataclass(frozen=True)
class Contest:
    """Which of two answers is preferred.

    Attributes:
        name: for messages.
        classes: names for tables and plots, in label order: first answer, second answer, tie if there is one.
        label_columns: of the training file: a column of 0 and 1 for each class, or one column for all.
        submission_columns: a column of probabilities for each class, or one column that names the likelier class.
        label_values: what the one column holds for each class; empty where no file has such a column.
        metric: key of `score` that the contest is ranked by: "log_loss" or "accuracy".
        id_column, text_columns: names in the files, the texts as prompt, first answer, second answer.
        train, test, sample: file names without suffix.
    """

    name: str
    classes: tuple[str, ...]
    label_columns: tuple[str, ...]
    submission_columns: tuple[str, ...]
    label_values: tuple[str, ...] = ()
    metric: str = "log_loss"
    id_column: str = "id"
    text_columns: tuple[str, str, str] = TEXT_COLUMNS
    train: str = "train"
    test: str = "test"
    sample: str = "sample_submission"

    def __post_init__(self) -> None:
        sizes = {1, len(self.classes)}
        if len(self.classes) < 2 or not {len(self.label_columns), len(self.submission_columns)} <= sizes:
            raise InputError(f"Contest {self.name}: labels and submission need one column, or one a class.")
        if 1 in (len(self.label_columns), len(self.submission_columns)) and len(self.label_values) != len(self.classes):
            raise InputError(f"Contest {self.name}: a single column needs label_values, one a class.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the training file must have."""
        return (self.id_column, *self.text_columns, *self.label_columns)

    @property
    def label_rule(self) -> str:
        """In words, what a row's label columns must hold."""
        return " or ".join(self.label_values) if len(self.label_columns) == 1 else "one 1 and otherwise 0"

    def read_labels(self, cells: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Class number of every row from its label columns, int64 of shape (rows,); -1 where it breaks the rule."""
        if len(self.label_columns) == 1:
            numbers = {value: number for number, value in enumerate(self.label_values)}
            return np.array([numbers.get(str(cell).strip(), -1) for cell in cells[self.label_columns[0]]], np.int64)
        frame = pd.DataFrame({column: pd.Series(cells[column], dtype=object) for column in self.label_columns})
        one_hot = frame.apply(pd.to_numeric, errors="coerce").to_numpy(float)
        good = np.isin(one_hot, (0, 1)).all(1) & (one_hot.sum(1) == 1)
        return np.where(good, one_hot.argmax(1), -1).astype(np.int64)

    def is_label(self, fields: Sequence[str]) -> bool:
        """Whether these texts, one a label column, are a label."""
        if len(fields) != len(self.label_columns):
            return False
        return bool(self.read_labels({c: [field] for c, field in zip(self.label_columns, fields)})[0] >= 0)


LMSYS = Contest(
    name="LMSYS",  # and LLM Classification Finetuning, its running twin
    classes=("a", "b", "tie"),
    label_columns=("winner_model_a", "winner_model_b", "winner_tie"),
    submission_columns=("winner_model_a", "winner_model_b", "winner_tie"),
)
WSDM = Contest(
    name="WSDM Cup",
    classes=("a", "b"),
    label_columns=("winner",),
    label_values=("model_a", "model_b"),
    submission_columns=("winner",),
    metric="accuracy",
)
CONTESTS = (LMSYS, WSDM)


@dataclass(frozen=True)
class ContestFiles:
    """A contest and the paths of its files; `sample` is None where no sample submission is attached."""

    contest: Contest
    train: Path
    test: Path
    sample: Path | None


def recognise(
    columns: Sequence[str],
    sample_columns: Sequence[str] | None = None,
    contests: Sequence[Contest] = CONTESTS,
    path: str | Path = "The training file",
) -> Contest:
    """The contest whose training file has these columns.

    Several may fit; then the one that submits the sample's columns is taken, or the one with most columns.

    Raises:
        InputError: when none fits; it lists what each contest wants and what the file (`path`) has.
    """
    fitting = [contest for contest in contests if set(contest.columns) <= set(columns)]
    if sample_columns is not None:
        fitting.sort(key=lambda contest: not _submits(contest, sample_columns))
        if fitting and not _submits(fitting[0], sample_columns):
            raise InputError(
                f"{path} looks like {fitting[0].name}, which submits the columns {fitting[0].id_column}, "
                f"{', '.join(fitting[0].submission_columns)}, but the sample submission beside it has "
                f"{', '.join(sample_columns)[:500]}; add an entry to CONTESTS in src_py/pairs/contest.py."
            )
        fitting = [contest for contest in fitting if _submits(contest, sample_columns)]
    if not fitting:
        wanted = "; ".join(f"{contest.name} needs {', '.join(contest.columns)}" for contest in contests)
        raise InputError(
            f"{path} has the columns {', '.join(columns)[:500]}, which is not a known contest: {wanted}. Attach one of "
            "these, or add an entry to CONTESTS in src_py/pairs/contest.py."
        )
    return max(fitting, key=lambda contest: len(contest.columns))


def find_contest(root: str | Path, data_dir: str | Path = "", contests: Sequence[Contest] = CONTESTS) -> ContestFiles:
    """Find the folder below `root` that holds a training and a test file, and which contest's they are.

    Where a folder has a file with several of the suffixes in `DATA_SUFFIXES`, the first is read, and a line says so.

    Args:
        root: where inputs are attached.
        data_dir: picks among several contests: a folder, or a part of its path below `root`.

    Raises:
        InputError: `root` is missing; no folder, or more than one, holds both files; `data_dir` matches none; or the
            files are no known contest's.
    """
    stems = list(dict.fromkeys((contest.train, contest.test) for contest in contests))
    folder = choose_folder(root, str(data_dir), stems)
    here = [contest for contest in contests if tables_in(folder, contest.train) and tables_in(folder, contest.test)]
    here = [contest for contest in here if (contest.train, contest.test) == (here[0].train, here[0].test)]
    train = _first(tables_in(folder, here[0].train))
    samples = [table for stem in dict.fromkeys(contest.sample for contest in here) for table in tables_in(folder, stem)]
    sample = _first(samples) if samples else None
    contest = recognise(read_names(train), read_names(sample) if sample else None, here, train)
    return ContestFiles(contest, train, _first(tables_in(folder, contest.test)), sample)


def submission_table(ids: pd.Series, probabilities: np.ndarray, contest: Contest) -> pd.DataFrame:
    """One row a test row, in order.

    Args:
        ids: the test file's ids, unique.
        probabilities: (rows, classes), rows summing to 1.
        contest: decides between a column of probabilities a class and one column that names the likeliest class.

    Raises:
        ValueError: when rows or classes are missing, or values are repeated, not finite, negative, or do not sum to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if len(probabilities) != len(ids):
        raise ValueError(f"{len(ids)} test rows, but {len(probabilities)} predictions.")
    if probabilities.shape[1:] != (len(contest.classes),):
        raise ValueError(f"{contest.name} has {len(contest.classes)} classes; predictions are {probabilities.shape}.")
    if ids.duplicated().any():
        raise ValueError(f"id {ids[ids.duplicated()].iloc[0]} would be submitted twice.")
    if not np.isfinite(probabilities).all() or (probabilities < 0).any():
        raise ValueError("Some predictions are NaN, infinite or negative.")
    if np.abs(probabilities.sum(1) - 1).max(initial=0) > 1e-4:
        raise ValueError("Some predictions do not sum to 1.")
    table = {contest.id_column: ids.to_numpy()}
    if len(contest.submission_columns) == 1:
        names = np.array(contest.label_values, dtype=object)
        return pd.DataFrame(table | {contest.submission_columns[0]: names[probabilities.argmax(1)]})
    clipped = probabilities.clip(FLOOR)
    clipped /= clipped.sum(1, keepdims=True)
    return pd.DataFrame(table | {name: clipped[:, i] for i, name in enumerate(contest.submission_columns)})


def write_submission(path: str | Path, ids: pd.Series, probabilities: np.ndarray, contest: Contest) -> pd.DataFrame:
    """Check, write to a temporary file, rename, and read back what was written (see `submission_table`)."""
    table, id_column = submission_table(ids, probabilities, contest), contest.id_column
    write_csv(path, table)
    written = pd.read_csv(path, dtype={id_column: str}, keep_default_na=False)  # "NA" and "null" are ids like others
    if list(written.columns) != list(table.columns) or list(written[id_column]) != list(table[id_column]):
        raise ValueError(f"{path} does not read back as it was written.")
    return written


def _submits(contest: Contest, columns: Sequence[str]) -> bool:
    return {contest.id_column, *contest.submission_columns} == set(columns)


def _first(tables: list[Path]) -> Path:
    """The first, and a line that says so where there are several."""
    if len(tables) > 1:
        say(f"{tables[0]} is read; {', '.join(path.name for path in tables[1:])} beside it is not.")
    return tables[0]
