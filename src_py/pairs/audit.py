"""Compare further rows with the contest's own, and add those that may be added."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.page import say
from src_py.pairs.copies import find_copies
from src_py.pairs.extra import MOSTLY, ExtraFile
from src_py.pairs.load import prompt_key
from src_py.pairs.split import nested_order


def audit_extra(
    files: Sequence[ExtraFile],
    train: pd.DataFrame,
    is_valid: np.ndarray,
    test: pd.DataFrame,
    classes: Sequence[str],
    seed: int = 0,
) -> tuple[list[ExtraFile], pd.DataFrame]:
    """Compare further files with the contest's rows, and take out what may not be added to any fold.

    A row is taken out when it is an exact or near copy (see `find_copies`) of a training, validation or test row, of a
    row before it in its own file, or of a row of an earlier file. Pseudo-labelled test rows stay: they are there on
    purpose. Rows that only share a prompt with validation rows stay, too: `add_extra` or `training_rows` leaves them
    out fold by fold.

    Args:
        files: from `load_extra` and `load_pseudo`.
        train: all labelled rows of the contest.
        is_valid: (rows of `train`,) True for the validation rows of the fold that is shown.
        test: the contest's test rows.

    Returns:
        The files with the rows that are left; and a table with a column a file, beside one for the contest.

    Raises:
        InputError: more than half of a labelled file are test rows.
    """
    if not files:
        return [], pd.DataFrame()
    sizes = [len(train), len(test), *(len(file.table) for file in files)]
    groups = np.repeat(np.arange(1, len(sizes) + 1), sizes)  # 2: test; 3 and more: the files
    groups[: len(train)] = np.asarray(is_valid, bool)  # 0: training, 1: validation
    copies = find_copies([train, test, *(file.table for file in files)], groups, len(train) + len(test), seed)
    valid_prompts, test_prompts = set(prompt_key(train[is_valid])), set(prompt_key(test))
    shown = {"contest": _outline(train, classes)}
    left, ends = [], np.cumsum(sizes)
    for number, file in enumerate(files):
        rows = slice(ends[number + 1], ends[number + 2])
        exact, near = copies.exact[rows], copies.near[rows]
        places = {"training": [0], "validation": [1], "test": [2], "its own": [number + 3]}
        places |= {"earlier files'": list(range(3, number + 3))} if number else {}
        found = {f"exact copies of {what} rows": exact[:, where].any(1) for what, where in places.items()}
        found |= {
            f"near copies of {what} rows": near[:, where].any(1) & ~exact[:, where].any(1)
            for what, where in places.items()
        }
        of_test = (exact | near)[:, 2]
        _say_test_rows(file, of_test)
        drop = (exact | near).any(1)
        if file.pseudo:  # an earlier file's row with a label that copies the same test row is left out itself
            guessed = [place + 3 for place in range(number + 1) if files[place].pseudo]
            drop[of_test] = (exact | near)[of_test][:, [0, 1, *guessed]].any(1)
        prompts = prompt_key(file.table)
        shares_prompt = prompts.isin(valid_prompts).to_numpy()
        column = {"rows in the file": len(file.table) + sum(n for what, n in file.counts.items() if _is_left_out(what))}
        column |= file.counts | {what: int(mask.sum()) for what, mask in found.items()}
        column["prompt among the validation rows"] = int(shares_prompt.sum())
        column["prompt among the test rows"] = int(prompts.isin(test_prompts).sum())
        column["rows added"] = int((~drop & ~shares_prompt).sum())
        shown[file.name] = column | _outline(file.table, classes, file.pseudo)
        left.append(ExtraFile(file.name, file.table[~drop].reset_index(drop=True), file.pseudo, file.counts))
        say(f"{file.name}: {(~drop).sum():,} of {len(file.table):,} rows are left, {drop.sum():,} copies are left out.")
    order = list(dict.fromkeys(what for column in reversed(shown.values()) for what in column))
    return left, pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in shown.items()}).reindex(
        sorted(order, key=_place)
    ).fillna("")


def add_extra(
    train: pd.DataFrame, files: Sequence[ExtraFile], without: pd.DataFrame | None = None, rows: int = 0, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Append the rows of further files in order.

    Args:
        train: rows to learn from.
        files: from `audit_extra`.
        without: validation rows; rows that share a prompt with one are left out. None: that is done fold by fold, by
            `training_rows`.
        rows: of each file at most so many, in a debug run; 0: all.

    Returns:
        The longer table, and for each name the number of rows up to its end. How many were left out is printed.
    """
    held = set() if without is None else set(prompt_key(without))
    tables, ends, total = [train], {}, len(train)
    for file in files:
        kept = file.table[~prompt_key(file.table).isin(held)]
        left_out = len(file.table) - len(kept)
        if rows:
            kept = kept.iloc[np.sort(nested_order(kept["label"], seed)[:rows])]
        tables.append(kept)
        total += len(kept)
        ends[file.name] = total
        later = "" if without is None else f", {left_out:,} left out, whose prompt is held out"
        say(f"{file.name}: {len(kept):,} rows added{later}")
    return _stack(tables), ends


