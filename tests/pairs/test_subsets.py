"""Nested subsets of the training rows, their sizes, and rows of extra files."""

import numpy as np
import pytest

from src_py.errors import InputError
from src_py.pairs import add_rows, log_spaced, nested_order, prompt_key


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


def test_extra_rows_that_share_a_prompt_with_the_validation_rows_are_left_out_and_counted(pairs, capsys):
    extra = pairs.iloc[100:200]
    longer, ends = add_rows(pairs.iloc[:50], {"more.csv": extra}, without=pairs.iloc[190:])
    assert not set(prompt_key(longer.iloc[50:])) & set(prompt_key(pairs.iloc[190:]))
    assert ends == {"more.csv": len(longer)}
    assert f"{len(longer) - 50} rows added, {150 - len(longer)} left out" in capsys.readouterr().out


def test_sizes_are_equally_far_apart_on_a_log_axis():
    assert log_spaced(10_000, 0.01, 3) == (100, 1000, 10_000)
    with pytest.raises(InputError, match="smallest_share"):
        log_spaced(100, 1.5, 3)
