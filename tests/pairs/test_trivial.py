"""Equal and empty answers."""

import json

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.pairs.load import swap_sides
from src_py.pairs.trivial import KINDS, apply_trivial, check_priors, fit_trivial, judge_trivial, trivial_kinds

PAIRS = [(["one"], ["two"]), (["a  b\n"], ["a", "b"]), ([" "], ["x"]), (["x"], [""]), ([""], ["", "\n"])]


@pytest.fixture
def table() -> pd.DataFrame:
    """200 rows of the five kinds; an empty answer loses, equal ones tie, ordinary ones are anything."""
    rng = np.random.default_rng(0)
    rows = [PAIRS[i % 5] for i in range(200)]
    labels = [int(rng.integers(0, 3)) if i % 5 == 0 else {1: 2, 2: 1, 3: 0, 4: 2}[i % 5] for i in range(200)]
    a, b = zip(*rows)
    return pd.DataFrame({"prompt": [["p"]] * 200, "response_a": a, "response_b": b, "label": labels})


def test_kinds_fold_white_space(table):
    assert trivial_kinds(table)[:5].tolist() == ["", "identical", "a empty", "b empty", "both empty"]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_priors_mirror_and_are_plain(table, n_classes):
    table["label"] = table["label"].clip(upper=n_classes - 1)
    priors = fit_trivial(table, n_classes)
    assert json.loads(json.dumps(priors)) == priors
    check_priors(priors, n_classes)
    assert priors["a empty"][:2] == priors["b empty"][1::-1]
    assert priors["a empty"][1] > 0.8
    for kind in ("identical", "both empty"):
        assert priors[kind][0] == priors[kind][1]
    said = np.full((200, n_classes), 1 / n_classes)
    there, back = (apply_trivial(said, rows, priors) for rows in (table, swap_sides(table)))
    np.testing.assert_array_equal(there[:, :2], back[:, 1::-1])
    np.testing.assert_array_equal(there[trivial_kinds(table) == ""], said[trivial_kinds(table) == ""])


def test_a_kind_without_rows_has_the_overall_shares(table):
    ordinary = table[trivial_kinds(table) == ""]
    priors = fit_trivial(ordinary, 3)
    assert len({tuple(np.round(priors[kind], 12)) for kind in KINDS}) == 1
    counts = np.bincount(ordinary["label"], minlength=3) + 1
    assert priors["identical"][2] == pytest.approx(counts[2] / counts.sum())


def test_the_prior_is_judged_on_folds_it_has_not_seen(table):
    said = np.full((200, 3), 1 / 3)
    judged = judge_trivial(said, table, np.arange(200) % 4, 3)
    assert judged.loc["identical", "rows"] == 40
    assert judged.loc["all trivial", "rows"] == 160
    assert judged.loc["all trivial", "prior"] < 0.3 < judged.loc["all trivial", "model"]
    # Labels of one fold that are all wrong must not be known to the prior of that fold.
    strange = table.assign(label=np.where(np.arange(200) < 100, table["label"], 1))
    half = judge_trivial(said, strange, (np.arange(200) >= 100).astype(int), 3)
    assert half.loc["identical", "prior"] > 1.5
    said[:100] = np.nan
    assert judge_trivial(said, table, np.arange(200) % 4, 3).loc["all trivial", "rows"] == 80


def test_rows_without_trivial_pairs_are_an_empty_table(table):
    ordinary = table[trivial_kinds(table) == ""]
    assert judge_trivial(np.full((40, 3), 1 / 3), ordinary, np.arange(40) % 2, 3).empty


@pytest.mark.parametrize(
    "priors",
    [
        {},
        {kind: [0.5, 0.5] for kind in KINDS},
        {kind: [0.5, 0.4, 0.3] for kind in KINDS},
        {kind: [0.5, float("nan"), 0.5] for kind in KINDS},
        {kind: ["a", "b", "c"] for kind in KINDS},
        dict.fromkeys(KINDS),
    ],
)
def test_damaged_priors_are_refused(table, priors):
    with pytest.raises(InputError, match="The prior of"):
        apply_trivial(np.full((200, 3), 1 / 3), table, priors)


def test_a_prior_needs_rows_and_two_folds(table):
    with pytest.raises(InputError, match="needs labelled rows"):
        fit_trivial(table.iloc[:0], 3)
    with pytest.raises(InputError, match="all rows lie in one"):
        judge_trivial(np.full((200, 3), 1 / 3), table, np.zeros(200), 3)
