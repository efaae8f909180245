"""The forecast counts what a run really does, changes nothing, and says what does not fit."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src_py.kaggle.clock import Clock
from src_py.kaggle.session import start_session
from src_py.model.pace import Pace, fit_pace, part_work, prediction_lengths, sequence_lengths, typical, works
from src_py.model.predict import predict_logits, prediction_parts
from src_py.model.preference import build_model
from src_py.pairs.encode import Reading, encode_pairs
from src_py.training.checkpoints import disk_needed
from src_py.training.forecast import HIDDEN_ROWS, Forecast, Plan, forecast_run
from src_py.training.trainer import TrainingSettings, make_trainer
from src_py.training.work import steps_done, training_work

READING = Reading(max_length=48)
HOUR, GB = 3600.0, 1e9


@pytest.fixture
def encoded(tokenizer, pairs):
    return encode_pairs(pairs[:60], tokenizer, READING)


@pytest.fixture
def new_trainer(tiny, tokenizer, encoded, tmp_path):
    def make(**changes):
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
        options = {"epochs": 1.5, "lr": 1e-3, "batch_size": 8, "micro_batch": 2, "evals_per_epoch": 1}
        settings = TrainingSettings(**options | changes)
        train, valid = encoded.select(range(40)), encoded.select(range(40, 60))
        return make_trainer(model, train, valid, tokenizer.pad_token_id, tmp_path / "checkpoints", settings)

    return make


def forecast(trainer, tokenizer, pairs, seconds=0.0, clock=None, **plan):
    plan = Plan(**{"folds": 1, "models": 1, "test_rows": 10} | plan)
    return forecast_run(trainer, tokenizer, pairs[:40], READING, plan, clock or Clock(8.5), seconds)


def dataset_lengths(trainer):
    return sequence_lengths(trainer.train_dataset), sequence_lengths(trainer.eval_dataset)


class EncoderCalls:
    """Counts what the encoder of a model is given: calls, tokens, tokens times length; training and prediction."""

    def __init__(self, model):
        self.training, self.prediction = np.zeros(3, int), np.zeros(3, int)
        self.model = model
        model.encoder.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        rows, length = kwargs["input_ids"].shape
        work = self.training if self.model.training else self.prediction
        work += [1, rows * length, rows * length**2]


def test_parts_tokens_and_evaluations_are_those_of_the_real_run(new_trainer, monkeypatch):
    trainer = new_trainer()
    work = training_work(trainer, *dataset_lengths(trainer))
    calls, evaluations = EncoderCalls(trainer.model), []
    evaluate = trainer.evaluate
    monkeypatch.setattr(trainer, "evaluate", lambda *args, **kwargs: evaluations.append(1) or evaluate(*args, **kwargs))
    trainer.train()
    assert work.steps == trainer.state.global_step == 8
    assert work.evaluations == len(evaluations) == 2
    assert work.forward_backward.tolist() == calls.training.tolist()
    assert (work.evaluations * work.forward).tolist() == calls.prediction.tolist()
    kept = [int(path.name.removeprefix("checkpoint-")) for path in Path(trainer.args.output_dir).glob("checkpoint-*")]
    assert steps_done(trainer.args.output_dir) == max(kept)
    left = training_work(trainer, *dataset_lengths(trainer), done=8)
    assert (left.steps, left.evaluations, left.rows) == (0, 0, 0)
    assert not left.forward_backward.any()


def test_what_is_done_is_not_counted_again(new_trainer):
    trainer = new_trainer()
    whole, rest, end = (training_work(trainer, *dataset_lengths(trainer), done=done) for done in (0, 5, 7))
    assert (whole.steps, rest.steps, end.steps) == (8, 3, 1)
    assert (whole.evaluations, rest.evaluations, end.evaluations) == (2, 1, 1)
    assert 0 < rest.forward_backward[1] < whole.forward_backward[1]


def test_two_processes_halve_the_training(new_trainer):
    trainer = new_trainer()
    one, two = (training_work(trainer, *dataset_lengths(trainer), processes=n) for n in (1, 2))
    assert two.steps == one.steps
    assert two.rows == one.rows / 2
    assert two.forward_backward[1] == pytest.approx(one.forward_backward[1] / 2, rel=0.15)
    assert two.evaluated <= one.evaluated / 2 + trainer.args.eval_batch_size


def test_batches_of_a_prediction_are_those_of_the_real_one(new_trainer, tokenizer, encoded):
    calls = EncoderCalls(new_trainer().model)
    predict_logits(calls.model, encoded, tokenizer.pad_token_id, 800, progress=False)
    lengths = sequence_lengths(encoded)
    assert works(lengths, prediction_parts(lengths.max(1), 2, 800)).sum(0).tolist() == calls.prediction.tolist()


def test_lengths_are_those_of_the_sequences(encoded):
    rows = encoded.select([7, 3, 12])
    assert sequence_lengths(rows).tolist() == [[len(ids) for ids in both] for both in rows["sequences"]]


@pytest.mark.parametrize("style", ["pairwise", "joint"])
@pytest.mark.parametrize("longer", [48, 64, 4000])
def test_lengths_in_prediction_are_those_of_the_texts_read_that_far(tokenizer, pairs, style, longer):
    short, other = (encode_pairs(pairs[:60], tokenizer, Reading(style, length)) for length in (48, longer))
    found = prediction_lengths(short, Reading(style, longer))
    np.testing.assert_allclose(found, sequence_lengths(other), atol=2)  # a cut may leave no room for another turn


def test_a_pace_is_found_again_and_never_negative():
    lengths = np.random.default_rng(0).integers(10, 500, (40, 2))
    work = works(lengths, np.split(np.arange(40), 10))
    pace = Pace(0.01, 2e-5, 3e-8)
    assert fit_pace(work, np.array([pace.seconds(one) for one in work])) == pytest.approx(pace, rel=1e-6)
    assert min(fit_pace(work, 1 / work[:, 1])) >= 0


def test_typical_parts_are_short_middle_and_long():
    work = np.array([part_work([length] * 4) for length in range(100, 0, -1)])
    short, middle, long = (work[i, 2] / work[i, 1] for i in typical(work))
    assert 20 < short < middle < long < 100


@pytest.mark.slow
def test_training_after_a_forecast_is_bit_identical(new_trainer, tokenizer, pairs):
    weights = []
    for look in (False, True):
        trainer = new_trainer(epochs=0.5)
        if look:
            before = torch.get_rng_state(), np.random.get_state()[1].copy()
            forecast(trainer, tokenizer, pairs)
            assert torch.equal(torch.get_rng_state(), before[0])
            assert (np.random.get_state()[1] == before[1]).all()
            assert not trainer.optimizer.state
            assert all(p.grad is None for p in trainer.model.parameters())
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.slow
def test_the_forecast_of_a_run_counts_its_folds_models_and_disk(new_trainer, tokenizer, pairs):
    trainer = new_trainer()
    found = forecast(trainer, tokenizer, pairs, folds=3, models=4, test_rows=17)
    assert (found.steps, found.evaluations, found.test_rows) == (24, 6, 17)
    assert found.disk == disk_needed(trainer.model, 3, True)
    assert math.isnan(found.peak)
    assert min(found.training, found.evaluation, found.validation, found.test, found.hidden) > 0
    assert found.hidden > found.test
    assert found.problems == []
    shown = repr(found)
    for words in ("training: 24 steps", "submission: 17 test rows", f"{HIDDEN_ROWS:,} test rows", "GPU memory", "-"):
        assert words in shown


@pytest.fixture
def fits():
    return Forecast(
        spent=0.1 * HOUR, training=5 * HOUR, evaluation=HOUR, validation=0.2 * HOUR, test=60.0, hidden=HOUR,
        seconds=8.5 * HOUR, peak=5 * GB, card=13.3 * GB, disk=7 * GB, room=20 * GB, steps=5000, evaluations=8,
        test_rows=3, epochs=2.0, micro_batch=4, folds=2, half=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": 9 * HOUR}, "10.3 hours, and CFG.hours is 8.5"),
        ({"training": 9 * HOUR}, "training would stop early. Lower CFG.epochs from 2 to 1.6, train fewer CFG.folds,"),
        ({"training": 7.5 * HOUR}, "or raise CFG.hours to 8.9"),
        ({"validation": 20 * HOUR}, "Train fewer CFG.folds, or lower CFG.max_length"),
        ({"hidden": 10 * HOUR}, "scoring run would take 10.0 hours for 25,000 test rows"),
        ({"peak": 14 * GB}, "needs 14.0 GB, more than the 13.3 GB that can be used of the GPU's memory: set CFG.micro"),
        ({"peak": math.inf, "micro_batch": 1}, "does not fit into the 13.3 GB that can be used of the GPU"),
        ({"disk": 21 * GB}, "21.0 GB of disk, and there is room for 20.0 GB: train fewer CFG.folds"),
        ({"training": 9 * HOUR, "folds": 1}, "Lower CFG.epochs from 2 to 1.6, or lower CFG.max_length."),
        ({"hidden": 10 * HOUR, "folds": 1}, "is ended after 9: lower CFG.max_length."),
        ({"disk": 21 * GB, "folds": 1, "half": False}, "there is room for 20.0 GB: set CFG.save_fp16 = True."),
        ({"disk": 21 * GB, "folds": 1}, "there is room for 20.0 GB: free some space"),
    ],
)  # fmt: skip
def test_one_sentence_for_each_thing_that_does_not_fit(fits, changes, said):
    assert fits.problems == []
    (sentence,) = replace(fits, **changes).problems
    assert said in sentence
    assert sentence in replace(fits, **changes)._repr_html_()


def test_without_a_gpu_memory_is_a_dash_and_no_problem(fits):
    found = replace(fits, peak=math.nan, card=math.nan)
    assert found.problems == []
    assert math.isnan(found.table.loc["GPU memory of a training step", "forecast"])


def test_the_table_adds_up(fits):
    table = fits.table
    stages = table["forecast"][: list(table.index).index("the whole run")]
    assert table.loc["the whole run", "forecast"] == pytest.approx(stages.sum())
    assert table.loc["the whole run", "limit"] == 8.5 * 60


def test_forecast_and_truth_stand_side_by_side(fits):
    clock = Clock(8.5)
    clock.stages = [("Check", clock.begun + 100), ("Train", clock.begun + 100 + 3.1 * HOUR)]
    clock.stages.append(("Submission", clock.stages[-1][1] + 120))
    table = fits.against(clock)
    assert table.filter(like="Train", axis=0).iloc[0].tolist() == pytest.approx([6.2 * 60, 3.1 * 60, 0.5])
    assert table.loc["Submission"].tolist() == pytest.approx([1.0, 2.0, 2.0])
