"""Which rows to train on: folds that keep a prompt, a topic or a length on one side, and nested subsets."""

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from src_py.config import Settings, check_choice, setting
from src_py.errors import InputError
from src_py.kaggle.page import say
from src_py.pairs.load import prompt_key
from src_py.pairs.topics import topic_count, topic_of

SPLITS = ("prompt", "topic", "length")


@dataclass(frozen=True)
class CrossValidation(Settings):
    """How rows are held out: each of `n_folds` is the validation fold in turn; `temperature` calibrates on them.

    `split` is what a fold holds out: "prompt" random prompts, "topic" whole clusters of similar prompts, "length" a
    range of answer lengths. The last two ask what the model does with rows unlike those it has learned from.
    """

    n_folds: int = setting(5, least=2, most=100)
    temperature: bool = setting(True)
    split: str = setting("prompt", choices=SPLITS)


@dataclass(frozen=True)
class Validation(CrossValidation):
    """How rows are held out when only the `folds` named are validation folds in turn; `trivial_prior` predicts empty
    and identical answers by the class shares of their kind.

    Raises:
        InputError: when `folds` does not name some of the folds, each once.
    """

    folds: tuple[int, ...] = setting((0,), least=0)
    trivial_prior: bool = setting(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folds or len(set(self.folds)) < len(self.folds) or not set(self.folds) <= set(range(self.n_folds)):
            raise InputError(f"CFG.folds is {list(self.folds)}; use some of 0 to {self.n_folds - 1}, each once.")


def assign_folds(table: pd.DataFrame, n_folds: int, seed: int, split: str = "prompt") -> np.ndarray:
    """Fold number of every row, int64 of shape (rows,). Rows with equal prompts share a fold, whatever the split.

    Args:
        split: "prompt": prompts at random, stratified by label. "topic": whole clusters from `topic_of`, stratified as
            far as they allow. "length": ranges of the mean length of a prompt's answers, in characters, with equally
            many rows; fold 0 has the shortest answers.

    Raises:
        InputError: fewer than two classes, fewer distinct prompts (or topics) than folds, or no class with a row for
            every fold.
    """
    check_choice("split", split, SPLITS)
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
    sizes = table["label"].value_counts()
    if sizes.max() < n_folds:
        raise InputError(
            f"CFG.n_folds is {n_folds}, but no class has more than {sizes.max()} of the {len(table)} training rows; "
            "use fewer folds or more rows, so that every fold has each class."
        )
    for label, size in sizes[sizes < n_folds].items():
        say(f"Class {label} has {size} rows, fewer than CFG.n_folds = {n_folds}: some folds are without it.")
    if split == "length":
        return _length_folds(table, groups, n_folds)
    if split == "topic":
        topics = topic_count(groups.max() + 1)
        if topics < n_folds:
            raise InputError(
                f"CFG.n_folds is {n_folds}, but {groups.max() + 1} distinct prompts make only {topics} topics; use "
                "fewer folds, or CFG.split = 'prompt'."
            )
        groups = topic_of(table, seed, topics)
    return grouped_folds(table["label"].to_numpy(), groups, n_folds, seed)


def _length_folds(table: pd.DataFrame, groups: np.ndarray, n_folds: int) -> np.ndarray:
    lengths = sum(table[side].map(lambda turns: sum(map(len, turns))) for side in ("response_a", "response_b"))
    prompts = pd.DataFrame({"prompt": groups, "length": lengths}).groupby("prompt")["length"].agg(["mean", "size"])
    prompts = prompts.sort_values("mean", kind="stable")
    middle = prompts["size"].cumsum() - prompts["size"] / 2  # the row in the middle of each prompt's rows
    fold_of_prompt = (middle * n_folds / len(table)).astype(np.int64)
    return fold_of_prompt.loc[groups].to_numpy()


def grouped_folds(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold number of every row, int64 of shape (rows,): rows of one group share a fold, class shares are alike."""
    folds = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # `assign_folds` says it in our words
        for fold, (_, rows) in enumerate(splitter.split(groups, labels, groups)):
            folds[rows] = fold
    return folds


def nested_order(labels: np.ndarray, seed: int, blocks: tuple[int, ...] = ()) -> np.ndarray:
    """An order of the rows of which every beginning is a stratified subset, and so contains all smaller ones.

    Args:
        labels: (rows,) class numbers.
        blocks: row numbers at which a new block begins (extra files); blocks stay in order.

    Returns:
        (rows,) row numbers. Each class is shuffled and spread evenly, so that the first n rows of a block hold each
        class within one row of its share.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    edges = [0, *blocks, len(labels)]
    parts = []
    for start, stop in itertools.pairwise(edges):
        block = labels[start:stop]
        place = np.empty(len(block))
        for label in np.unique(block):
            rows = rng.permutation(np.flatnonzero(block == label))
            place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
        parts.append(start + np.argsort(place, kind="stable"))
    return np.concatenate(parts)


def log_spaced(rows: int, smallest_share: float, count: int) -> tuple[int, ...]:
    """`count` sizes from `smallest_share` of `rows` up to all of them, equally far apart on a log axis.

    Raises:
        InputError: for a share outside (0, 1), or fewer than two sizes.
    """
    if not 0 < smallest_share < 1 or count < 2:
        raise InputError("CFG.smallest_share must be in (0, 1) and CFG.n_sizes at least 2.")
    return tuple(sorted({max(1, round(size)) for size in np.geomspace(rows * smallest_share, rows, count)}))


def debug_rows(train: pd.DataFrame, test: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of a debug run: `rows` training rows, stratified by label and in their order (0: all), and all test
    rows, because each must be answered."""
    if rows:
        train = train.iloc[np.sort(nested_order(train["label"], seed)[:rows])].reset_index(drop=True)
    return train, test


def file_name(name: str, rows: int) -> str:
    """How a run calls a file of results. In a debug run it begins with "debug_": Kaggle does not take such a
    submission, and no other run reads such a file as a real one."""
    return f"debug_{name}" if rows else name


def debug_line(rows: int, total: int) -> str:
    """What a debug run says beside each of its scores; "" for a run on all rows.

    Args:
        rows: CFG.rows.
        total: training rows that the contest has.
    """
    if not rows:
        return ""
    return (
        f"DEBUG RUN on {min(rows, total):,} of {total:,} training rows: do not submit or compare its scores. "
        "Set CFG.rows = 0 for a real run."
    )
