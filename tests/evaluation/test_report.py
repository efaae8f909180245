"""What *Evaluate* shows: the history without NaN, true shares beside predicted ones, pictures for every reader."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from src_py.doctor import judge_training
from src_py.evaluation.report import (
    group_table,
    history_table,
    history_view,
    plot_groups,
    plot_learning,
    plot_predictions,
)
from src_py.evaluation.style import PALETTE, new_figure

CLASSES = ("a", "b", "tie")
LABELS = np.repeat([0, 1, 2], [6, 3, 1])


def evaluation(step, loss):
    shares = {"eval_predicted_a": 0.5, "eval_predicted_b": 0.4, "eval_predicted_tie": 0.1}
    return {"step": step, "epoch": step / 20, "eval_log_loss": loss, "eval_accuracy": 0.4, "eval_spread": 0.1} | shares


# As a Trainer logs that evaluates before its first entry of the training loss, and after its last.
LOG = [
    evaluation(10, 1.11),
    {"step": 20, "epoch": 1.0, "loss": 1.05},
    evaluation(20, 1.04),
    evaluation(25, 1.03),
    {"step": 25, "epoch": 1.25, "train_runtime": 3.0, "train_loss": 1.06},
]


def test_the_history_that_is_shown_has_no_nan_and_ends_with_the_true_shares():
    history = history_table(LOG)
    view = history_view(history, LABELS, CLASSES)
    assert view.index.tolist() == [10, 20, 25, "true shares"]
    assert view["training loss"].tolist() == ["", "1.0500", "", ""]
    assert view["log loss"].tolist() == ["1.1100", "1.0400", "1.0300", ""]
    predicted = [f"predicted {name}" for name in CLASSES]
    assert view.loc["true shares", predicted].tolist() == ["0.6000", "0.3000", "0.1000"]
    assert "NaN" not in view.to_html()
    assert "nan" not in view.to_string()


def test_a_training_without_evaluations_has_no_row_in_which_nothing_was_measured():
    log = [{"step": 10, "epoch": 0.5, "loss": 1.1}, {"step": 15, "epoch": 0.75, "train_runtime": 1.0}]
    history = history_table(log)
    assert history.index.tolist() == [10]
    assert history_view(history, LABELS, CLASSES)["training loss"].tolist() == ["1.1000"]


def test_an_evaluation_of_a_model_that_has_diverged_stays_in_the_history():
    """The verdict needs it: without that row, a run that broke down looks like one that ended early."""
    nan = float("nan")
    broken = {"step": 30, "epoch": 1.5, "eval_log_loss": nan, "eval_accuracy": nan, "eval_spread": nan}
    summary = {"step": 35, "epoch": 1.75, "train_runtime": 3.0}
    history = history_table([*LOG[:-1], broken, summary])
    assert history.index.tolist() == [10, 20, 25, 30]
    assert np.isnan(history["log loss"].iloc[-1])
    assert history_view(history, LABELS, CLASSES)["log loss"].tolist() == ["1.1100", "1.0400", "1.0300", "", ""]
    plot_learning(history, {"constant predictor": 1.098}, {"a": 0.6}).draw_without_rendering()
    rows = pd.DataFrame({"label": np.tile([0, 1, 2], 50)})
    assert judge_training(rows, rows, np.eye(3)[rows["label"]] * 0.4 + 0.2, history=history).name == "unstable"


def test_an_entry_without_an_epoch_is_no_obstacle():
    history = history_table([{"step": 0, "eval_loss": 1.0}, {"step": 0, "eval_log_loss": 1.1}])
    assert history_view(history, LABELS, CLASSES)["epoch"].tolist() == [""]
    assert history_table([{"step": 0, "eval_loss": 1.0}]).empty


def pictures():
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 3, 300), rng.dirichlet([2, 2, 2], 300)
    shares = dict(zip(CLASSES, (0.6, 0.3, 0.1)))
    prompts = np.arange(300)
    groups = {"length": np.where(prompts % 2, "short", "long")}
    table = group_table(labels, probabilities, probabilities, np.full(3, 1 / 3), groups, prompts)
    lines = {"constant predictor": 1.098, "length only": 1.09, "counts alone": 1.08}
    yield "learning", plot_learning(history_table(LOG), lines, shares)
    yield "predictions", plot_predictions(labels, probabilities, CLASSES)
    yield "groups", plot_groups(table)


def test_no_legend_covers_what_is_drawn():
    for name, figure in pictures():
        figure.draw_without_rendering()
        figure.draw_without_rendering()  # what the first one has moved
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert legends
        for legend in legends:
            for axes in figure.axes:
                assert not legend.get_window_extent().overlaps(axes.get_window_extent()), name


def test_a_dark_style_of_the_notebook_leaves_pictures_readable():
    with plt.style.context("dark_background"):
        figure, axes = new_figure()
        (line,) = axes.plot([1, 2])
        axes.set(title="A title", xlabel="x")
    assert figure.get_facecolor() == axes.get_facecolor() == (1, 1, 1, 1)
    assert axes.title.get_color() == axes.xaxis.label.get_color() == "black"
    assert line.get_color() == PALETTE[0]


def test_the_true_shares_are_drawn_beside_the_predicted_ones_and_differ_in_more_than_colour():
    axes = plot_learning(history_table(LOG), {}, {"a": 0.6, "b": 0.3, "tie": 0.1}).axes[1]
    dashed = {line.get_label(): line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"}
    assert dashed == {"true a 0.60": 0.6, "true b 0.30": 0.3, "true tie 0.10": 0.1}
    predicted = [line for line in axes.lines if line.get_label().startswith("predicted")]
    assert len({line.get_marker() for line in predicted}) == 3


def test_a_history_of_other_classes_shows_no_true_shares():
    history = pd.DataFrame({"epoch": [1.0], "log loss": [0.7], "predicted 0": [1.0]}, index=[5])
    assert history_view(history, LABELS, CLASSES).index.tolist() == [5]
