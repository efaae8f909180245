"""Counts of length and format beside the text bring a model below the constant predictor: a dead encoder must show."""

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from src_py.doctor.diagnose import Run, diagnose
from src_py.doctor.verdict import judge_training
from src_py.doctor.watch import watch
from src_py.evaluation.report import counts_of, history_table, validation_table
from src_py.model.counted import predict_counts, without_text
from src_py.model.preference import build_model
from src_py.pairs.contest import LMSYS
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.load import load_pairs, prompt_key
from src_py.training.trainer import TrainingSettings, make_trainer
from tests.conftest import seeds
from tools.demo_data import make_pairs

HELD = 120


@pytest.fixture(scope="module")
def lengths(tmp_path_factory):
    """Pairs whose longer answer wins, but for one in six."""
    path = tmp_path_factory.mktemp("lengths") / "train.csv"
    make_pairs(360, 0)[0].to_csv(path, index=False)
    table, rng = load_pairs(path, LMSYS)[0], np.random.default_rng(0)
    a, b = (table[side].map(lambda turns: sum(map(len, turns))) for side in ("response_a", "response_b"))
    label = np.where(a > b + 30, 0, np.where(b > a + 30, 1, 2))
    return table.assign(label=np.where(rng.random(len(table)) < 1 / 6, rng.integers(3, size=len(table)), label))


@pytest.fixture
def new_trainer(tiny, tokenizer, lengths, tmp_path):
    def make(one_text=False, **changes):
        encoded = encode_pairs(lengths, tokenizer, Reading(max_length=24, features="on"))
        if one_text:  # what shattered text does at its worst: every answer reads alike
            text = encoded[0]["sequences"][0]
            encoded = encoded.map(lambda row: {"sequences": [text, text]})
        train, valid = encoded.select(range(HELD, len(encoded))), encoded.select(range(HELD))
        model = build_model(tiny, tokenizer, "pairwise", [0.4, 0.4, 0.2], features="on", train=train)
        options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 16} | changes
        settings = TrainingSettings(evals_per_epoch=2, **options)
        pad = tokenizer.pad_token_id
        return make_trainer(model, train, valid, pad_token_id=pad, output_dir=tmp_path, settings=settings)

    return make


@pytest.mark.slow
def test_a_run_that_does_not_move_is_stopped_though_the_counts_are_good(new_trainer, capsys):
    trainer = new_trainer(lr=1e-9, head_lr=1e-9)
    watcher = watch(trainer)
    trainer.train()
    assert watcher.run.evaluations[-1]["log_loss"] < watcher.constant - 0.05, "compared with it, this looks learned"
    assert "has fallen below that of the counts alone" in watcher.events[0]
    assert "whether CFG.lr is too low" in watcher.events[0], "lowering it would be the wrong advice"
    assert "to the counts alone)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fault", [{"one_text": True}, pytest.param({"lr": 0.5, "warmup": 0.02}, marks=pytest.mark.slow)], ids=str
)
def test_a_dead_encoder_is_stopped_while_the_counts_learn_on(new_trainer, fault):
    trainer = new_trainer(**fault)
    watcher = watch(trainer)
    trainer.train()
    assert "the encoder adds nothing to the counts" in watcher.events[0]
    assert "for texts that read alike" in watcher.events[0]
    assert trainer.state.global_step <= 0.6 * trainer.state.max_steps


@pytest.mark.parametrize("form", ["none", "empty", "dict"])
def test_evaluation_sets_of_any_form_are_watched(new_trainer, form):
    trainer = new_trainer()
    valid = trainer.eval_dataset
    trainer.eval_dataset = {"none": None, "empty": valid.select([]), "dict": {"one": valid, "two": valid}}[form]
    watcher = watch(trainer)
    assert (watcher.counted is not None) == (form == "dict")


@pytest.mark.parametrize("seed", seeds(6, gated=1))
def test_a_run_that_reads_is_never_stopped(tiny, tokenizer, tmp_path, seed):
    """Answers that differ plainly in quality, and a taste for long ones that the counts know."""
    make_pairs(1000, seed, quality_scale=8.0, length_scale=3.0)[0].to_csv(tmp_path / "train.csv", index=False)
    encoded = encode_pairs(
        load_pairs(tmp_path / "train.csv", LMSYS)[0], tokenizer, Reading(max_length=64, features="on")
    )
    train, valid = encoded.select(range(200, 1000)), encoded.select(range(200))
    model = build_model(tiny, tokenizer, "pairwise", [0.4, 0.4, 0.2], features="on", train=train, seed=seed)
    rates = {"lr": 4e-3, "head_lr": 4e-3, "batch_size": 16, "micro_batch": 16, "layer_decay": 1.0}
    settings = TrainingSettings(epochs=4, evals_per_epoch=2, **rates)
    pad = tokenizer.pad_token_id
    trainer = make_trainer(
        model, train, valid, pad_token_id=pad, output_dir=tmp_path / "out", settings=settings, seed=seed
    )
    watcher = watch(trainer)
    trainer.train()
    assert watcher.events == []
    assert trainer.state.global_step == trainer.state.max_steps


