"""The banner: the right kind, three numbers, readable on any page and by anyone, and no markup of the user's."""

import re

import numpy as np
import pytest

from src_py.evaluation.banner import BAD, COLORS, DOUBT, GOOD, SIGNS, Banner, Strip, judge_predictions
from src_py.evaluation.calibration import fit_calibration


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_white_text_is_readable_on_every_colour():
    for color in COLORS.values():
        assert 1.05 / (luminance(color) + 0.05) > 4.5


def test_a_banner_shows_sign_word_and_three_numbers_as_page_and_as_text():
    banner = Banner(
        [Strip(GOOD, "learned", "fold_0", 1.03, 1.0976, (0.0512, 0.0801)), Strip(BAD, "unstable", "fold_1")]
    )
    lines = repr(banner).splitlines()
    assert lines[0] == (
        "✓ LEARNED  fold_0: log loss 1.0300, constant predictor 1.0976, gain +0.0676 (95 %: +0.0512 to +0.0801)"
    )
    assert lines[1] == "✗ UNSTABLE  fold_1"
    page = banner._repr_html_()
    for strip in banner.strips:
        assert f"background:{COLORS[strip.kind]};color:#fff" in page
        assert f"{SIGNS[strip.kind]} {strip.word.upper()}" in page
    assert "<b>1.0300</b>" in page
    assert "1.0976" in page
    assert len(set(SIGNS.values())) == 3


def test_texts_are_no_markup():
    page = Banner([Strip(DOUBT, "a <i>word</i>", "<script>x()</script>", 1.0, 1.1, None)])._repr_html_()
    assert not re.search(r"<(script|i)>", page)
    assert "&lt;script&gt;" in page


def test_a_loss_that_is_not_finite_is_said():
    assert "log loss not finite" in repr(Banner([Strip(BAD, "unstable", "x", float("nan"), 1.1, (0.0, 0.0))]))


def predictions(skill, rows=2000, seed=0):
    """Labels, and probabilities that know them by `skill` (0: nothing, below: the wrong way round)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    logits = rng.normal(0, 0.2, (rows, 3))
    logits[np.arange(rows), labels] += skill
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("skill", "rows", "lengths", "kind", "word"),
    [
        (0.5, 2000, None, GOOD, "better than the constant predictor"),
        (0.5, 2000, 0.0, GOOD, "learned"),
        (0.5, 2000, 0.7, DOUBT, "learned little more than answer length"),
        (0.5, 2000, 0.5, DOUBT, "learned little more than answer length"),
        (0.0, 20000, None, BAD, "worse than the constant predictor"),
        (0.01, 20000, None, BAD, "worse than the constant predictor"),
        (0.1, 10, None, DOUBT, "not enough rows to tell"),
    ],
)
def test_what_is_said_of_predictions(skill, rows, lengths, kind, word):
    labels, probabilities = predictions(skill, rows)
    alone = None if lengths is None else predictions(lengths, rows)[1]
    banner = judge_predictions("blend", labels, probabilities, np.full(3, 1 / 3), np.arange(rows), alone)
    (strip,) = banner.strips
    assert (strip.kind, strip.word) == (kind, word)
    assert strip.gain[0] < strip.constant - strip.model < strip.gain[1]


@pytest.mark.parametrize("prompts", [2, 9])
def test_a_few_prompts_are_not_enough_to_tell_however_good_they_look(prompts):
    labels, probabilities = predictions(3.0, 200)
    few = np.arange(200) % prompts
    (strip,) = judge_predictions("blend", labels, probabilities, np.full(3, 1 / 3), few).strips
    assert (strip.kind, strip.word) == (DOUBT, "not enough rows to tell")
    assert judge_predictions("b", labels, probabilities, np.full(3, 1 / 3), np.arange(200) % 10).strips[0].kind == GOOD


def test_predictions_that_are_not_finite_are_red():
    labels, probabilities = predictions(0.5)
    for broken in (np.where(np.arange(2000)[:, None] == 3, np.nan, probabilities), np.full((2000, 3), np.nan)):
        (strip,) = judge_predictions("blend", labels, broken, np.full(3, 1 / 3), np.arange(2000)).strips
        assert (strip.kind, strip.word) == (BAD, "predictions are not finite")


def test_a_model_of_lengths_is_not_more_than_that_for_being_calibrated():
    labels, known = predictions(0.5)
    sure = known**4 / (known**4).sum(1, keepdims=True)
    calibrated = fit_calibration(sure, labels, {}, np.arange(2000)).calibration.apply(sure)
    (strip,) = judge_predictions("b", labels, calibrated, np.full(3, 1 / 3), np.arange(2000), calibrated).strips
    assert (strip.kind, strip.word) == (DOUBT, "learned little more than answer length")


def test_the_constant_predictor_itself_is_called_by_its_name():
    labels, _ = predictions(0.0)
    (strip,) = judge_predictions("blend", labels, np.full((2000, 3), 1 / 3), np.full(3, 1 / 3), np.arange(2000)).strips
    assert (strip.kind, strip.word) == (BAD, "constant predictor")


def test_rows_of_one_prompt_say_little():
    labels, probabilities = predictions(0.5, 200)
    (strip,) = judge_predictions("blend", labels, probabilities, np.full(3, 1 / 3), np.zeros(200)).strips
    assert (strip.kind, strip.gain) == (DOUBT, None)
