"""The check for leaks: innocent pipelines pass whatever their size, leaks of many kinds are found and stop the run."""

import numpy as np
import pytest

from src_py.errors import InputError
from src_py.tabular.folds import fit_fold
from src_py.tabular.groups import GROUPS, Counted, group_sets
from src_py.tabular.leaks import leak_table, stop_on_leak


def innocent(rows: int, seed: int) -> tuple[dict, np.ndarray]:
    """Predictions of five sets, as scattered as those of an overfitted model, and labels that know nothing of them."""
    rng = np.random.default_rng(seed)
    sets = {(name, "logistic"): rng.dirichlet(np.ones(3) * 3, size=rows) for name in "abcde"}
    return sets, rng.integers(3, size=rows)


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 600])
def test_pipelines_without_a_leak_pass_whatever_their_size(rows):
    for seed in range(6):
        stop_on_leak(leak_table(*innocent(rows, seed), seed=seed))


def test_no_group_is_called_a_leak_on_shuffled_labels(data, capsys):
    shuffled = np.random.default_rng(1).permutation(data.labels)
    rows = (data.counted, shuffled, data.prompts, data.fold_of)
    checked = fit_fold(*rows, 0, ("logistic",), 3, 0)
    table = leak_table(checked.predictions, shuffled[data.fold_of == 0])
    assert [key[0] for key in table.index] == list(group_sets(GROUPS))
    stop_on_leak(table)
    assert "No leak" in capsys.readouterr().out


def test_a_small_leak_that_a_fixed_limit_would_miss_is_found():
    """Half a percent of the log loss of a thousand rows: below the 0.02 that used to be the limit."""
    sets, labels = innocent(1000, 0)
    flat = np.full((1000, 3), 1 / 3)
    flat[np.arange(1000), labels] += np.where(np.arange(1000) % 20 == 0, 0.2, 0.0)
    sets["b", "logistic"] = flat / flat.sum(1, keepdims=True)
    table = leak_table(sets, labels)
    gain = (table["by chance"] - table["on shuffled labels"])["b", "logistic"]
    assert 0 < gain < 0.02
    with pytest.raises(InputError, match="LEAK: with shuffled labels, b/logistic still predict"):
        stop_on_leak(table)


def test_features_that_have_seen_the_held_out_labels_stop_the_run(data, capsys):
    """As if an edit had fitted the words' scores on all rows."""
    shuffled = np.random.default_rng(0).permutation(data.labels)
    counted = Counted({"length": data.counted.parts["length"]})
    sides = counted.parts["length"]
    sides.a[:, 0] += shuffled == 0
    try:
        checked = fit_fold(counted, shuffled, data.prompts, data.fold_of, 0, ("logistic",), 3, 0)
    finally:
        sides.a[:, 0] -= shuffled == 0
    table = leak_table(checked.predictions, shuffled[data.fold_of == 0])
    with pytest.raises(InputError, match="length/logistic"):
        stop_on_leak(table)
    stop_on_leak(table, stop=False)
    assert capsys.readouterr().out.startswith("LEAK")
