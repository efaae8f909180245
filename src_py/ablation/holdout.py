"""The rows to train on, and two kinds of validation rows: like the training rows, and unlike them."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.config import check_choice
from src_py.errors import InputError
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
    held: all rows that may not be trained on.
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    unseen: np.ndarray | None
    held: pd.DataFrame


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
    unseen = np.repeat([False, True], [len(parts[0]), sum(map(len, parts[1:]))])
    return Rows(
        rest[fold_of != 0].reset_index(drop=True),
        pd.concat(parts, ignore_index=True),
        None if holdout == "none" else unseen,
        pd.concat([rest[fold_of == 0], table[apart]]),
    )


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