def training_rows(table: pd.DataFrame, fold_of: np.ndarray, fold: int) -> np.ndarray:
    """Numbers of the rows to train on when `fold` is held out.

    Args:
        table: the contest's rows and further ones.
        fold_of: (rows,) fold of every row, -1 for further rows, which are never held out.

    Returns:
        (training rows,) int64: all rows of other folds, and further rows whose prompt is not among those of `fold`.
    """
    fold_of = np.asarray(fold_of)
    keep, extra = fold_of != fold, fold_of < 0
    if extra.any():
        held = set(prompt_key(table[fold_of == fold]))
        keep[extra] = ~prompt_key(table[extra]).isin(held)
    return np.flatnonzero(keep)


def _say_test_rows(file: ExtraFile, of_test: np.ndarray) -> None:
    if not of_test.any():
        return
    what = f"{of_test.sum():,} of the {len(of_test):,} rows of {file.name} are (near) copies of test rows"
    if file.pseudo:
        say(f"{what}: they are used, with the probabilities that the file has for them.")
    elif of_test.mean() > MOSTLY:
        raise InputError(f"{what}: with labels they would leak the answers; take it out of CFG.extra_files.")
    else:
        say(f"WARNING: {what}; they are left out, because labelled test rows make every score meaningless.")


def _outline(table: pd.DataFrame, classes: Sequence[str], pseudo: bool = False) -> dict[str, float]:
    """Class shares and lengths. The shares of pseudo-labelled rows are the means of their probabilities: the likeliest
    class of a row is seldom a tie."""
    if pseudo:
        shares = np.reshape(table["soft"].tolist(), (len(table), len(classes))).sum(0) / max(1, len(table))
    else:
        shares = np.bincount(table["label"], minlength=len(classes)) / max(1, len(table))
    found = {f"share of {name}": round(float(share), 3) for name, share in zip(classes, shares)}
    lengths = {
        column: table[column].map(lambda turns: sum(map(len, turns)))
        for column in ("prompt", "response_a", "response_b")
    }
    return found | {f"median characters, {column}": float(length.median()) for column, length in lengths.items()}


def _place(what: str) -> int:
    """Where a line of the audit stands."""
    starts = (
        "rows in the file",
        "texts",
        "ties",
        "left out",
        "exact",
        "near",
        "prompt",
        "rows added",
        "share",
        "median",
    )
    return next(number for number, start in enumerate(starts) if what.startswith(start))


def _is_left_out(what: str) -> bool:
    return what.startswith("left out")


def _stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """One table; what only some have is filled: chatbots without a name, rows without a teacher."""
    tables = [table.copy(deep=False) for table in tables]
    columns = {column for table in tables for column in table}
    soft = next((len(table["soft"].iloc[0]) for table in tables if "soft" in table and len(table)), 0)
    for table in tables:
        for column in ("model_a", "model_b"):
            if column in columns and column not in table:
                table[column] = ""
        if "soft" in columns and "soft" not in table:
            table["soft"] = [[float("nan")] * soft for _ in range(len(table))]
            table["soft_weight"] = 0.0
        if "teacher_fold" in columns and "teacher_fold" not in table:
            table["teacher_fold"] = -1
    return pd.concat(tables, ignore_index=True)
