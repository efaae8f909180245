"""Further training rows: read other files, compare them with the contest's rows, and add what may be added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.kaggle.page import say
from src_py.pairs.contest import CONTESTS, Contest
from src_py.pairs.load import chatbot_columns, chatbot_names, check_agreement, read_texts
from src_py.pairs.read import read_cells, read_names

ARENA_TIES = {"tie": False, "tie (bothbad)": True, "both_bad": True}  # in a column `winner`; True: both answers are bad
MOSTLY = 0.5  # share of a file from which it is taken for another kind of file


@dataclass(frozen=True)
class ExtraFiles(Settings):
    """What else is learned from: names or paths of further labelled files."""

    extra_files: tuple[str, ...] = setting(())


@dataclass(frozen=True)
class ExtraRows(ExtraFiles):
    """What else is learned from, besides the contest's training file.

    Args:
        extra_files: names or paths of labelled files.
        pseudo_files: names or paths of files with class probabilities in place of labels.
        soft_labels: name or path of a file with a teacher's probabilities for the training rows; "": none.
        soft_weight: share of the teacher in the loss of a row that has a soft label.
    """

    pseudo_files: tuple[str, ...] = setting(())
    soft_labels: str = setting("")
    soft_weight: float = setting(0.5, least=0, most=1)


@dataclass(frozen=True)
class ExtraFile:
    """One further file, read.

    Attributes:
        name: as CFG has it.
        table: as `load_pairs` gives it; ids are the name and the number of the row. Pseudo-labelled rows also have the
            columns `soft` and `soft_weight`.
        pseudo: its labels come from probabilities.
        counts: how often something was left out or read in another way, by what it is.
    """

    name: str
    table: pd.DataFrame
    pseudo: bool = False
    counts: dict[str, int] = field(default_factory=dict)


def load_extra(paths: Mapping[str, str | Path], contest: Contest) -> list[ExtraFile]:
    """Read labelled files: of this contest, of another one in `CONTESTS`, or with the public arena's column `winner`.

    "tie (bothbad)", and a row of zeros where a column a class is wanted, are ties: a contest counts both kinds as one.
    A contest without ties cannot use ties; they are left out and counted.

    Args:
        paths: by the name that CFG has for them.

    Raises:
        InputError: a file that cannot be read, has no known label columns, or a label that means something else. The
            message names the path and the row.
    """
    return [_load_labelled(name, Path(path), contest) for name, path in paths.items()]


def refuse_bad_labels(path: Path, bad: np.ndarray, cells: Mapping[str, Sequence[Any]], wanted: str) -> None:
    """Raise `InputError` for rows that are `bad`: how many they are, and what the first one holds."""
    if bad.any():
        row = int(bad.argmax())
        held = ", ".join(f"{name} {column[row]!r}" for name, column in cells.items())
        raise InputError(
            f"{path}: {bad.sum():,} of {len(bad):,} rows have labels that are not {wanted}; row {row + 1}, the first, "
            f"has {held}. Mend or remove these rows, or convert the file."
        )


def row_ids(name: str, rows: int) -> list[str]:
    """Ids that no other file has: the name of the file and the number of the row."""
    return [f"{name}:{row}" for row in range(1, rows + 1)]


def _load_labelled(name: str, path: Path, contest: Contest) -> ExtraFile:
    names = read_names(path)
    known = [contest, *(other for other in CONTESTS if other != contest)]
    codings = [coding for coding in known if set(coding.label_columns) <= set(names)]
    if not codings:
        wanted = " or ".join(dict.fromkeys(", ".join(coding.label_columns) for coding in known))
        raise InputError(
            f"{path} has no labels: it needs the columns {wanted}, but has {', '.join(names)[:500]}; a file with other "
            "labels has to be converted first."
        )
    coding = codings[0]
    labels_in = [column for each in codings for column in each.label_columns]
    chatbots = chatbot_columns(names)
    cells = read_cells(path, list(dict.fromkeys([*coding.text_columns, *labels_in, *chatbots])))
    table = pd.DataFrame({"id": row_ids(name, len(cells[labels_in[0]]))})
    repaired = read_texts(path, coding, names, cells, table, strict=True).counts
    table["label"], both_bad = _labels(path, coding, {column: cells[column] for column in coding.label_columns})
    for other in codings[1:]:
        check_agreement(path, coding, other, cells, table)
    for column in chatbots:
        table[column] = chatbot_names(cells[column])
    counts = {"texts repaired": sum(n for what, n in repaired.items() if what != "empty answer")}
    counts["ties where both are bad"] = int(both_bad.sum())
    if both_bad.any():
        say(f"{name}: {both_bad.sum():,} ties in which both answers are bad are read as ties, as the contest does.")
    if len(contest.classes) < 3:
        is_tie = table["label"].to_numpy() >= len(contest.classes)
        counts["left out: ties"] = int(is_tie.sum())
        if is_tie.any():
            say(f"{name}: {is_tie.sum():,} ties are left out, which {contest.name} does not have.")
        if is_tie.all():
            raise InputError(
                f"{path}: all {len(table)} rows are ties, and {contest.name} has no ties; name another file."
            )
        table = table[~is_tie].reset_index(drop=True)
    return ExtraFile(name, table, counts=counts)


def _labels(path: Path, coding: Contest, cells: dict[str, list[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Class of every row (0, 1; 2: tie), and whether both answers are bad."""
    labels = coding.read_labels(cells)
    if len(coding.label_columns) == 1:
        [column] = cells.values()
        ties = [ARENA_TIES.get(str(cell).strip()) for cell in column]
        labels = np.where([tie is not None for tie in ties], 2, labels)
        wanted = f"{coding.label_rule} or {' or '.join(ARENA_TIES)}"
        refuse_bad_labels(path, labels < 0, cells, wanted)
        return np.minimum(labels, 2), np.array([tie is True for tie in ties])
    numbers = pd.DataFrame(cells).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    zeros = (numbers == 0).all(1)
    if zeros.mean() > MOSTLY:
        raise InputError(
            f"{path}: {zeros.sum():,} of {len(zeros):,} rows have 0 in all of {', '.join(cells)}: too many to be "
            "ties in which both answers are bad; remove the rows without a label."
        )
    fractions = ~np.isin(numbers, (0, 1)) & np.isfinite(numbers)
    if fractions.any(1).mean() > MOSTLY:
        raise InputError(
            f"{path}: {', '.join(cells)} hold probabilities, not labels; name the file in CFG.pseudo_files."
        )
    labels = np.where(zeros, 2, labels)
    refuse_bad_labels(path, labels < 0, cells, f"{coding.label_rule}, or 0 everywhere if both are bad,")
    return np.minimum(labels, 2), zeros