@pytest.mark.slow
def test_the_verdict_names_an_encoder_that_adds_nothing(new_trainer, lengths):
    """Though the counts are better than they were when the training began."""
    trainer = new_trainer(one_text=True)
    before, valid = predict_counts(trainer.model, trainer.eval_dataset), lengths[:HELD]
    trainer.train()
    after, labels = predict_counts(trainer.model, trainer.eval_dataset), np.array(trainer.eval_dataset["labels"])
    predicted = softmax(trainer.predict(trainer.eval_dataset).predictions.astype(float), axis=1)
    counts = without_text(predicted, before, after, labels)
    np.testing.assert_allclose(counts, predicted, atol=1e-5)
    assert log_loss(labels, counts) < log_loss(labels, before)
    valid = valid.assign(label=labels)  # in the order of the Trainer
    history = history_table(trainer.state.log_history)
    verdict = judge_training(lengths[HELD:], valid, predicted, prompt_key(valid), history, counts)
    assert verdict.over_constant[0] > 0.1
    assert verdict.name == "learned little more than the counts"
    assert "the encoder adds nothing to them" in verdict.sentence
    assert list(verdict.lines) == ["constant predictor", "length only", "counts alone"]
    assert verdict.table.shape == (4, 3)


def test_what_beats_the_counts_has_learned(lengths):
    valid, rng = lengths[:HELD], np.random.default_rng(1)
    labels = valid["label"].to_numpy()
    right = np.eye(3)[labels]
    counts = np.clip(0.55 * right + 0.15 + rng.normal(0, 0.05, right.shape), 0.01, 1)
    counts /= counts.sum(1, keepdims=True)

    def name(probabilities):
        verdict = judge_training(lengths[HELD:], valid, probabilities, prompt_key(valid), None, counts)
        return verdict.name, verdict.sentence

    assert name(0.8 * counts + 0.2 * right)[0] == "learned"
    few = softmax(np.log(counts) + 0.3 * rng.normal(size=counts.shape) + 0.08 * right, axis=1)
    verdict = judge_training(lengths[HELD:], valid[:40], few[:40], prompt_key(valid[:40]), None, counts[:40])
    assert verdict.name != "learned", "on so few rows chance alone looks like this"
    assert name(counts)[0] == "learned little more than the counts"
    assert name(0.999 * counts + 0.001 * right)[0] == "learned little more than the counts"  # surely better, by nothing
    assert name(0.3 * counts + 0.7 / 3)[0] != "learned"


def test_a_run_is_compared_with_the_lower_of_two_lines():
    def run(losses, spreads, counts):
        made = Run(100, constant=1.1, best_constant=1.1, untrained=0.02, counts=counts, counts_training=counts)
        steps = range(10, 10 * len(losses) + 1, 10)
        made.evaluations = [
            {"step": step, "log_loss": loss, "spread": spread} for step, loss, spread in zip(steps, losses, spreads)
        ]
        made.step_losses = [(step, losses[0] + 0.01 * math.sin(step)) for step in range(10 * len(losses))]
        found = diagnose(made)
        return found and found.sentence

    flat = [1.0] * 9
    assert "counts alone" in run(flat, [0.02] * 9, counts=1.0)
    assert run(flat, [0.02] * 9, counts=1.05) is None
    assert "counts alone" in run([1.1] * 9, [0.02] * 9, counts=1.2), "counts that overfit are no excuse"
    assert run(flat, [0.02] * 8 + [0.04], counts=1.0) is None
    assert "changes no row" in run([0.9] * 5, [0.02, 0.02, 0.02, 1e-5, 1e-5], counts=1.0)


def test_the_table_of_a_model_keeps_what_its_counts_said(lengths):
    valid, classes = lengths[:4], LMSYS.classes
    shares = np.full((4, 3), 1 / 3)
    counts = np.tile([0.5, 0.3, 0.2], (4, 1))
    np.testing.assert_array_equal(
        counts_of(validation_table(valid, 0, classes, shares, shares, counts), classes), counts
    )
    assert counts_of(validation_table(valid, 0, classes, shares, shares), classes) is None


def test_a_model_is_compared_with_the_better_of_its_counts_before_and_after_training():
    """Also when training spoiled the counts, or improved them beside a text that says the same of every row."""
    labels = np.array([0, 1, 0, 1])
    sharp, flat = (np.where(np.eye(3)[labels] > 0, top, (1 - top) / 2) for top in (0.8, 0.4))
    np.testing.assert_allclose(without_text(flat, sharp, flat, labels), sharp)
    shift = np.array([0.3, 0.0, -0.3])  # what every text adds
    told = softmax(np.log(sharp) + shift, axis=1)
    np.testing.assert_allclose(without_text(told, flat, sharp, labels), told, atol=1e-9)
    assert without_text(flat, None, None, labels) is None
