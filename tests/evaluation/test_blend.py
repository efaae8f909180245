"""Weighted means of predictions: the weights find the better member, and never come from what they are judged by."""

import numpy as np
import pytest

from src_py.evaluation.blend import cross_fitted, fit_weights, mix


def loss(probabilities, labels) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


@pytest.fixture
def members():
    """Predictions that know nothing, predictions that know something, and the labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=800)
    good = np.full((800, 3), 0.25)
    good[np.arange(800), labels] = 0.5
    return rng.dirichlet(np.ones(3) * 5, size=800), good, labels


def test_weights_find_the_better_member_and_are_no_worse_than_any(members):
    useless, good, labels = members
    weights = fit_weights([useless, good], labels)
    assert weights[1] > 0.9
    assert abs(weights.sum() - 1) < 1e-9
    assert loss(mix([useless, good], weights), labels) <= loss(good, labels) + 1e-6
    folds = np.arange(800) % 5
    assert loss(cross_fitted([useless, good], labels, folds), labels) < loss(useless, labels)


def test_weights_of_very_many_equal_members_still_sum_to_one(members):
    _, good, labels = members
    assert fit_weights([good] * 150, labels).sum() == pytest.approx(1)


def test_rows_without_predictions_are_an_error_and_not_nan(members):
    useless, good, labels = members
    good[3] = np.nan
    with pytest.raises(ValueError, match="predictions for every row"):
        fit_weights([useless, good], labels)
    with pytest.raises(ValueError, match="predictions for every row"):
        fit_weights([useless[:0]], labels[:0])


def test_one_part_alone_cannot_be_cross_fitted(members):
    useless, good, labels = members
    with pytest.raises(ValueError, match="all rows lie in one"):
        cross_fitted([useless, good], labels, np.zeros(800, int))
