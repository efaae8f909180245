"""Calibration that travels, the table by group and its picture."""

import numpy as np
import pytest
from scipy.special import softmax

from src_py.errors import InputError
from src_py.evaluation.calibration import Calibration, fit_calibration
from src_py.evaluation.metrics import apply_temperature, fit_temperature, score
from src_py.evaluation.report import group_table, plot_groups


def simulate(rng, rows: int, temperature=1.0, tie_shift: float = 0.0, classes: int = 3):
    """Labels, and what a model says that is over-certain by `temperature`, one for all rows or one a row."""
    logits = rng.normal(size=(rows, classes))
    labels = (rng.random((rows, 1)) > softmax(logits, axis=1).cumsum(1)[:, :-1]).sum(1)
    said = logits * np.reshape(temperature, (-1, 1))
    said[:, 2:] -= tie_shift
    return softmax(said, axis=1), labels


def log_loss(probabilities, labels) -> float:
    return score(labels, probabilities)["log_loss"]


@pytest.mark.parametrize("seed", range(3))
def test_a_temperature_with_equal_weights_travels_to_an_over_certain_group(seed):
    rng = np.random.default_rng(seed)
    source = np.repeat(["large", "b", "c", "d"], [1000, 150, 150, 150])
    said, labels = simulate(rng, len(source), np.where(source == "large", 1.0, 4.0))
    choice = fit_calibration(said, labels, {"source": source}, np.arange(len(source)))
    pooled = choice.table["temperature"]["temperature"]
    new, truth = simulate(rng, 1000, 4.0)
    assert log_loss(choice.calibration.apply(new), truth) < log_loss(apply_temperature(new, pooled), truth) - 0.02
    assert "equal weight by source" in choice.reason


def test_calibrated_predictions_stay_as_they_are_and_the_simplest_wins_on_noise():
    chosen = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        said, labels = simulate(rng, 400)
        groups = {"a": rng.integers(0, 4, 400), "b": rng.integers(0, 3, 400)}
        choice = fit_calibration(said, labels, groups, np.arange(400))
        chosen.append(choice.calibration == Calibration())
        if chosen[-1]:
            assert choice.reason.startswith("No calibration: on left-out groups by a, b")
            assert choice.calibration.apply(said) is said
        assert 0.75 < choice.calibration.temperature < 1.33
    assert sum(chosen) >= 9


def test_the_tie_shift_is_found_where_every_group_has_it_and_not_for_two_classes():
    rng = np.random.default_rng(0)
    groups = {"source": np.arange(2000) % 4}
    said, labels = simulate(rng, 2000, 2.0, tie_shift=1.0)
    calibration = fit_calibration(said, labels, groups, np.arange(2000)).calibration
    assert calibration.temperature == pytest.approx(2, rel=0.15)
    assert calibration.tie_shift == pytest.approx(0.5, abs=0.2)  # undoes the 1.0 that was divided by T
    said, labels = simulate(rng, 2000, 2.0, classes=2)
    choice = fit_calibration(said, labels, groups, np.arange(2000))
    assert choice.calibration.tie_shift == 0
    assert choice.calibration.temperature == pytest.approx(2, rel=0.2)
    assert "temperature and tie shift" not in choice.table.index
    with pytest.raises(ValueError, match="two classes"):
        Calibration(1.0, 0.5).apply(said)


