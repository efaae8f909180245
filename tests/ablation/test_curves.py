"""Learning curves: forecasts, their intervals, and when nothing may be forecast."""

import numpy as np
import pytest

from benchmarks.curves_simulated import TRUTHS, simulate
from src_py.ablation.curves import MOST_STRETCH, Hindcast, fit_curve, interval

SIZES = np.array([200, 500, 1250, 3125, 7800])
CONSTANT = 1.09


def curve(expected, seeds=3, noise=0.004, seed=0, sizes=SIZES):
    rows = np.repeat(sizes, seeds)
    return fit_curve(rows, expected(rows) + np.random.default_rng(seed).normal(0, noise, len(rows)), CONSTANT)


def power(rows):
    return 0.85 + 0.2 * (rows / 200) ** -0.4


def rectified(rows):
    return 0.8 + 0.29 / (1 + (rows / 2000) ** 1.5)


@pytest.mark.parametrize("shape", TRUTHS)
def test_intervals_hold_for_most_curves_of_every_shape(shape):
    """How often exactly is measured by `make curves-bench`."""
    curves = [simulate(shape, seed) for seed in range(10)]
    found = [fit_curve(one.rows, one.losses, one.constant).forecast(one.target) for one in curves]
    assert sum(told.low <= one.truth <= told.high for told, one in zip(found, curves)) >= 7


@pytest.mark.parametrize("expected", [power, rectified])
def test_a_curve_with_little_noise_is_continued(expected):
    told = curve(expected, noise=0.0005).forecast(15_600)
    assert told.best == pytest.approx(expected(15_600), abs=0.01)
    assert told.low < expected(15_600) < told.high < told.low + 0.08


def test_the_form_that_made_the_curve_is_found():
    assert curve(rectified, noise=0.001).weights["power law"] < 0.05
    found = curve(lambda rows: 0.8 + 0.29 * np.exp(-rows / 4000), noise=0.001).weights
    assert found["exponential"] + found["free exponential"] > 0.8
    assert curve(lambda rows: 0.9 + 0 * rows).weights["constant"] > 0.5
    assert sum(curve(power).weights.values()) == pytest.approx(1)


def test_more_seeds_narrow_the_interval():
    widths = [told.high - told.low for told in (curve(power, seeds).forecast(15_600) for seeds in (1, 5))]
    assert widths[1] < widths[0]


def test_the_mean_of_a_few_new_models_is_less_sure_than_what_is_expected_of_them():
    law = curve(lambda rows: 0.9 + 0 * rows, noise=0.02)
    expected, one = law.forecast(15_600), law.forecast(15_600, seeds=1)
    assert one.high - one.low > 1.2 * (expected.high - expected.low)


def test_what_all_sizes_share_does_not_count_as_a_change():
    """Validation rows that are hard to predict raise every loss, the constant predictor's too."""
    rows = np.repeat(SIZES, 2)
    losses = power(rows) + np.random.default_rng(0).normal(0, 0.004, len(rows))
    usual, hard = (fit_curve(rows, losses + shift, CONSTANT + shift).change(7800, 15_600) for shift in (0, 0.1))
    assert np.allclose(usual, hard, atol=0.002)


def test_nothing_is_forecast_beyond_twice_the_largest_size():
    law = curve(power)
    assert law.forecast(15_600) is not None
    assert law.forecast(15_601) is None
    assert law.change(7800, 20_000) is None
    assert law.band()[0].max() == pytest.approx(15_600)


def test_verdicts():
    assert curve(power, noise=0.001).verdict == "better"
    assert curve(lambda rows: 0.9 + 0 * rows, noise=0.001).verdict == "nothing"
    assert curve(power, seeds=1, noise=0.05).verdict == "cannot tell"


def test_a_curve_that_rises_is_not_continued():
    law = curve(lambda rows: 1.8 - power(rows), noise=0.001)
    assert law.verdict == "cannot tell"
    size, change = law.rises
    assert size == 200
    assert 0 < change.low < change.high
    assert curve(power).rises is None


