"""Out-of-fold predictions that another run wrote, checked against this contest's training rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.pairs.load import prompt_key

NO_FOLD = -1


class OutOfFold(NamedTuple):
    """Probabilities (training rows, classes), NaN where there are none, and the fold of each row, `NO_FOLD` where there
    is none or the file does not say it."""

    probabilities: np.ndarray
    fold_of: np.ndarray


def read_oof(
    path: Path,
    table: pd.DataFrame,
    classes: Sequence[str],
    remedy: str,
    subset: bool = False,
    columns: Mapping[str, str] | None = None,
    folds: bool = True,
) -> OutOfFold:
    """Out-of-fold predictions of a csv file (id, fold, label, and a column a class), in the order of `table`.

    Its split need not be the one of `table`: a prediction is out of fold when no row with the same prompt was trained
    on, whichever fold that prompt has elsewhere. This is checked: all rows of a prompt must lie in one of its folds.

    Args:
        table: training rows from `load_pairs`.
        remedy: what to do instead, the end of each sentence, such as "attach the run on this data".
        subset: `table` has some of the training rows only, as in a debug run; predictions for others are left out.
        columns: the file's names of "id" and of the classes, where they are others.
        folds: whether the file must have columns fold and label. Otherwise they are checked if it has them.

    Raises:
        InputError: the file is missing or damaged, or was made from other rows, other labels, or a split that
            separates rows of a prompt.
    """
    found = _read(path, classes, dict(columns or {}), remedy, folds)
    if subset:
        found = found[found.index.isin(table["id"])]
    known = found.reindex(table["id"])
    wrong = np.zeros(len(table), bool)
    if "label" in known:
        wrong = known["label"].notna().to_numpy() & (known["label"].to_numpy() != table["label"].to_numpy())
    if wrong.any() or found.empty or not found.index.isin(table["id"]).all():
        raise InputError(f"{path} was made from other training rows; {remedy}.")
    fold_of = np.full(len(table), NO_FOLD)
    if "fold" in known:
        fold_of = known["fold"].fillna(NO_FOLD).to_numpy(int)
        if pd.Series(fold_of).groupby(prompt_key(table).to_numpy()).nunique().max() > 1:
            raise InputError(
                f"{path} has rows of one prompt in several folds or leaves some out: its predictions may not be out of "
                f"fold; {remedy}."
            )
    return OutOfFold(known[list(classes)].to_numpy(float), fold_of)


def read_probabilities(path: Path, classes: Sequence[str], columns: Mapping[str, str], remedy: str) -> pd.DataFrame:
    """Class probabilities by id, of a csv file, columns in the order of `classes`.

    Args:
        columns: the file's names of "id" and of the classes, where they are others.
        remedy: the end of each sentence.

    Raises:
        InputError: the file is missing or damaged, an id is repeated, or a row's probabilities do not sum to 1.
    """
    return _read(path, classes, dict(columns), remedy, folds=False, rows=0)[list(classes)]


def _read(
    path: Path, classes: Sequence[str], columns: dict[str, str], remedy: str, folds: bool, rows: int = 1
) -> pd.DataFrame:
    """The classes' probabilities, and fold and label where they are needed or there, indexed by id; all are sound."""
    try:
        id_column = columns.pop("id", "id")
        found = pd.read_csv(path, dtype={id_column: str}, keep_default_na=False).set_index(id_column)
        found = found.rename(columns={theirs: ours for ours, theirs in columns.items()}).rename_axis("id")
        beside = [name for name in ("fold", "label") if folds or name in found]
        found = found[[*beside, *classes]].apply(pd.to_numeric)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise InputError(f"{path} cannot be read ({reason}); {remedy}.") from error
    probabilities = found[list(classes)].to_numpy(float)
    limits = {"fold": 100, "label": len(classes)}
    whole = all(np.isin(found[name], range(limits[name])).all() for name in beside)
    sound = (probabilities >= 0).all() and (np.abs(probabilities.sum(1) - 1) < 1e-3).all()
    if not (len(found) >= rows and whole and sound and found.index.is_unique):
        also = " with a fold, a label and" if folds else ", and"
        raise InputError(f"{path} does not hold one row an id{also} probabilities that sum to 1; {remedy}.")
    if len(found) and np.isin(probabilities, (0, 1)).all():
        raise InputError(f"{path} holds labels where predictions should be: every probability is 0 or 1; {remedy}.")
    return found.astype(dict.fromkeys(beside, int))
