"""The models: symmetric, reproducible, right about missing classes; how long LightGBM's steps are; their pictures."""

import numpy as np
import pandas as pd
import pytest

from src_py.config import check_config
from src_py.errors import InputError
from src_py.tabular import models as tabular_models
from src_py.tabular.folds import fit_fold, split_for_stopping
from src_py.tabular.groups import GROUPS
from src_py.tabular.models import MODELS, BoostSettings, Rows, fit_model, learning_rate
from src_py.tabular.plots import gain_by_group, plot_boosting, plot_models
from src_py.tabular.sides import join


@pytest.fixture(scope="module")
def length_rows(data) -> tuple[Rows, Rows]:
    """Length features of rows to fit on and rows to stop by."""
    parts = split_for_stopping({"length": data.counted.parts["length"]}, data.labels, data.prompts, 0)
    return tuple(Rows(part.sides["length"], part.labels) for part in parts)


@pytest.mark.parametrize("model", MODELS)
def test_swapping_the_answers_swaps_the_probabilities(fold, held, model):
    sides = join(list(held.values()))
    straight = fold.models["all", model].predict(sides)
    swapped = fold.models["all", model].predict(sides.swapped())
    np.testing.assert_allclose(straight, swapped[:, [1, 0, 2]], atol=1e-6)
    np.testing.assert_allclose(straight.sum(1), 1, atol=1e-6)


def test_each_model_learns_from_words_and_length(fold, data, loss):
    truth = data.labels[data.fold_of == 0]
    constant = loss(np.tile(np.bincount(data.labels) / len(data.labels), (len(truth), 1)), truth)
    for model in MODELS:
        assert loss(fold.predictions["all", model], truth) < constant - 0.03, model


def test_the_same_seed_gives_the_same_model(fold, data):
    rows = (data.counted, data.labels, data.prompts, data.fold_of)
    again = fit_fold(*rows, 0, MODELS, 3, seed=0, sets={"all": GROUPS})
    for model in MODELS:
        np.testing.assert_array_equal(again.predictions["all", model], fold.predictions["all", model])


@pytest.mark.parametrize("model", MODELS)
def test_two_classes_are_enough(length_rows, model):
    fit, stop = (Rows(part.sides.take(part.labels < 2), part.labels[part.labels < 2]) for part in length_rows)
    predicted = fit_model(model, fit, stop, 2, 0).predict(stop.sides)
    assert predicted.shape == (len(stop.labels), 2)
    np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("missing", [(2,), (0, 1)])
def test_a_class_that_no_training_row_has_is_unlikely_and_not_an_error(length_rows, model, missing):
    fit, stop = (
        Rows(part.sides.take(there), part.labels[there])
        for part in length_rows
        for there in [~np.isin(part.labels, missing)]
    )
    predicted = fit_model(model, fit, stop, 3, 0).predict(stop.sides)
    assert predicted.shape == (len(stop.labels), 3)
    np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-6)
    assert predicted[:, list(missing)].mean() < 0.25


def test_the_learning_rate_grows_with_the_rows_within_bounds():
    rates = [learning_rate(rows) for rows in (100, 5000, 15_000, 25_000, 60_000)]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.06, 0.1, 0.1])


def test_the_learning_rate_follows_the_rows_unless_it_is_given(length_rows, data, monkeypatch):
    monkeypatch.setattr(tabular_models, "learning_rate", {len(data.labels): 0.25}.get)
    for options, rate in ((None, "0.25"), ({"learning_rate": 0.5}, "0.5")):
        text = fit_model("lightgbm", *length_rows, 3, 0, options).booster.model_to_string()
        assert f"[learning_rate: {rate}]" in text


def test_the_gain_of_the_trees_is_shared_out_among_the_groups(fold, held):
    shares = gain_by_group(fold.models["all", "lightgbm"], held)
    assert set(shares) == set(GROUPS)
    assert abs(sum(shares.values()) - 1) < 1e-6
    assert shares["tfidf"] > shares["word2vec"]


@pytest.mark.parametrize("folds", [2, 20])
def test_legends_lie_outside_of_the_curves_and_bars(fold, held, folds):
    table = pd.DataFrame({"lightgbm": [1.0, 0.9], "mlp": [1.1, 0.8]}, index=["length", "all"])
    boosting = plot_boosting(dict.fromkeys(range(folds), fold.models["all", "lightgbm"]), held)
    for figure in (plot_models(table, table * 0.01, 1.1), boosting):
        figure.canvas.draw()
        assert all(axes.get_legend() is None for axes in figure.axes)
        (legend,) = figure.legends
        box = legend.get_window_extent()
        for axes in figure.axes:
            assert not box.overlaps(axes.get_window_extent())
            assert min(axes.get_window_extent().size) > 100, "the legend leaves room for the picture"


@pytest.mark.parametrize(
    ("override", "message"),
    [("models=", "CFG.models is empty"), ("models=lightgbm,svm", "'mlp'"), ("search_minutes=-1", "at least 0")],
)
def test_model_settings_that_cannot_be_are_refused(override, message):
    class CFG:
        models, search_minutes = ["mlp"], 0

    assert check_config(CFG, BoostSettings).part(BoostSettings) == BoostSettings(("mlp",), 0.0)
    with pytest.raises(InputError, match=message):
        check_config(CFG, BoostSettings, overrides=override)