def test_diverged_trials_are_left_out_and_too_few_sizes_give_no_curve():
    rows, losses = np.repeat(SIZES, 2), power(np.repeat(SIZES, 2))
    losses[[1, 8, 9]] = np.nan
    law = fit_curve(rows, losses, CONSTANT)
    assert law.largest == 3125
    assert law.measured.counts.tolist() == [1, 2, 2, 2]
    losses[4:] = np.nan
    assert fit_curve(rows, losses, CONSTANT) is None
    assert fit_curve([], [], CONSTANT) is None


class TestHindcast:
    def test_it_does_not_know_the_largest_size(self):
        rows, losses = SIZES, power(SIZES)
        fallen = losses.copy()
        fallen[-1] -= 0.2
        usual, sudden = (fit_curve(rows, measured, CONSTANT).hindcast for measured in (losses, fallen))
        assert usual[:5] == sudden[:5]
        assert usual.held
        assert not sudden.held

    def test_its_sentence_says_what_was_told_and_measured(self):
        found = fit_curve(SIZES, power(SIZES), CONSTANT).hindcast
        assert str(found).startswith("from 3,125 rows it would have said 0.")
        assert str(found).endswith("for 7,800; measured 0.896")
        assert str(found._replace(measured=0.5)).endswith("measured 0.500, which is outside: trust this curve less")

    def test_its_sentence_says_the_point_of_the_picture_and_both_ends_where_they_are_not_alike(self):
        found = Hindcast(last=500, rows=1250, best=0.5, low=0.48, high=0.52, measured=0.51)
        assert "0.500 ± 0.020 for 1,250" in str(found)
        assert "0.500 (0.400 to 0.520) for 1,250" in str(found._replace(low=0.4))

    def test_a_miss_widens_what_is_told_of_more_rows_than_measured(self):
        losses = power(SIZES)
        losses[-1] += 0.1
        law = fit_curve(SIZES, losses, CONSTANT)
        assert law.hindcast.miss > MOST_STRETCH
        for rows, factor in ((7800, 1), (15_600, MOST_STRETCH)):
            usual, wide = interval(law._draw_unstretched(np.array([rows]), 0)[:, 0]), law.forecast(rows)
            assert wide.best == pytest.approx(usual.best)
            assert wide.high - wide.low == pytest.approx(factor * (usual.high - usual.low))

    def test_three_sizes_have_none(self):
        assert curve(power, sizes=SIZES[:3]).hindcast is None
        assert curve(power, sizes=SIZES[:4]).hindcast is not None


def test_one_curve_has_one_answer():
    assert curve(power).forecast(15_600) == curve(power).forecast(15_600)


def test_the_interval_leaves_as_much_on_either_side():
    assert interval(np.arange(101.0)) == pytest.approx((50, 5, 95))
    assert interval(np.arange(101.0), 0.8) == pytest.approx((50, 10, 90))


@pytest.mark.parametrize("seed", range(5))
def test_losses_that_hardly_differ_have_intervals_that_hardly_do(seed):
    rows = np.repeat([250, 500, 1000, 2000], 2)
    losses = power(rows) + np.random.default_rng(seed).normal(0, 0.006, len(rows))
    moved = losses + np.random.default_rng(seed + 100).normal(0, 1e-5, len(rows))
    first, second = (fit_curve(rows, some, CONSTANT).change(2000, 4000) for some in (losses, moved))
    assert np.allclose(first, second, atol=0.002)


def test_no_log_loss_is_below_zero():
    law = curve(lambda rows: 0.02 + 0.5 * (rows / 200) ** -1.0, noise=0.02)
    assert law.forecast(15_600, seeds=1).low >= 0
    assert law.hindcast.low >= 0
    assert law.band()[1].min() >= 0
