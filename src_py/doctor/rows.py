"""Read the rows of a dataset, whatever its kind: columns, a list, a torch dataset, a stream, or a dict of them."""

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np

from src_py.errors import InputError

LABEL_NAMES = ("labels", "label", "label_ids")


class CannotRead(Exception):
    """Rows that cannot be read without changing them; the message says why."""


def first_set(dataset):
    """The dataset itself, or the first of a dict of evaluation sets."""
    # A DatasetDict is a dict too; one dataset that holds columns is not.
    return next(iter(dataset.values()), None) if isinstance(dataset, dict) else dataset


def row_count(dataset) -> int | None:
    """Rows of a dataset; None for a stream."""
    try:
        return len(dataset)
    except TypeError:
        return None


def take(dataset, count: int, seed: int | None = None) -> list:
    """Up to `count` rows: random ones, the first where `seed` is None or the dataset is a stream.

    Raises:
        CannotRead: for a stream that can be read only once.
        InputError: when there is no dataset.
    """
    if dataset is None:
        raise InputError("The Trainer has no training rows; pass train_dataset.")
    rows = row_count(dataset)
    if rows is not None and hasattr(dataset, "__getitem__"):
        return [dataset[int(i)] for i in positions(rows, count, seed)]
    inside = getattr(dataset, "__dict__", {}).values()
    if hasattr(dataset, "__next__") or any(hasattr(thing, "__next__") for thing in inside):
        raise CannotRead("the stream can be read only once")
    return list(islice(dataset, count))


def positions(rows: int, count: int, seed: int | None = None) -> np.ndarray:
    """Which rows of a dataset of so many `take` returns."""
    order = np.arange(rows) if seed is None else np.random.default_rng(seed).permutation(rows)
    return order[:count]


def column(dataset, names: Iterable[str], most: int) -> np.ndarray | None:
    """A column of the first `most` rows by the first of its `names` that the rows have; None if they have none, or
    values of different lengths.

    Raises:
        CannotRead: for a stream that can be read only once.
    """
    known = getattr(dataset, "column_names", None)  # None for a stream of unknown features
    if known is not None and row_count(dataset) is not None:
        name = next((n for n in names if n in known), None)
        # As it is stored: a transform may need the other columns, and decode images.
        stored = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
        return None if name is None else _array(list(stored[name][:most]))
    rows = take(dataset, most)
    if not rows or not isinstance(rows[0], dict):
        return None
    name = next((n for n in names if n in rows[0]), None)
    return None if name is None else _array([row[name] for row in rows])


def _array(values: list) -> np.ndarray | None:
    try:
        return np.asarray(values)
    except ValueError:  # lists of different lengths
        return None


def token_ids(row) -> list[list[int]] | None:
    """Token ids of a row without its padding: two sequences for pairwise, one otherwise; None if it holds none."""
    if not isinstance(row, dict):
        return None
    if "sequences" in row:
        return [list(ids) for ids in row["sequences"]]
    if "input_ids" not in row:
        return None
    return unpadded(row["input_ids"], row.get("attention_mask"))


def ids_of(rows: list, collate: Callable) -> list[list[list[int]]]:
    """Token ids of rows without padding; what holds none is tokenised by the collator.

    Raises:
        CannotRead: when the collator gives no `input_ids` either.
    """
    known = [ids for row in rows if (ids := token_ids(row)) is not None]
    if rows and len(known) == len(rows):
        return known
    found = [ids for at in range(0, len(rows), 16) for ids in _collated_ids(collate(rows[at : at + 16]))]
    if len(found) == len(rows):
        return found
    # More or fewer texts than rows (chosen and rejected ones, packed ones): the batch does not say whose they are.
    return [[ids for part in _collated_ids(collate([row])) for ids in part] for row in rows]


def _collated_ids(batch) -> list[list[list[int]]]:
    if "input_ids" not in batch:
        raise CannotRead("the batches have no input_ids: no text")
    masks = batch.get("attention_mask")
    masks = [None if masks is None else masks[i].cpu() for i in range(len(batch["input_ids"]))]
    return [unpadded(row.cpu(), mask) for row, mask in zip(batch["input_ids"], masks)]


def unpadded(ids, mask=None) -> list[list[int]]:
    """Sequences of (tokens,), (sequences, tokens) or lists of different lengths, without places where `mask` is 0."""
    if isinstance(ids, list) and ids and isinstance(ids[0], (list, tuple)):  # choices, chunks: not yet padded
        masks = [None] * len(ids) if mask is None else mask
        return [sequence for one, its in zip(ids, masks) for sequence in unpadded(one, its)]
    ids = np.atleast_2d(np.asarray(ids))
    mask = np.ones(ids.shape, bool) if mask is None else np.atleast_2d(np.asarray(mask)).astype(bool)
    return [sequence[keep].tolist() for sequence, keep in zip(ids, mask)]
