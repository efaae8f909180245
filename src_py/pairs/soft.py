"""Soft labels and pseudo-labels: class probabilities from a teacher, for training rows and for further pairs."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.evaluation.baselines import constant_log_loss
from src_py.kaggle.page import say
from src_py.pairs.contest import TEXT_COLUMNS, Contest
from src_py.pairs.extra import ExtraFile, row_ids
from src_py.pairs.load import prompt_key, read_ids, read_texts
from src_py.pairs.read import read_cells, read_names

SUM_TOLERANCE = 1e-3
FEWEST = 0.01  # share of the training rows that a teacher's file must hold


def load_soft(
    path: str | Path, table: pd.DataFrame, contest: Contest, test_ids: Collection[str] = ()
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a teacher's probabilities for the training rows: csv or parquet, as `oof.csv` of the recipes.

    The file has the contest's id column, a column a class, called as in `contest.classes` or as in the submission, and
    may have a column `fold`: the fold that was held out when the teacher answered the row.

    Args:
        table: all training rows. How many have no row in the file is printed; they keep their hard label.
        test_ids: ids of the test rows, for a better message.

    Returns:
        Probabilities, float64 of shape (rows, classes), NaN where the file has none; and the file's folds, int64 of
        shape (rows,), -1 where it has none, or None when it has no such column.

    Raises:
        InputError: a missing column; an id that is unknown or there twice; a probability that is NaN or negative; a row
            that does not sum to 1 within 0.001; only zeros and ones; fewer than 1 % of the training rows. The message
            names path and row.
    """
    path = Path(path)
    names = read_names(path)
    columns = _class_columns(path, names, contest)
    if contest.id_column not in names:
        raise InputError(f"{path} has no column {contest.id_column!r}; it has {', '.join(names)[:500]}.")
    folded = "fold" in names
    cells = read_cells(path, [contest.id_column, *columns, *(["fold"] if folded else [])])
    ids = pd.Series(read_ids(path, cells[contest.id_column]))
    place = pd.Series(np.arange(len(table)), index=table["id"])
    _check_ids(path, ids, place.index, test_ids)
    probabilities = _probabilities(path, {column: cells[column] for column in columns}, ids)
    if (probabilities.max(1) == 1).all():
        raise InputError(
            f"{path}: {', '.join(columns)} hold labels, not a teacher's probabilities; name another file in "
            "CFG.soft_labels."
        )
    if len(ids) < FEWEST * len(table):
        raise InputError(
            f"{path} has soft labels for {len(ids):,} of {len(table):,} training rows, fewer than {FEWEST:.0%}; attach "
            "the teacher's whole file, or set CFG.soft_labels = ''."
        )
    rows = place.loc[ids].to_numpy()
    soft = np.full((len(table), len(contest.classes)), np.nan)
    soft[rows] = probabilities
    folds = None
    if folded:
        folds = np.full(len(table), -1, np.int64)
        folds[rows] = _folds(path, cells["fold"], ids)
    if len(ids) < len(table):
        say(
            f"{path}: {len(table) - len(ids):,} of {len(table):,} training rows have no soft label; they keep their "
            "hard label."
        )
    return soft, folds


def soft_labels(table: pd.DataFrame, soft: np.ndarray, folds: np.ndarray | None, soft_weight: float) -> pd.DataFrame:
    """The table with the columns `soft` (list of floats), `soft_weight` (0 without a teacher) and `teacher_fold` (-1
    where it is unknown)."""
    taught = np.isfinite(soft).all(1)
    unknown = np.full(len(table), -1, np.int64)
    columns = {"soft": pd.Series(soft.tolist(), index=table.index, dtype=object)}
    columns |= {"soft_weight": np.where(taught, soft_weight, 0.0), "teacher_fold": unknown if folds is None else folds}
    return table.assign(**columns)


