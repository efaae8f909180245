"""The banner of a run says what its verdicts say."""

import numpy as np
import pandas as pd
import pytest

from src_py.doctor import judge_training, verdict_banner
from src_py.doctor.banner import _KINDS
from src_py.doctor.verdict import NAMES, Verdict
from src_py.evaluation.banner import BAD, DOUBT, GOOD


def verdict(name):
    return Verdict(name, "why", 1.0, 1.1, None, (0.05, 0.15), None)


@pytest.mark.parametrize("name", NAMES)
def test_green_is_only_for_what_has_learned_and_red_for_what_has_not(name):
    (strip,) = verdict_banner({"fold_0": verdict(name)}).strips
    little = ("learned little more than answer length", "learned little more than the counts")
    doubtful = (*little, "not enough rows to tell", "not checked")
    assert strip.kind == (GOOD if name == "learned" else DOUBT if name in doubtful else BAD)
    assert strip.word == name
    assert bool(strip.figures) == (name != "not checked")


def test_every_kind_is_of_a_verdict_that_exists():
    assert set(_KINDS) <= set(NAMES)


def test_a_model_that_was_stopped_is_amber_where_its_best_weights_learned_and_else_red():
    names = ("learned", "learned", "constant predictor", "learned little more than the counts")
    verdicts = {f"fold_{k}": verdict(name) for k, name in enumerate(names)}
    banner = verdict_banner(verdicts, dict.fromkeys(["fold_1", "fold_2", "fold_3"], "collapse"))
    assert [strip.kind for strip in banner.strips] == [GOOD, DOUBT, BAD, BAD]
    assert banner.strips[1].word == "stopped by the watcher; its best weights learned"
    assert banner.strips[2].word == "stopped by the watcher: constant predictor"


def test_the_numbers_are_those_of_the_verdict():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"label": rng.integers(0, 3, 300)})
    probabilities = np.full((300, 3), 0.2)
    probabilities[np.arange(300), rows["label"]] = 0.6
    found = judge_training(rows, rows, probabilities)
    text = repr(verdict_banner({"yours": found}))
    assert text.startswith("✓ LEARNED  yours: log loss 0.5108, constant predictor ")
    low, high = found.over_constant
    assert f"(95 %: {low:+.4f} to {high:+.4f})" in text
