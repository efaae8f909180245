"""The verdict where the class shares of training and validation rows differ: knowing these is not learning."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from src_py.doctor import judge_training
from src_py.evaluation.baselines import at_shares_of, class_shares, length_only
from src_py.evaluation.calibration import fit_calibration
from src_py.evaluation.metrics import score

SKEWED, EVEN = np.array([0.5, 0.3, 0.2]), np.full(3, 1 / 3)


def rows(count: int, shares, seed: int, texts: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"label": rng.choice(3, count, p=shares)})
    if texts:
        for name in ("prompt", "response_a", "response_b"):
            table[name] = [["x" * size] for size in rng.integers(50, 1500, count)]
    return table


def noisy(shares, count: int, noise: float, seed: int = 0) -> np.ndarray:
    return softmax(np.log(shares) + noise * np.random.default_rng(seed).normal(size=(count, 3)), axis=1)


def reader(labels, shares, skill: float) -> np.ndarray:
    """Probabilities that know of the labels, beside the class shares."""
    known = skill * np.eye(3)[labels] + np.random.default_rng(1).normal(size=(len(labels), 3))
    return softmax(np.log(shares) + skill * known, axis=1)


@pytest.mark.parametrize("valid_shares", [EVEN, SKEWED[::-1], SKEWED, [1.0, 0.0, 0.0]])
@pytest.mark.parametrize("predicted", [EVEN, SKEWED, [0.6, 0.3, 0.1]])
def test_one_prediction_for_all_rows_is_a_constant_predictor_whatever_the_shares(valid_shares, predicted):
    train, valid = rows(1000, SKEWED, 1), rows(300, valid_shares, 2)
    verdict = judge_training(train, valid, np.tile(predicted, (300, 1)))
    assert verdict.name == "constant predictor"
    if verdict.over_constant[0] > 0:
        assert "with the class shares of the validation rows, a constant predictor has" in verdict.sentence


@pytest.mark.parametrize(("noise", "seed"), [(0.01, 0), (0.01, 1), (0.1, 2)])
def test_the_class_shares_of_the_validation_rows_and_noise_are_not_learned(noise, seed):
    """As a calibration that was fitted on the same rows leaves a model that knows nothing."""
    train, valid = rows(2000, SKEWED, 3 + seed, texts=True), rows(600, EVEN, 4 + seed, texts=True)
    predicted = noisy(class_shares(valid["label"], 3), 600, noise, seed)
    verdict = judge_training(train, valid, predicted)
    assert verdict.over_constant[0] > 0.01, "the trap: it is far better than the training rows' shares"
    assert verdict.name in ("constant predictor", "not enough rows to tell")


@pytest.mark.parametrize("shares", [SKEWED, EVEN])
def test_a_model_that_reads_has_learned_with_the_shares_of_its_training_rows_or_with_those_of_validation(shares):
    train, valid = rows(2000, SKEWED, 5, texts=True), rows(600, EVEN, 6, texts=True)
    assert judge_training(train, valid, reader(valid["label"], shares, 0.6)).name == "learned"


def test_lengths_and_the_class_shares_of_the_validation_rows_are_little_more_than_lengths():
    """The regression on lengths has the training rows' shares: these alone must not make a model better than it."""
    rng = np.random.default_rng(7)
    tables = []
    for count, shares in ((2000, SKEWED), (800, EVEN)):
        table = rows(count, shares, count, texts=True)
        sizes = 200 + 600 * (table["label"] == 0) + rng.integers(0, 900, count)  # longer answers win more often
        tables.append(table.assign(response_a=[["x" * size] for size in sizes]))
    train, valid = tables
    predicted = at_shares_of(valid["label"].to_numpy(), length_only(train, valid, 3))
    verdict = judge_training(train, valid, predicted)
    assert verdict.over_length[0] > 0.005, "the trap"
    assert verdict.name == "learned little more than answer length"


def test_validation_rows_of_one_class_say_nothing_of_a_model_that_tells_rows_apart():
    train, valid = rows(1000, EVEN, 8), rows(300, [1.0, 0.0, 0.0], 9)
    verdict = judge_training(train, valid, noisy(EVEN, 300, 0.5))
    assert verdict.name == "not enough rows to tell"
    assert "all validation rows have the same label" in verdict.sentence


def test_shifted_probabilities_have_the_shares_of_the_labels_and_keep_what_they_know_of_a_row():
    labels = rows(500, EVEN, 10)["label"].to_numpy()
    given = reader(labels, SKEWED, 0.5)
    shifted = at_shares_of(labels, given)
    np.testing.assert_allclose(shifted.mean(0), class_shares(labels, 3), atol=1e-5)
    moved = np.log(shifted) - np.log(given)
    moved -= moved[:, :1]  # what is the same for all classes is the norm of the row
    np.testing.assert_allclose(moved, np.tile(moved[0], (500, 1)), atol=1e-9)


def test_a_model_whose_calibration_helped_much_is_what_was_evaluated():
    """Training reports the loss before calibration; the answers are the same."""
    labels = rows(1000, EVEN, 11)["label"].to_numpy()
    sure = reader(labels, EVEN, 0.6) ** 5
    sure /= sure.sum(1, keepdims=True)
    reported, accuracy = score(labels, sure).values()
    calibrated = fit_calibration(sure, labels, {}, np.arange(1000)).calibration.apply(sure)
    history = pd.DataFrame({"log loss": [reported], "training loss": [0.9], "accuracy": [accuracy]})
    verdict = judge_training(rows(1000, EVEN, 12), pd.DataFrame({"label": labels}), calibrated, None, history)
    assert reported - verdict.model > 0.4, "the trap"
    assert verdict.name == "learned"
    # Labels of other rows, evaluated with these predictions, are another matter: fewer answers were right.
    other = history.assign(accuracy=accuracy - 0.15)
    told = judge_training(rows(1000, EVEN, 12), pd.DataFrame({"label": labels}), calibrated, None, other)
    assert told.name == "not what was evaluated"


def test_predictions_that_are_not_finite_are_unstable_whatever_else_is_wrong():
    train, valid = rows(500, [0.5, 0.5, 0.0], 13), rows(200, EVEN, 14)
    predicted = np.full((200, 3), 1 / 3)
    predicted[3] = np.nan
    verdict = judge_training(train, valid, predicted)
    assert verdict.name == "unstable"
    assert "1 of 200 predictions are NaN or infinite" in verdict.sentence
