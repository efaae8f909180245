"""Somebody else's predictions as a member of a blend: a csv file for the training rows, and one for the test rows."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.blend.member import Job, Member
from src_py.errors import InputError
from src_py.pairs.contest import Contest
from src_py.pairs.oof import NO_FOLD, read_oof, read_probabilities

MARKER = "member.json"
FIELDS = ("name", "oof", "test", "encoder")  # of the marker; all are optional texts


@dataclass(frozen=True, kw_only=True)
class ForeignMember(Member):
    """Two files: out-of-fold predictions, and predictions of the test rows.

    Attributes:
        test: probabilities by id, columns in the order of the contest's classes.
        label: what `encoder` says.
        checked: whether the file says its folds, so that it could be checked that they separate prompts.
    """

    test: pd.DataFrame
    label: str = ""
    checked: bool = False
    bytes: int = 0

    @classmethod
    def read(cls, name: str, folder: Path, table: pd.DataFrame, contest: Contest) -> "ForeignMember":
        """The member in a folder with an out-of-fold csv and a test csv.

        A `member.json` may name it ("name"), its files ("oof", "test") and its encoder ("encoder"). Without one, the
        out-of-fold file is the only csv whose name begins with "oof", and the test file is submission.csv, or the only
        csv whose name begins with "test" or "sub". Both have the contest's id, and for each class a column that is
        called as in the contest's submission, or like the class.

        Raises:
            InputError: a file is missing, ambiguous or damaged, or as for `read_oof`.
        """
        given = _marker(folder)
        oof_path = _file(folder, contest, given.get("oof", ""), ("oof",), "out-of-fold predictions", "oof")
        begins = ("submission.csv", "test", "sub")
        test_path = _file(folder, contest, given.get("test", ""), begins, "test predictions", "test")
        remedy = f"correct that file, or remove {folder.name} from the inputs"
        columns = [_columns(path, contest) for path in (oof_path, test_path)]
        oof = read_oof(oof_path, table, contest.classes, remedy, columns=columns[0], folds=False)
        test = read_probabilities(test_path, contest.classes, columns[1] or {}, remedy)
        digest = hashlib.sha256(oof_path.read_bytes() + test_path.read_bytes()).hexdigest()[:24]
        folds = set(oof.fold_of.tolist()) - {NO_FOLD}
        return cls(
            name=given.get("name") or name,
            folder=folder,
            oof=oof.probabilities,
            digest=digest,
            folds=len(folds),
            test=test,
            label=given.get("encoder", ""),
            checked=bool(folds),
            bytes=oof_path.stat().st_size + test_path.stat().st_size,
        )

    @property
    def encoder(self) -> str:
        return self.label

    @property
    def size(self) -> int:
        return self.bytes

    def missing(self, ids: pd.Series) -> int:
        """How many of these test rows its file does not answer."""
        return int((~ids.isin(self.test.index)).sum())

    def predict(self, job: Job) -> np.ndarray:
        found = self.test.reindex(job.table["id"])[list(job.classes)].to_numpy(float)
        return found / found.sum(1, keepdims=True)

    def seconds(self, sample: pd.DataFrame, rows: int, precision: str) -> float:
        """None: the predictions are read from a file."""
        return 0.0


def is_foreign(names: set[str]) -> bool:
    """Whether a folder with these files says that it is a member."""
    return MARKER in names or any(name.startswith("oof") and name.endswith(".csv") for name in names)


def _marker(folder: Path) -> dict[str, str]:
    path = folder / MARKER
    if not path.is_file():
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        valid = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
        if not valid or (unknown := set(found) - set(FIELDS)):
            what = f"has {sorted(unknown)[0]!r}" if valid else "is not an object of texts"
            raise ValueError(f"it {what}; it may have {', '.join(FIELDS)}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({str(error)[:150]}); correct or remove it.") from error
    return found


def _file(folder: Path, contest: Contest, wanted: str, begins: tuple[str, ...], what: str, field: str) -> Path:
    """The file that the marker names, or the only one with a column a class that begins as one of `begins`, earlier
    ones first."""
    if wanted:
        if Path(wanted).name != wanted or not (folder / wanted).is_file():
            raise InputError(f"{folder / MARKER} names {wanted!r}, which is not a file in that folder; correct it.")
        return folder / wanted
    names = sorted(path.name for path in folder.glob("*.csv") if _columns(path, contest) is not None)
    found: list[str] = []
    for pattern in begins:
        found = [name for name in names if name.startswith(pattern)]
        if len(found) == 1:
            return folder / found[0]
        if found:
            break
    which = f"it has no csv file of {what} with a column for each class"
    if found:
        which = f"several files may be its {what} ({', '.join(found)})"
    raise InputError(f"{folder} cannot take part: {which}; name the file as {field!r} in a {MARKER} beside it.")


def _columns(path: Path, contest: Contest) -> dict[str, str] | None:
    """The names that a file has for id and classes: the classes' own, or else the submission's; None if neither."""
    try:
        names = set(pd.read_csv(path, nrows=0).columns)
    except (OSError, ValueError):
        return None
    for columns in (contest.classes, contest.submission_columns):
        if len(columns) == len(contest.classes) and {contest.id_column, *columns} <= names:
            return {"id": contest.id_column} | dict(zip(contest.classes, columns))
    return None
