"""Nested subsets of the training rows, their sizes, and debug runs."""

import numpy as np
import pytest

from src_py.errors import InputError
from src_py.pairs import debug_line, debug_rows, file_name, log_spaced, nested_order


def test_every_beginning_is_stratified_and_contains_the_smaller_ones():
    labels = np.random.default_rng(0).choice(3, size=1000, p=[0.5, 0.3, 0.2])
    order = nested_order(labels, seed=1)
    assert sorted(order) == list(range(1000))
    shares = np.bincount(labels) / 1000
    for size in (10, 57, 400):
        counts = np.bincount(labels[order[:size]], minlength=3)
        assert np.abs(counts - shares * size).max() <= 1.5
    assert (nested_order(labels, seed=2) != order).any()


def test_rows_of_extra_files_come_after_all_own_rows():
    order = nested_order(np.zeros(30, int), seed=0, blocks=(10,))
    assert set(order[:10]) == set(range(10))


def test_a_debug_run_keeps_class_shares_and_every_test_row(pairs):
    train, test = debug_rows(pairs, pairs[:40], 60, seed=0)
    assert len(train) == 60
    assert len(test) == 40
    shares = pairs["label"].value_counts(normalize=True) * 60
    assert (train["label"].value_counts() - shares).abs().max() <= 1.5
    assert list(train["id"]) == [i for i in pairs["id"] if i in set(train["id"])]
    assert debug_rows(pairs, pairs, 0, seed=0)[0] is pairs
    assert len(debug_rows(pairs, pairs, 10_000, seed=0)[0]) == len(pairs)


def test_a_debug_run_is_marked_and_an_ordinary_one_is_not():
    assert file_name("submission.csv", 0) == "submission.csv"
    assert file_name("submission.csv", 2000) == "debug_submission.csv"
    assert debug_line(0, 57_477) == ""
    assert "DEBUG RUN on 2,000 of 57,477" in debug_line(2000, 57_477)


def test_sizes_are_equally_far_apart_on_a_log_axis():
    assert log_spaced(10_000, 0.01, 3) == (100, 1000, 10_000)
    with pytest.raises(InputError, match="smallest_share"):
        log_spaced(100, 1.5, 3)