def check_teacher(table: pd.DataFrame, fold_of: np.ndarray, folds: Sequence[int], n_classes: int) -> list[str]:
    """Sentences on what the teacher had seen when it made the soft labels, and what this means for the validation.

    Args:
        table: the contest's training rows, from `soft_labels`.
        fold_of: (rows,) this run's folds.
        folds: the folds that this run holds out.
    """
    soft, label = np.array(table["soft"].tolist(), float), table["label"].to_numpy()
    taught = np.isfinite(soft).all(1)
    theirs, ours = table["teacher_fold"].to_numpy()[taught], np.asarray(fold_of)[taught]
    known = (theirs >= 0).all() and len(set(theirs)) > 1
    prompts = prompt_key(table[taught])
    together = known and not (pd.Series(theirs, index=prompts.index).groupby(prompts).nunique() > 1).any()
    same = known and len(set(zip(theirs, ours))) == len(set(theirs)) == len(set(ours))
    if together:
        said = [
            f"Each of the {taught.sum():,} soft labels is out of fold, by the file's column fold: its teacher has not "
            "seen that row, nor another with the same prompt."
        ]
    elif known:
        said = [
            "The teacher's folds part rows with equal prompts: it had seen other pairs of a row's prompt, and their "
            "labels."
        ]
    else:
        said = [
            "Nothing says that the soft labels are out of fold: the teacher may have learned the very rows it answers."
        ]
    if same and together:
        said.append(
            "The teacher's folds are those of this run, so that the validation can be trusted as far as any "
            "with soft labels: what the teachers of the other folds learned from the validation rows still reaches the "
            "model second-hand."
        )
        return said
    why = "the teacher's folds are not those of this run" if known else "the file does not say the teacher's folds"
    said.append(
        f"The validation can no longer be trusted: {why}, so that soft labels of training rows may come from a teacher "
        "that learned the labels of validation rows."
    )
    held = np.isin(fold_of, list(folds)) & taught
    parts = {"validation rows": held, "other rows": taught & ~held}
    losses = {what: _log_loss(soft[rows], label[rows]) for what, rows in parts.items() if rows.any()}
    shares = ", ".join(f"{loss:.4f} on the {what}" for what, loss in losses.items())
    rest = label[~np.isin(fold_of, list(folds))]
    if held.any() and len(rest):
        constant = constant_log_loss(rest, label[held], n_classes)
        gain = max(0.0, constant - losses["validation rows"])
        said.append(
            f"The teacher's own log loss is {shares}; the constant predictor has {constant:.4f} on the validation "
            f"rows. So this run's validation may flatter by up to {gain:.4f}, all "
            "that the teacher knows about these rows; compare the submission's score with it."
        )
    elif losses:
        constant = constant_log_loss(label, label[taught], n_classes)
        said.append(
            f"The teacher's own log loss is {shares} (the constant predictor's {constant:.4f}); it has no soft label "
            "for a validation row, so that it cannot be said how far the validation flatters."
        )
    return said


def load_pseudo(paths: Mapping[str, str | Path], contest: Contest, test: pd.DataFrame) -> list[ExtraFile]:
    """Read files of pairs with class probabilities in place of labels.

    A file without texts is a submission: its ids are those of test rows, and the texts are taken from there.

    Args:
        paths: by the name that CFG has for them.
        test: the test rows.

    A line says of each that its teacher may have seen the validation rows: which ones it has not seen, a column `fold`
    cannot tell of rows that have no fold.

    Returns:
        Files whose tables have `label` (the likeliest class), `soft` and `soft_weight` (1), for `audit_extra`.

    Raises:
        InputError: as `load_soft`, about columns, ids and probabilities; or the file holds labels.
    """
    return [_load_pseudo(name, Path(path), contest, test) for name, path in paths.items()]


