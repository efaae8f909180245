"""Folds: what they need, what they do with few rows, and the search for LightGBM's settings."""

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.tabular.folds import check_folds, fit_fold, search_options, split_for_stopping
from src_py.tabular.groups import GROUPS, Counted
from src_py.tabular.models import MODELS
from src_py.tabular.sides import Sides


def small(rows: int, prompts: np.ndarray) -> pd.DataFrame:
    """A table of a few words, with one empty answer."""
    table = pd.DataFrame({"prompt": [[f"question {i}"] for i in prompts]})
    table["response_a"] = [[f"word{i} word{i % 3} x"] for i in range(rows)]
    table["response_b"] = [["" if i == 1 else f"other{i} word{i % 2}"] for i in range(rows)]
    return table


def vectors(table: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(table), 3, 8)).astype(np.float32)


def test_two_folds_are_enough(data):
    rows = (data.counted, data.labels, data.prompts, data.fold_of % 2)
    result = fit_fold(*rows, 0, MODELS, 3, 0, sets={"length": ("length",)})
    for predicted in result.predictions.values():
        assert np.isfinite(predicted).all()


@pytest.mark.parametrize("rows", [4, 6, 12, 20])
@pytest.mark.parametrize("n_folds", [2, 5])
@pytest.mark.parametrize("kind", ["mixed", "a class with one row", "all but one tie", "prompts of three rows"])
def test_few_rows_either_work_or_are_refused_in_a_sentence(rows, n_folds, kind):
    rng = np.random.default_rng(rows)
    prompts = np.arange(rows) // (3 if kind == "prompts of three rows" else 1)
    labels = rng.integers(3, size=rows)
    if kind == "a class with one row":
        labels = np.minimum(labels, 1)
        labels[0] = 2
    elif kind == "all but one tie":
        labels = np.where(np.arange(rows) == 0, 0, 2)
    fold_of = rng.permutation(np.arange(prompts.max() + 1) % n_folds)[prompts]
    counted = Counted.of(small(rows, prompts), GROUPS, vectors)
    try:
        check_folds(labels, prompts, fold_of)
    except InputError:
        return
    result = fit_fold(counted, labels, prompts, fold_of, 0, MODELS, 3, 0, sets={"all": GROUPS})
    for predicted in result.predictions.values():
        assert predicted.shape == ((fold_of == 0).sum(), 3)
        np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-6)


def test_twelve_rows_with_five_folds_work():
    """Otherwise the test above could pass by refusing everything."""
    check_folds(np.arange(12) % 3, np.arange(12), np.arange(12) % 5)


@pytest.mark.parametrize(
    ("labels", "prompts", "fold_of", "message"),
    [
        ([0, 1] * 5, [0, 0, *range(1, 9)], [0, 1, 0, 1, 0, 1, 0, 1, 0, 1], "The same prompt lies in two folds"),
        ([0, 1] * 5, range(10), [0, 0, 2, 2, 0] * 2, "Fold 1 has no rows"),
        ([0, 1] * 3, range(6), [0, 1] * 3, "Only 3 prompts lie outside fold 0"),
        ([0, 1] * 5, range(10), [0, 1] * 5, "All rows outside fold 0 have the same label"),
    ],
)
def test_folds_that_cannot_be_judged_are_refused(labels, prompts, fold_of, message):
    with pytest.raises(InputError, match=message):
        check_folds(np.array(labels), np.array(prompts), np.array(fold_of))


def test_rows_to_stop_by_have_other_prompts_than_those_to_fit_on(data):
    number = data.prompts[:, None]  # as if it were a feature
    sides = {"prompt": Sides(number, number, number, ("number",), ("number",))}
    fit, stop = (part.sides["prompt"].a for part in split_for_stopping(sides, data.labels, data.prompts, 0))
    assert len(fit) + len(stop) == len(data.labels)
    assert 0.15 < len(stop) / len(data.labels) < 0.25
    assert not np.isin(fit, stop).any()


def test_one_prompt_is_too_little_to_stop_by():
    with pytest.raises(InputError, match="too few to fit on some and stop by others"):
        split_for_stopping({}, np.array([0, 1, 2]), np.zeros(3, int), 0)


def test_the_search_never_does_worse_than_the_defaults_on_its_own_rows(data):
    length = Counted({"length": data.counted.parts["length"]})
    options, trials = search_options(length, data.labels, data.prompts, 3, seed=0, minutes=0.02)
    assert trials[0].keys() == {"log loss", "rounds", "learning_rate"}
    best = min(trials, key=lambda trial: trial["log loss"])
    assert options == {name: value for name, value in best.items() if name not in ("log loss", "rounds")}
    assert best["log loss"] <= trials[0]["log loss"]
