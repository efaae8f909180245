"""The weights of a blend: useless members get none, good ones share, and the honest score is not flattered."""

import numpy as np
import pytest
from scipy.special import softmax

from src_py.blend.plots import error_correlation, plot_calibration, plot_correlation, plot_worth
from src_py.blend.weights import Blend, choose_blend
from src_py.evaluation.blend import fit_weights, mix
from src_py.evaluation.calibration import Calibration
from src_py.evaluation.metrics import score

ROWS = 1800
SHARES = np.array([0.39, 0.36, 0.25])


def simulate(noises, rows: int = ROWS, seed: int = 0, classes: int = 3):
    """Calibrated members that see the truth through noise of their own, and the labels."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 0.9, size=(rows, classes))
    labels = (rng.random((rows, 1)) > softmax(truth, axis=1).cumsum(1)[:, :-1]).sum(1)
    members = {}
    for number, noise in enumerate(noises):
        seen = truth + rng.normal(0, noise, size=truth.shape)
        members[f"good {number}"] = softmax(seen * 0.81 / (0.81 + noise**2), axis=1)
    return members, labels


def ten_useless(rows: int = ROWS, seed: int = 1, classes: int = 3) -> dict[str, np.ndarray]:
    """As if trained on shuffled labels: near the class shares, with more or less noise; pure noise; sure nonsense."""
    rng = np.random.default_rng(seed)
    shares = np.log(SHARES[:classes])
    spreads = [0.01, 0.03, 0.1, 0.1, 0.2, 0.3, 1.0, 1.0, 5.0, 10.0]
    return {
        f"useless {number}": softmax((shares if spread < 1 else 0) + rng.normal(0, spread, (rows, classes)), axis=1)
        for number, spread in enumerate(spreads)
    }


def log_loss(probabilities, labels) -> float:
    return score(labels, probabilities)["log_loss"]


def choose(members, labels, prompts=None, calibrate=False, **options):
    prompts = np.arange(len(labels)) if prompts is None else prompts
    return choose_blend(members, labels, prompts, {}, calibrate=calibrate, **options)


@pytest.fixture(scope="module")
def good():
    """Three members of different strength, the labels, and their blend."""
    members, labels = simulate((1.0, 1.3, 1.6))
    return members, labels, choose(members, labels, calibrate=True)


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_useless_members_get_no_weight_and_change_nothing(good, seed):
    members, labels, without = good
    choice = choose(members | ten_useless(seed=seed), labels, calibrate=True)
    assert sum(weight for name, weight in choice.blend.weights.items() if "useless" in name) < 0.02
    assert abs(log_loss(choice.cross_fitted, labels) - log_loss(without.cross_fitted, labels)) < 0.001
    assert "says nothing about the labels: useless 0" in choice.reason
    assert list(choice.table.index) == [*members, *(f"useless {number}" for number in range(10))]


def test_useless_members_are_found_among_two_classes_and_on_few_rows():
    for classes, rows in ((2, ROWS), (3, 300)):
        members, labels = simulate((0.8, 1.0), rows, classes=classes)
        choice = choose(members | ten_useless(rows, classes=classes), labels)
        assert sum(weight for name, weight in choice.blend.weights.items() if "useless" in name) < 0.02


def test_a_member_that_only_tames_others_that_are_too_sure_is_of_no_use():
    """A temperature does it better: without one, the constant predictor would get weight here."""
    members, labels = simulate((1.0, 1.3))
    sure = {name: softmax(4 * np.log(predicted), axis=1) for name, predicted in members.items()}
    flat = np.tile(SHARES, (ROWS, 1)) + np.random.default_rng(0).normal(0, 0.001, (ROWS, 1)) * [1, -1, 0]
    choice = choose(sure | {"flat": flat}, labels, calibrate=True)
    assert "flat" not in choice.blend.weights
    assert choice.blend.calibration.temperature > 1.5


def test_the_blend_beats_every_member_by_more_than_its_interval(good):
    members, labels, choice = good
    assert set(choice.blend.weights) == set(members)
    assert sum(choice.blend.weights.values()) == pytest.approx(1)
    rows, blended = np.arange(ROWS), choice.cross_fitted
    for predicted in members.values():
        gains = np.log(blended[rows, labels]) - np.log(predicted[rows, labels])
        assert gains.mean() > 1.96 * gains.std() / np.sqrt(ROWS)
    assert (choice.table["cost of leaving out"] > 0).all()
    weights = list(choice.blend.weights.values())
    assert weights == sorted(weights, reverse=True)  # as they are strong


def test_members_of_equal_strength_get_about_equal_weights():
    members, labels = simulate((1.2,) * 4)
    weights = choose(members, labels).blend.weights
    assert set(weights) == set(members)
    assert max(weights.values()) < 1.5 * min(weights.values())


def test_a_much_better_member_gets_more_than_equal_weight():
    members, labels = simulate((0.3, 2.0), 2000)
    choice = choose(members, labels)
    assert choice.blend.weights.get("good 0") > 0.6
    assert log_loss(choice.cross_fitted, labels) < log_loss((members["good 0"] + members["good 1"]) / 2, labels) - 0.01


def test_duplicates_of_a_member_do_not_hurt(good):
    members, labels, without = good
    copies = {f"copy {number}": members["good 2"] for number in range(4)}
    choice = choose(members | copies, labels, calibrate=True)
    assert choice.blend == without.blend
    np.testing.assert_array_equal(choice.cross_fitted, without.cross_fitted)
    assert "the same predictions as another: copy 0, copy 1, copy 2, copy 3" in choice.reason


def test_of_near_duplicates_some_stay_and_the_score_does_not_suffer(good):
    """Each alone can be left out at no cost, all together not."""
    members, labels, without = good
    rng = np.random.default_rng(0)
    near = {
        f"near {number}": softmax(np.log(members["good 0"]) + rng.normal(0, 0.02, (ROWS, 3)), axis=1)
        for number in range(2)
    }
    choice = choose(members | near, labels)
    like_it = [name for name in choice.blend.weights if name == "good 0" or "near" in name]
    assert 1 <= len(like_it) < 3
    assert log_loss(choice.uncalibrated, labels) < log_loss(without.uncalibrated, labels) + 0.001


def test_on_few_rows_equal_weights_win_and_the_reason_says_so():
    members, labels = simulate((1.0, 1.2, 1.3), 300, seed=2)
    choice = choose(members, labels)
    assert set(choice.blend.weights.values()) == {1 / 3}
    assert "has equal weights: on 300 rows, too few to tell, fitted ones" in choice.reason


def test_a_single_member_is_only_calibrated():
    members, labels = simulate((0.8,))
    choice = choose({"one": members["good 0"]}, labels)
    assert choice.blend == Blend({"one": 1.0}, "probabilities", Calibration())
    np.testing.assert_array_equal(choice.cross_fitted, members["good 0"])
    sure = softmax(3 * np.log(members["good 0"]), axis=1)
    assert choose({"one": sure}, labels, calibrate=True).blend.calibration.temperature == pytest.approx(3, rel=0.2)


def test_the_honest_score_is_worse_than_that_of_the_same_rows():
    """Summed over seeds: the one of the same rows was chosen to look well on them."""
    honest, flattering = [], []
    for seed in range(4):
        members, labels = simulate((1.5, 2.0, 2.5, 3.0), 400, seed)
        choice = choose(members, labels, calibrate=True)
        honest.append(log_loss(choice.cross_fitted, labels))
        flattering.append(log_loss(choice.same_rows, labels))
    assert np.mean(honest) > np.mean(flattering) + 0.002


def test_the_honest_blend_of_a_row_does_not_know_its_prompts_labels(good):
    """All rows of one prompt get other labels: their own honest predictions stay as they were."""
    members, labels, _ = good
    prompts = np.arange(ROWS) // 2
    before = choose(members, labels, prompts)
    own = 2 * np.flatnonzero(labels[::2] != labels[1::2])[0] + np.array([0, 1])
    changed = labels.copy()
    changed[own] = labels[own[::-1]]  # the class shares of the prompt stay, and so does the split
    after = choose(members, changed, prompts)
    np.testing.assert_array_equal(after.cross_fitted[own], before.cross_fitted[own])
    assert after.blend != before.blend


def test_a_stacker_on_the_lengths_stays_only_where_it_helps():
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 2000, size=(ROWS, 2))
    longer = np.log(lengths[:, 0] / lengths[:, 1])
    knows_nothing_of_it = rng.normal(0, 0.9, size=(ROWS, 3))
    truth = softmax(knows_nothing_of_it + np.stack([longer, -longer, -np.abs(longer)], axis=1) / 2, axis=1)
    labels = (rng.random((ROWS, 1)) > truth.cumsum(1)[:, :-1]).sum(1)
    members = {"one": softmax(knows_nothing_of_it, axis=1)}
    plain, choice = choose(members, labels), choose(members, labels, lengths=lengths)
    assert log_loss(choice.cross_fitted, labels) < log_loss(plain.cross_fitted, labels) - 0.05
    assert choice.blend.stacker.longer == pytest.approx(0.5, abs=0.15)
    swapped = choice.blend.apply({"one": members["one"][:, [1, 0, 2]]}, lengths[:, ::-1])
    np.testing.assert_array_equal(swapped[:, [1, 0, 2]], choice.same_rows)
    with pytest.raises(ValueError, match="needs the lengths"):
        choice.blend.apply(members)
    members, labels = simulate((0.5,), 600)
    useless = choose(members, labels, lengths=lengths[:600])
    assert useless.blend.stacker is None
    assert "No stacker: one on the lengths" in useless.reason


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_a_swap_of_a_and_b_in_all_members_is_one_in_the_blend_to_the_last_bit(good, space):
    members, _, _ = good
    blend = Blend({"good 0": 0.3, "good 1": 0.2, "good 2": 0.5}, space, Calibration(1.3, 0.1))
    swapped = blend.apply({name: predicted[:, [1, 0, 2]] for name, predicted in members.items()})
    np.testing.assert_array_equal(swapped[:, [1, 0, 2]], blend.apply(members))


def test_new_rows_are_blended_as_the_old_ones_and_the_choice_is_reproducible(good):
    members, labels, choice = good
    again = choose(members, labels, calibrate=True)
    assert again.blend == choice.blend
    np.testing.assert_array_equal(again.cross_fitted, choice.cross_fitted)
    one = choice.blend.apply({name: predicted[5:6] for name, predicted in members.items()})
    np.testing.assert_allclose(one, choice.same_rows[5:6], rtol=1e-12)
    assert choice.blend.apply({name: predicted[:0] for name, predicted in members.items()}).shape == (0, 3)
    np.testing.assert_allclose(choice.same_rows.sum(1), 1)
    np.testing.assert_allclose(choice.cross_fitted.sum(1), 1)


def test_members_that_all_know_nothing_are_blended_and_it_is_said():
    labels = np.random.default_rng(6).integers(3, size=400)
    choice = choose(ten_useless(400), labels, calibrate=True)
    assert choice.reason.startswith("No member is surely better than the constant predictor: ")
    assert log_loss(choice.cross_fitted, labels) < np.log(3) + 0.1


def test_of_members_that_know_nothing_the_humble_one_is_not_lost_by_chance():
    """On these rows the sure one points to the labels by half a standard error more, which says nothing."""
    rng = np.random.default_rng((5, 99))
    labels = rng.integers(0, 3, 1000)
    members = {name: softmax(rng.normal(0, scale, (1000, 3)), axis=1) for name, scale in (("humble", 0.1), ("sure", 5))}
    assert choose(members, labels).blend.weights["humble"] > 0.9


def test_too_few_prompts_to_judge_by():
    members, labels = simulate((1.0, 1.2), 200)
    choice = choose(members, labels, np.arange(200) // 60)
    assert choice.blend.weights == {"good 0": 0.5, "good 1": 0.5}
    assert "fewer than 5 prompts" in choice.reason


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_fitted_weights_are_the_best_and_a_pull_brings_them_nearer_to_equal(space):
    members, labels = simulate((1.0, 1.4, 2.0), 1000)
    parts, draw = list(members.values()), np.random.default_rng(0)
    weights = fit_weights(parts, labels, space)
    least = log_loss(mix(parts, weights, space), labels)
    for other in draw.dirichlet(np.ones(3), 30):
        assert log_loss(mix(parts, other, space), labels) > least - 1e-6
    pulled = fit_weights(parts, labels, space, pull=1000.0)
    assert np.ptp(pulled) < 0.7 * np.ptp(weights)
    assert fit_weights(parts, labels, space, pull=1e9) == pytest.approx(np.full(3, 1 / 3), abs=1e-3)


def test_what_cannot_be_blended_is_an_error(good):
    members, labels, _ = good
    with pytest.raises(ValueError, match="at least one member"):
        choose({}, labels)
    with pytest.raises(ValueError, match=r"good 0 has no finite prediction for 1 of 1800 rows"):
        choose({"good 0": np.where(np.arange(ROWS)[:, None] == 3, np.nan, members["good 0"])}, labels)
    with pytest.raises(ValueError, match="Member b has predictions of shape"):
        choose({"a": members["good 0"], "b": members["good 0"][:5]}, labels)
    with pytest.raises(ValueError, match="of labels"):
        choose(members, labels[:5])
    with pytest.raises(KeyError, match="good 1"):
        Blend({"good 1": 1.0}, "logits", Calibration()).apply({})


def test_the_pictures_show_every_member(good):
    members, labels, _ = good
    everyone = members | {name: ten_useless()[name] for name in ("useless 4", "useless 9")}
    choice = choose(everyone, labels, calibrate=True)
    correlation = error_correlation(everyone, labels)
    assert correlation.loc["good 0", "good 1"] > 0.1 > abs(correlation.loc["good 0", "useless 9"])
    axes = plot_correlation(everyone, labels).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(everyone)
    left, right = plot_worth(choice, everyone, labels, np.arange(ROWS)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["blend, cross-fitted", *everyone]
    assert len(right.containers) + len(right.texts) == len(everyone)
    figure = plot_calibration(choice, labels, ("a", "b", "tie"))
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "tie"]