def _load_pseudo(name: str, path: Path, contest: Contest, test: pd.DataFrame) -> ExtraFile:
    names = read_names(path)
    columns = _class_columns(path, names, contest)
    has_texts = set(contest.text_columns) <= set(names)
    if not has_texts and contest.id_column not in names:
        raise InputError(
            f"{path} has neither {', '.join(contest.text_columns)} nor {contest.id_column}; attach one with texts."
        )
    cells = read_cells(path, [*(contest.text_columns if has_texts else [contest.id_column]), *columns])
    rows = len(cells[columns[0]])
    table = pd.DataFrame({"id": row_ids(name, rows)})
    probabilities = _probabilities(path, {column: cells.pop(column) for column in columns}, None)
    if (probabilities.max(1) == 1).all():
        raise InputError(
            f"{path}: {', '.join(columns)} hold labels, not probabilities; name the file in CFG.extra_files."
        )
    counts = {}
    if has_texts:
        repaired = read_texts(path, contest, names, cells, table, strict=True).counts
        counts["texts repaired"] = sum(n for what, n in repaired.items() if what != "empty answer")
    else:
        ids = pd.Series(read_ids(path, cells[contest.id_column]))
        _check_ids(path, ids, test["id"], ())
        texts = test.set_index("id").loc[ids, list(TEXT_COLUMNS)].reset_index(drop=True)
        table = table.join(texts)
    say(
        f"{name}: nothing says whether its teacher has learned from validation rows. If it has, what it knows of their "
        "labels reaches the model, and the validation flatters; compare the submission's score with it."
    )
    table["label"] = probabilities.argmax(1).astype(np.int64)
    table["soft"] = pd.Series(probabilities.tolist(), dtype=object)
    table["soft_weight"] = 1.0
    return ExtraFile(name, table, pseudo=True, counts=counts)


def _class_columns(path: Path, names: list[str], contest: Contest) -> list[str]:
    """The columns of the class probabilities, in class order."""
    ways = [contest.classes]
    if len(contest.submission_columns) == len(contest.classes):
        ways.append(contest.submission_columns)
    for way in ways:
        if set(way) <= set(names):
            return list(way)
    wanted = " or ".join(", ".join(way) for way in ways)
    raise InputError(
        f"{path} has the columns {', '.join(names)[:500]}, but class probabilities are wanted, called {wanted}; rename "
        "its columns."
    )


def _check_ids(path: Path, ids: pd.Series, known: Any, test_ids: Collection[str]) -> None:
    unknown = ids[~ids.isin(set(known))]
    if len(unknown):
        of_test = unknown.isin(set(test_ids)).sum()
        whose = f", {of_test:,} of them test rows: name a file for these in CFG.pseudo_files" if of_test else ""
        raise InputError(
            f"{path}: {len(unknown):,} of {len(ids):,} ids have no row in this contest's file, {unknown.iloc[0]} in "
            f"row {unknown.index[0] + 1} first{whose}; attach the file that was made for these rows."
        )


def _probabilities(path: Path, cells: dict[str, list[Any]], ids: pd.Series | None) -> np.ndarray:
    """(rows, classes), rows summing to 1."""
    found = pd.DataFrame(cells).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    for bad, fault in (
        (~np.isfinite(found).all(1), "are not all numbers"),
        ((found < 0).any(1), "are negative in places"),
        (np.abs(found.sum(1) - 1) > SUM_TOLERANCE, "do not sum to 1"),
    ):
        if bad.any():
            row = int(bad.argmax())
            which = f"row {row + 1}" if ids is None else f"row {row + 1} (id {ids[row]})"
            raise InputError(
                f"{path}: the probabilities {', '.join(cells)} {fault} in {bad.sum():,} rows, {which} first, which has "
                f"{[column[row] for column in cells.values()]}; mend or remove these rows."
            )
    return found / found.sum(1, keepdims=True)


def _folds(path: Path, cells: list[Any], ids: pd.Series) -> np.ndarray:
    found = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(float)
    bad = ~(np.isfinite(found) & (found >= 0) & (found < 2**31) & (found == np.floor(found)))
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{path}: column fold, row {row + 1} (id {ids[row]}) holds {cells[row]!r} where the number of a fold is "
            "wanted; mend the column, or remove it."
        )
    return found.astype(np.int64)


def _log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-15)).mean())
