"""Metrics, temperature, pictures and the submission file."""

import resource
import signal

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.evaluation import metrics
from src_py.evaluation.baselines import constant_log_loss
from src_py.evaluation.report import as_html, calibration, folded, plot_predictions
from src_py.kaggle.files import write_csv
from src_py.model.preference import build_model
from src_py.model.saved import SavedSettings, find_trained, save_trained
from src_py.pairs.contest import LMSYS, WSDM, submission_table, write_submission
from src_py.pairs.encode import Reading


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    return rng.integers(0, 3, 400), rng.dirichlet([2, 2, 2], 400)


def test_evaluate_and_scikit_learn_give_the_same_numbers(monkeypatch, predictions):
    pytest.importorskip("evaluate")
    through_evaluate = metrics.score(*predictions)
    monkeypatch.setattr(metrics, "evaluate", None)
    assert metrics.score(*predictions) == pytest.approx(through_evaluate, abs=1e-12)
    labels, probabilities = predictions
    by_hand = -np.log(probabilities[np.arange(400), labels]).mean()
    assert through_evaluate["log_loss"] == pytest.approx(by_hand)


def test_predictions_that_are_not_finite_are_an_error(predictions):
    labels, probabilities = predictions
    probabilities[3] = np.nan
    with pytest.raises(ValueError, match="1 of 400 predictions"):
        metrics.score(labels, probabilities)


def test_the_constant_predictor_is_the_entropy_of_the_shares():
    labels = np.repeat([0, 1, 2], [349, 342, 309])
    assert constant_log_loss(labels, labels, 3) == pytest.approx(1.0972, abs=1e-3)


def test_the_temperature_undoes_overconfidence(predictions):
    _, probabilities = predictions
    rng = np.random.default_rng(1)
    labels = np.array([rng.choice(3, p=p) for p in probabilities])
    sharp = metrics.apply_temperature(probabilities, 0.5)
    temperature = metrics.fit_temperature(sharp, labels)
    assert temperature == pytest.approx(2, rel=0.15)
    assert (
        metrics.score(labels, metrics.apply_temperature(sharp, temperature))["log_loss"]
        < (metrics.score(labels, sharp)["log_loss"])
    )


def test_calibration_of_a_perfect_forecast_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    probabilities = rng.random(20000)
    predicted, observed = calibration(rng.random(20000) < probabilities, probabilities)
    assert np.abs(predicted - observed).max() < 0.05


def test_the_confusion_matrix_counts_a_class_nobody_predicts(predictions):
    labels, probabilities = predictions
    probabilities = np.tile([0.5, 0.3, 0.2], (400, 1))
    texts = [text.get_text() for text in plot_predictions(labels, probabilities, ("a", "b", "tie")).axes[0].texts]
    assert len(texts) == 9
    assert sum(text.startswith("0\n") for text in texts) == 6


def test_the_submission_has_every_row_once_in_order(tmp_path, predictions):
    _, probabilities = predictions
    probabilities[0] = [1, 0, 0]
    ids = pd.Series([f"{i:04d}" for i in range(400)][::-1])
    write_submission(tmp_path / "submission.csv", ids, probabilities, LMSYS)
    written = pd.read_csv(tmp_path / "submission.csv", dtype={"id": str})
    assert list(written) == ["id", "winner_model_a", "winner_model_b", "winner_tie"]
    assert written["id"].tolist() == ids.tolist()
    values = written.iloc[:, 1:].to_numpy()
    assert values.min() > 0
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["submission.csv"]


def test_two_classes_submit_the_winner():
    table = submission_table(pd.Series(["x", "y"]), np.array([[0.6, 0.4], [0.1, 0.9]]), WSDM)
    assert table["winner"].tolist() == ["model_a", "model_b"]


@pytest.mark.parametrize(
    ("ids", "probabilities", "words"),
    [
        (["a", "b"], [[0.2, 0.3, 0.5]], "2 test rows, but 1"),
        (["a", "a"], [[0.2, 0.3, 0.5]] * 2, "submitted twice"),
        (["a"], [[0.4, 0.6]], "LMSYS has 3 classes"),
        (["a"], [[np.nan, 0.5, 0.5]], "NaN"),
        (["a"], [[-0.2, 0.7, 0.5]], "negative"),
        (["a"], [[0.2, 0.3, 0.4]], "sum to 1"),
    ],
)
def test_a_wrong_submission_is_not_written(ids, probabilities, words):
    with pytest.raises(ValueError, match=words):
        submission_table(pd.Series(ids), np.array(probabilities), LMSYS)


@pytest.fixture
def full_disk():
    """A limit on the file size fails like a full disk does: in the write, half-way."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_earlier_file(tmp_path, full_disk):
    path = tmp_path / "submission.csv"
    path.write_text("earlier")
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(path, pd.DataFrame({"x": np.arange(100_000)}))
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]


def test_a_full_disk_leaves_no_folder_that_looks_trained(tmp_path, tiny, tokenizer, full_disk):
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
    with pytest.raises(InputError, match="cannot be written"):
        save_trained(
            model, tokenizer, tmp_path / "fold_0", SavedSettings("finetune_deberta", ("a", "b", "tie"), Reading())
        )
    assert find_trained(tmp_path) == []


def test_a_folded_table_shows_all_rows_and_leaves_unknown_cells_empty():
    html = folded("Trials <all>", pd.DataFrame({"gain": [0.5, np.nan], "row": range(2)}))
    assert html.startswith("<details><summary>Trials &lt;all&gt;</summary>")
    assert "NaN" not in html
    assert folded("", pd.DataFrame({"row": range(500)})).count("<tr>") == 500


def test_texts_of_a_table_stand_left_and_hold_no_markup():
    html = as_html(pd.DataFrame({"a <step>": ["twice <b>", None], "gain": [0.5, np.nan]}))
    assert '<div style="text-align:left">twice &lt;b&gt;</div>' in html
    assert '<div style="text-align:left">a &lt;step&gt;</div>' in html
    assert "<td>0.5</td>" in html
    assert html.count("<td></td>") == 2
    assert "overflow-wrap:anywhere" not in html
    code = as_html(pd.DataFrame({"change": ["gradient_accumulation_steps=2"]}))
    assert "overflow-wrap:anywhere" in code, "code breaks where a page is narrow"
