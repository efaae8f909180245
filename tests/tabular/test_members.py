"""Which predictions join the blend, where they are known, and what is said before anything is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src_py.errors import InputError
from src_py.evaluation.blend import cross_fitted, fit_weights
from src_py.model.fine_tuned import FineTuned
from src_py.tabular.groups import FeatureSettings
from src_py.tabular.members import FEWEST_ROWS, blend_members, choose_fine_tuned, weight_folds
from src_py.tabular.saved import FINE_TUNED, SavedBlend

ROWS, PROMPTS = 1500, np.arange(1500) // 2
FOLD_OF, LABELS = PROMPTS % 5, np.arange(ROWS) % 3
FINISHED = SavedBlend(("a", "b", "tie"), FeatureSettings(("length",)), ("mlp",), (0,), {"all/mlp": 1.0}, 1.0)


def fine_tuned(known: np.ndarray) -> FineTuned:
    oof = np.where(known[:, None], [[0.5, 0.3, 0.2]], np.nan)
    return FineTuned(oof, [Path("run/fold_0")], Path("run"), "d1")


def test_one_fold_of_the_fine_tuned_model_is_enough(loss, capsys):
    """All its rows lie in one fold of this run: weights cannot be fitted on the other folds of this run."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=ROWS)
    weak = rng.dirichlet(np.ones(3) * 8, size=ROWS)
    good = np.full((ROWS, 3), 0.2)
    good[np.arange(ROWS), labels] = 0.6
    attached = fine_tuned(FOLD_OF == 0)
    attached.oof[FOLD_OF == 0] = good[FOLD_OF == 0]
    chosen = choose_fine_tuned(attached, PROMPTS)
    assert "known for 300 of 1,500 rows" in capsys.readouterr().out
    members, known = blend_members({("all", "mlp"): weak}, chosen, labels, PROMPTS)
    np.testing.assert_array_equal(known, FOLD_OF == 0)
    parts, truth = [p[known] for p in members.values()], labels[known]
    weights = dict(zip(members, fit_weights(parts, truth)))
    assert weights[FINE_TUNED] > 0.9
    split = weight_folds(members, known, labels, PROMPTS, FOLD_OF, 0)
    for prompt in np.unique(PROMPTS[known]):
        assert len(set(split[PROMPTS[known] == prompt])) == 1
    blended = cross_fitted(parts, truth, split)
    assert loss(blended, truth) < loss(weak[known], truth)


def test_without_a_fine_tuned_model_weights_are_fitted_on_the_other_folds(capsys):
    assert choose_fine_tuned(None, PROMPTS) is None
    assert "no output of finetune_deberta is attached" in capsys.readouterr().out
    predicted = np.full((ROWS, 3), 1 / 3)
    predicted[FOLD_OF > 2] = np.nan  # there was no time for them
    members, known = blend_members({("all", "mlp"): predicted}, None, LABELS, PROMPTS)
    split = weight_folds(members, known, np.zeros(ROWS, int), PROMPTS, FOLD_OF, 0)
    np.testing.assert_array_equal(split, FOLD_OF[FOLD_OF <= 2])


@pytest.mark.parametrize("known", [np.arange(ROWS) < FEWEST_ROWS - 1, PROMPTS < 0])
def test_a_fine_tuned_model_known_for_too_few_rows_is_left_out_and_said(known, capsys):
    assert choose_fine_tuned(fine_tuned(known), PROMPTS) is None
    assert f"NOT IN THE BLEND: the fine-tuned DeBERTa in run, known for {known.sum()} rows" in capsys.readouterr().out


def test_many_rows_of_few_prompts_are_too_few():
    assert choose_fine_tuned(fine_tuned(np.arange(ROWS) < 800), np.arange(ROWS) // 250) is None


def test_a_fine_tuned_model_unknown_in_the_fitted_folds_is_left_out_and_said(capsys):
    predicted = np.full((ROWS, 3), 1 / 3)
    predicted[FOLD_OF == 4] = np.nan
    members, known = blend_members({("all", "mlp"): predicted}, fine_tuned(FOLD_OF == 4), LABELS, PROMPTS)
    assert list(members) == ["all/mlp"]
    np.testing.assert_array_equal(known, FOLD_OF != 4)
    assert "NOT IN THE BLEND" in capsys.readouterr().out


def test_a_fine_tuned_model_without_weight_costs_no_rows(capsys):
    """It always says 0.5, 0.3, 0.2, while the other member is right."""
    right = np.full((ROWS, 3), 0.1)
    right[np.arange(ROWS), LABELS] = 0.8
    members, known = blend_members({("all", "mlp"): right}, fine_tuned(FOLD_OF == 0), LABELS, PROMPTS)
    assert list(members) == ["all/mlp"]
    assert known.all()
    assert "gets no weight" in capsys.readouterr().out


def test_a_finished_blend_needs_the_very_output_that_it_was_fitted_with(capsys):
    attached = fine_tuned(FOLD_OF == 0)
    needs = replace(FINISHED, weights={"all/mlp": 0.5, FINE_TUNED: 0.5}, fine_tuned="d1")
    assert choose_fine_tuned(attached, PROMPTS, needs) is attached
    with pytest.raises(InputError, match="but it is not attached"):
        choose_fine_tuned(None, PROMPTS, needs)
    with pytest.raises(InputError, match="but run is another one"):
        choose_fine_tuned(attached._replace(digest="d2"), PROMPTS, needs)
    assert choose_fine_tuned(attached, PROMPTS, FINISHED) is None
    assert "run is not used: the finished run does not blend it" in capsys.readouterr().out
