"""Folds that keep a prompt on one side and the class shares alike."""

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from src_py.data import prompt_key
from src_py.errors import InputError


def assign_folds(table: pd.DataFrame, n_folds: int, seed: int) -> np.ndarray:
    """Fold number of every row, int64 of shape (rows,): grouped by prompt, stratified by label.

    Raises:
        InputError: fewer than two classes, or fewer distinct prompts than folds.
    """
    groups = pd.factorize(prompt_key(table))[0]
    if table["label"].nunique() < 2:
        raise InputError(
            f"All {len(table)} training rows have label {table['label'].iloc[0]}: "
            "there is nothing to learn; check the label columns of the training file."
        )
    if n_folds < 2 or groups.max() + 1 < n_folds:
        raise InputError(
            f"CFG.n_folds is {n_folds}, but the training file has {groups.max() + 1} distinct prompts; "
            "use at least 2 folds and at most one a prompt."
        )
    return grouped_folds(table["label"].to_numpy(), groups, n_folds, seed)


def grouped_folds(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold number of every row, int64 of shape (rows,): rows of one group share a fold, class shares are alike."""
    folds = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(groups, labels, groups)):
        folds[rows] = fold
    return folds
