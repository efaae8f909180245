"""What finished trials say: losses, intervals, effects, and the pictures."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from src_py.ablation.curves import fit_curve
from src_py.ablation.plots import plot_curves, plot_repairs, save_figure
from src_py.ablation.results import (
    baselines,
    compare,
    curve_table,
    main_size,
    mean_interval,
    name_control,
    repair_table,
    repair_view,
    results_table,
    row_losses,
)  # fmt: skip
from src_py.ablation.trials import Outcome, Trial
from src_py.errors import InputError


def test_the_best_evaluation_is_chosen_on_the_other_half_of_the_prompts(problem):
    """Two evaluations, each perfect on one half: choosing and reading on the same rows would look perfect."""
    labels, half = problem.valid["label"].to_numpy(), pd.factorize(problem.prompts)[0] % 2
    right, wrong = np.full((len(labels), 3), 0.01), np.full((len(labels), 3), 0.495)
    right[np.arange(len(labels)), labels] = 0.98
    wrong[np.arange(len(labels)), labels] = 0.01
    both = np.stack([np.where((half == side)[:, None], right, wrong) for side in (0, 1)])
    assert row_losses(problem, Outcome(both, [1, 2], 1.0, 1.0, 1.0)).mean() > 4


def test_a_diverged_trial_is_counted_and_not_averaged(problem, outcome, diverged):
    outcomes = {Trial("posted", 50, 0): diverged, Trial("posted", 50, 1): outcome(0.0)}
    assert results_table(problem, outcomes)["diverged"].tolist() == [True, False]
    curve = curve_table(problem, outcomes)
    assert curve["seeds"].tolist() == [1]
    assert np.isfinite(curve["log loss"]).all()


def test_the_interval_covers_the_truth_over_prompts_and_seeds():
    """Rows in prompts of two that share their noise, three seeds with noise of their own."""
    rng, hits = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(100), 2)
    for _ in range(500):
        gains = 0.1 + np.repeat(rng.normal(0, 0.5, 100), 2) + rng.normal(0, 0.05, (3, 1)) + np.zeros((3, 200))
        _, low, high = mean_interval(gains, groups)
        hits += low <= 0.1 <= high
    assert 0.91 <= hits / 500 <= 0.98


def test_repairs_are_compared_on_the_same_seeds(problem, outcome):
    outcomes = {
        Trial("posted", 50, 0): outcome(0.0),
        Trial("posted", 50, 1): outcome(0.0, 1),
        Trial("posted+pairwise", 50, 0): outcome(0.8),
        Trial("recipe", 50, 0): outcome(0.8),
        Trial("recipe-batch", 50, 0): outcome(0.8),
    }
    table = repair_table(problem, outcomes).set_index("repair")
    assert table.loc["pairwise", "at least"] > 0
    assert table.loc["pairwise", "seeds"] == 1
    assert table.loc["batch", "worth"] == 0
    assert compare(problem, outcomes, ("recipe", 50, 0), ("recipe", 99, 0)) is None
    view = repair_view(repair_table(problem, outcomes))
    assert list(view) == ["repair", "how", "log loss saved, nats (95 %)", "rows", "seeds"]
    worth, low, high = table.loc["pairwise", ["worth", "at least", "at most"]]
    assert f"{worth:+.3f} ({low:+.3f} to {high:+.3f})" in view.iloc[:, 2].tolist()
    assert plot_repairs(repair_table(problem, outcomes)) is not None
    assert plot_repairs(repair_table(problem, {})) is None


def test_repairs_are_shown_at_the_largest_of_the_sizes_that_have_most(problem, outcome):
    """On few rows nothing learns, and no repair is worth anything."""
    arms = ("posted", "posted+pairwise", "posted+batch")
    outcomes = {Trial(arm, rows, 0): outcome(0.1) for arm in arms for rows in (20, 60, 200)}
    del outcomes[Trial("posted+batch", 200, 0)]
    repairs = repair_table(problem, outcomes)
    assert repairs["rows"].tolist() == [200, 60, 60, 20, 20]
    assert main_size(repairs) == 60
    assert plot_repairs(repairs).axes[0].get_title() == "What each repair is worth at 60 rows"


def test_the_lines_to_beat_are_those_of_the_validation_rows(problem):
    lines = baselines(problem)
    assert {name: losses.shape for name, losses in lines.items()} == dict.fromkeys(lines, (len(problem.valid),))


def test_the_picture_has_the_band_and_what_was_foretold(problem, outcome):
    outcomes = {
        Trial("recipe", rows, 0): outcome(sharpness)
        for rows, sharpness in ((20, 0.1), (40, 0.3), (80, 0.4), (160, 0.5))
    }
    results = results_table(problem, outcomes)
    law = fit_curve(results["rows"], results["log_loss"], 1.1)
    figure = plot_curves(curve_table(problem, outcomes), results, ("recipe",), {}, {"recipe": law})
    axes = figure.axes[0]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "recipe, foretold from 80 rows" in names
    assert "recipe, fitted, with 90 %" in names
    (band,) = (drawn for drawn in axes.collections if isinstance(drawn, PolyCollection))
    assert band.get_paths()[0].vertices[:, 0].max() == pytest.approx(320)


def test_a_loss_far_above_the_constant_predictor_does_not_squeeze_the_others(problem, outcome):
    outcomes = {Trial("recipe", rows, 0): outcome(0.3) for rows in (20, 40)} | {Trial("posted", 40, 0): outcome(-3.0)}
    outcomes[Trial("posted+batch", 20, 0)] = outcome(-3.0)  # not drawn
    tables = curve_table(problem, outcomes), results_table(problem, outcomes)
    worst = tables[0]["log loss"].max()
    axes = plot_curves(*tables, ("recipe", "posted"), {"constant predictor": 1.1}, {}).axes[0]
    assert worst > 1.3
    assert axes.get_ylim()[1] == pytest.approx(1.2)
    assert [text.get_text() for text in axes.texts] == [f"{worst:.2f}"]
    near = {Trial("recipe", rows, 0): outcome(0.3) for rows in (20, 40)}
    tables = curve_table(problem, near), results_table(problem, near)
    axes = plot_curves(*tables, ("recipe",), {"constant predictor": 1.1}, {}).axes[0]
    assert axes.get_ylim()[1] < 1.2
    assert not axes.texts


def test_a_picture_that_cannot_be_written_is_one_sentence(problem, outcome, tmp_path):
    outcomes = {Trial("recipe", rows, 0): outcome(0.5) for rows in (20, 60)}
    tables = curve_table(problem, outcomes), results_table(problem, outcomes)
    figure = plot_curves(*tables, ("recipe",), {"constant predictor": 1.1}, {}, {"more.csv": 60})
    save_figure(figure, tmp_path / "folder/curve.png")
    assert (tmp_path / "folder/curve.png").stat().st_size > 1000
    with pytest.raises(InputError, match="cannot be written"):
        save_figure(figure, tmp_path / "folder/curve.png/curve.png")


def test_tables_for_readers_name_the_control_arm(problem, outcome):
    outcomes = {Trial("recipe", 50, 0): outcome(0.5), Trial("recipe", 50, 0, as_rows=100): outcome(0.5)}
    table = name_control(curve_table(problem, outcomes))
    assert table["arm"].tolist() == ["recipe", "recipe (control arm)"]
    assert table["steps of rows"].tolist() == ["own", "100"]
    assert "log loss" in name_control(results_table(problem, outcomes))