def test_a_swap_of_the_answers_stays_a_swap():
    said, _ = simulate(np.random.default_rng(0), 200, 3.0)
    calibration = Calibration(1.7, -0.4)
    swapped = calibration.apply(said[:, [1, 0, 2]])
    np.testing.assert_allclose(swapped, calibration.apply(said)[:, [1, 0, 2]], atol=1e-15)
    np.testing.assert_allclose(swapped.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(Calibration(1.7).apply(said), apply_temperature(said, 1.7), atol=1e-12)


def test_without_groups_fifths_of_the_prompts_are_left_out():
    said, labels = simulate(np.random.default_rng(0), 500, 3.0)
    choice = fit_calibration(said, labels, {"one": np.zeros(500)}, [f"prompt {i // 2}" for i in range(500)])
    assert choice.calibration.temperature == pytest.approx(3, rel=0.25)
    assert "fifths of the prompts" in choice.reason


def test_a_group_is_scored_with_what_was_fitted_on_the_others():
    half = np.arange(400) % 2
    said, labels = simulate(np.random.default_rng(0), 400, np.where(half == 0, 1.0, 4.0))
    table = fit_calibration(said, labels, {"half": half}, np.arange(400)).table
    by_hand = []
    for held in (0, 1):
        temperature = fit_temperature(said[half != held], labels[half != held])
        by_hand.append(log_loss(apply_temperature(said[half == held], temperature), labels[half == held]))
    assert table["log loss"]["temperature"] == pytest.approx(np.mean(by_hand), abs=0.01)


def test_a_grouping_that_is_almost_one_group_is_not_used():
    said, labels = simulate(np.random.default_rng(0), 500, 3.0)
    turns = np.where(np.arange(500) < 20, "several", "one")
    choice = fit_calibration(said, labels, {"turns": turns, "half": np.arange(500) % 2}, np.arange(500))
    assert "groups by half " in choice.reason


def test_predictions_that_are_all_right_do_not_break_the_bounds():
    labels = np.arange(60) % 3
    said = np.where(np.eye(3)[labels] == 1, 0.8, 0.1)
    calibration = fit_calibration(said, labels, {"g": np.arange(60) % 2}, np.arange(60)).calibration
    assert 0.08 < calibration.temperature < 1
    always_wrong = fit_calibration(said[:, [1, 2, 0]], labels, {}, np.arange(60))
    assert 1 < always_wrong.calibration.temperature < 20
    certain = fit_calibration(np.eye(3)[labels], labels, {}, np.arange(60))
    assert certain.calibration == Calibration()


def test_what_cannot_be_fitted_is_said():
    said, labels = simulate(np.random.default_rng(0), 60, 3.0)
    few = fit_calibration(said[:49], labels[:49], {}, np.arange(49))
    assert few.calibration == Calibration()
    assert few.reason == "No calibration: 49 rows are too few to fit a calibration (fewer than 50)."
    assert "all 60 rows have label 1" in fit_calibration(said, np.ones(60, int), {}, np.arange(60)).reason
    with pytest.raises(ValueError, match="60 rows of probabilities, but 59 of source"):
        fit_calibration(said, labels, {"source": np.zeros(59)}, np.arange(60))
    said[3] = np.nan
    with pytest.raises(InputError, match=r"1 of 60 predictions are NaN or infinite, .* lower learning rate"):
        fit_calibration(said, labels, {}, np.arange(60))


@pytest.fixture
def by_group():
    rng = np.random.default_rng(0)
    source = np.repeat(["fine $5", "over-certain", "tiny"], [200, 200, 1])
    said, labels = simulate(rng, 401, np.where(source == "over-certain", 6.0, 1.0))
    shares = np.bincount(labels) / 401
    return labels, said, shares, {"source": source}, np.arange(401)


def test_the_table_shows_where_the_model_is_over_certain(by_group):
    labels, said, shares, groups, prompts = by_group
    table = group_table(labels, said, Calibration(6.0).apply(said), shares, groups, prompts)
    assert table.index[0] == ("all", "all rows")
    worst, fine = table.loc[("source", "over-certain")], table.loc[("source", "fine $5")]
    assert worst["model - constant"] - worst["model +-"] > 0 > worst["calibrated - constant"]
    assert fine["model - constant"] + fine["model +-"] < 0
    assert (table["model - constant"].iloc[1:].diff().dropna() <= 0).all()
    assert table["rows"].tolist()[0] == 401
    assert ("source", "tiny") not in table.index  # a single prompt
    assert worst["model"] == pytest.approx(log_loss(said[200:400], labels[200:400]))
    losses = -np.log(said[np.arange(401), labels] / shares[labels])[200:400]
    assert worst["model +-"] == pytest.approx(1.96 * losses.std(ddof=1) / 200**0.5)
    alike = np.repeat(np.arange(101), 4)[:401]  # rows of a prompt are not independent
    twins = group_table(np.repeat(labels[::4], 4)[:401], said[alike * 4], said, shares, groups, alike)
    alone = group_table(np.repeat(labels[::4], 4)[:401], said[alike * 4], said, shares, groups, prompts)
    assert twins["model +-"].iloc[0] == pytest.approx(2 * alone["model +-"].iloc[0], rel=0.1)


def test_the_picture_has_a_line_for_every_group_and_a_legend_outside(by_group):
    labels, said, shares, groups, prompts = by_group
    table = group_table(labels, said, said, shares, groups, prompts)
    figure = plot_groups(table)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == "all | all rows (401)"
    assert len(axes.get_yticklabels()) == len(table)
    legend, area = figure.legends[0].get_window_extent(), axes.get_tightbbox()
    assert not legend.overlaps(area)
