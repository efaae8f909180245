"""The rows to train on, and two kinds of validation rows: like the training rows, and unlike them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.config import check_choice
from src_py.errors import InputError
from src_py.pairs.audit import add_extra
from src_py.pairs.extra import ExtraFile
from src_py.pairs.load import prompt_key
from src_py.pairs.split import assign_folds, nested_order
from src_py.pairs.topics import topic_of

HOLDOUTS = ("none", "topic", "length")
TOPICS = 10
SHARE, MOST = 0.15, 0.3  # of all rows: held out at least, as far as topics allow, and at most


class Rows(NamedTuple):
    """Attributes:
    train: rows to take subsets of.
    valid: the rows that every trial predicts.
    unseen: (rows of `valid`,) which of them are of a kind that was held out; None when none was.
    held: (all rows,) which may not be trained on.
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    unseen: np.ndarray | None
    held: np.ndarray


def split_rows(table: pd.DataFrame, n_folds: int, valid_rows: int, holdout: str, seed: int) -> Rows:
    """Hold out whole topics or the longest answers, and of the rest the first fold of a split by prompt.

    Args:
        valid_rows: of the fold, and of the rows held out as a group, at most.
        holdout: "none", "topic" or "length".

    Raises:
        InputError: as `assign_folds` and `hold_out`.
    """
    apart = hold_out(table, holdout, seed)
    rest = table[~apart]
    fold_of = assign_folds(rest, n_folds, seed)
    parts = [_some(rest[fold_of == 0], valid_rows, seed)]
    if holdout != "none":
        parts.append(_some(table[apart], valid_rows, seed))
    held = apart.copy()
    held[~apart] = fold_of == 0
    unseen = np.repeat([False, True], [len(parts[0]), sum(map(len, parts[1:]))])
    return Rows(
        rest[fold_of != 0].reset_index(drop=True),
        pd.concat(parts, ignore_index=True),
        None if holdout == "none" else unseen,
        held,
    )


def add_files(
    train: pd.DataFrame, files: Sequence[ExtraFile], without: pd.DataFrame, apart: bool, rows: int = 0, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, int], dict[str, pd.DataFrame]]:
    """Add the rows of further files: pseudo-labelled ones for the arms that ask for them, labelled ones also or at the
    end of the training rows.

    Args:
        files: from `audit_extra`; without, rows, seed: as in `add_extra`.
        apart: labelled ones, too, are only for the arms that ask for them.

    Returns:
        The training rows, for each file at their end its last row (as `add_extra`), and what `Problem.added` takes.
    """
    kinds = {"extra": [file for file in files if not file.pseudo], "pseudo": [file for file in files if file.pseudo]}
    at_end = [] if apart else kinds.pop("extra")
    added = {need: add_extra(train[:0], some, without, rows, seed)[0] for need, some in kinds.items() if some}
    return *add_extra(train, at_end, without, rows, seed), added


def hold_out(table: pd.DataFrame, holdout: str, seed: int) -> np.ndarray:
    """(rows,) which rows are held out as a group, about 15 % of them; rows of one prompt stay together.

    "topic" draws whole clusters of prompts; "length" takes the prompts with the longest answers.

    Raises:
        InputError: when the prompts fall into no two topics of which one is small enough.
    """
    check_choice("holdout", holdout, HOLDOUTS)
    if holdout == "none":
        return np.zeros(len(table), dtype=bool)
    prompts = pd.factorize(prompt_key(table))[0]
    if holdout == "topic":
        kinds = topic_of(table, seed, TOPICS)
        order = np.random.default_rng(seed).permutation(np.unique(kinds))
    else:
        answers = table["response_a"] + table["response_b"]
        lengths = answers.map(lambda turns: sum(map(len, turns))).groupby(prompts).mean()
        kinds, order = prompts, lengths.sort_values(ascending=False, kind="stable").index.to_numpy()
    sizes, chosen, rows = np.bincount(kinds), [], 0
    for kind in order:
        if rows < SHARE * len(table) and rows + sizes[kind] <= MOST * len(table):
            chosen.append(kind)
            rows += sizes[kind]
    if not chosen:
        raise InputError(
            f"CFG.holdout is {holdout!r}, but every group of prompts has more than {MOST:.0%} of the {len(table)} "
            "rows; set CFG.holdout = 'none'."
        )
    return np.isin(prompts, prompts[np.isin(kinds, chosen)])


def _some(rows: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """At most so many rows, stratified by label."""
    return rows.iloc[nested_order(rows["label"], seed)[:most]]
