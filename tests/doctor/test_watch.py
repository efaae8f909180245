"""The watcher stops what cannot get better, and nothing else; the verdict says what came of it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from src_py.doctor.diagnose import Run, diagnose, learns_by_heart
from src_py.doctor.verdict import interval, judge_training
from src_py.doctor.watch import watch
from src_py.errors import InputError
from src_py.evaluation.baselines import length_only
from src_py.evaluation.report import history_table
from src_py.kaggle.session import start_session
from src_py.model.preference import build_model
from src_py.pairs.contest import LMSYS
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.load import load_pairs
from src_py.pairs.split import assign_folds
from src_py.training.trainer import TrainingSettings, make_trainer
from tests.conftest import seeds
from tests.doctor.learners import FAMILIES, make_model, make_rows, plain_trainer
from tools.demo_data import make_pairs, write_contest

CONSTANT = 1.097
NOISE = 0.02 * np.random.default_rng(0).normal(size=100)


def history(losses, spreads, training=(1.097, 1.097), steps=100, first=10):
    """A run of 100 steps, evaluated every ten; the training loss goes down a line."""
    run = Run(steps, warmup_steps=5, constant=CONSTANT, best_constant=CONSTANT, untrained=0.02)
    run.evaluations = [
        {"step": first + 10 * i, "log_loss": loss, "spread": spread}
        for i, (loss, spread) in enumerate(zip(losses, spreads))
    ]
    last = run.evaluations[-1]["step"]
    run.step_losses = list(enumerate(np.linspace(*training, last) + NOISE[:last]))
    return run


FLAT = [1.098] * 9
LOST = {
    "NaN": history([math.nan], [math.nan]),
    "same prediction": history(FLAT[:3], [0.02, 1e-4, 1e-5]),
    "diverged": history([1.05, 1.2, 1.25, 1.2, 1.26, 1.27], [0.1] * 6, (1.2, 1.2)),
    "has fallen": history(FLAT, [0.02] * 9),
}
ALIVE = {
    "before a quarter of the steps": history(FLAT[:2], [1e-5] * 2),
    "in the warmup": history(FLAT[:1], [1e-5]),
    "one evaluation only": history(FLAT[:1], [1e-5], first=50),
    "flat for half of the run": history(FLAT[:5], [0.02] * 5),
    "flat for long, but predictions begin to vary": history(FLAT, [0.02] * 8 + [0.03]),
    "the training loss falls": history(FLAT, [0.02] * 9, (1.15, 1.0)),
    "little spread, but a better loss": history([1.09] * 5, [1e-4] * 5),
    "diverged once": history([1.05, 1.06, 1.3], [0.1] * 3, (1.1, 1.1)),
    "diverged and comes back": history([1.05, 1.2, 1.3, 1.25, 1.2, 1.15], [0.1] * 6, (1.2, 1.2)),
    "overfits": history([1.05, 1.06, 1.1, 1.2, 1.3, 1.4], [0.2] * 6, (1.1, 0.4)),
    "a late learner": history([1.08] * 6, [0.05] * 6),
}


@pytest.mark.parametrize("word", LOST)
def test_each_way_to_lose_a_run_is_recognised(word):
    assert word in diagnose(LOST[word]).sentence


@pytest.mark.parametrize("case", ALIVE)
def test_a_run_that_may_still_learn_lives(case):
    assert diagnose(ALIVE[case]) is None


def test_rows_learned_by_heart_are_noted_and_nothing_is_stopped():
    run = history([1.11] * 5, [0.1] * 5, (1.1, 0.6))
    assert learns_by_heart(run)
    assert diagnose(run) is None
    assert not learns_by_heart(history([1.11, 1.1, 1.09, 1.05, 1.0], [0.1] * 5, (1.1, 0.6)))


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    def make(table=None, rows=240, held_out=60, seed=0, **changes):
        start_session(seed)
        encoded = encode_pairs(pairs[:rows] if table is None else table, tokenizer, Reading(max_length=64))
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
        options = {"epochs": 6, "lr": 2e-3, "head_lr": 2e-3, "batch_size": 16, "micro_batch": 16, "warmup": 0.1}
        options |= {"evals_per_epoch": 1, "layer_decay": 1.0}
        return make_trainer(
            model,
            encoded.select(range(held_out, len(encoded))),
            encoded.select(range(held_out)),
            pad_token_id=tokenizer.pad_token_id,
            output_dir=tmp_path,
            settings=TrainingSettings(**options | changes),
            seed=seed,
        )

    return make


@pytest.mark.parametrize("seed", range(3))
def test_a_collapsing_run_is_stopped_within_half_of_its_steps(new_trainer, seed):
    trainer = new_trainer(lr=0.5, head_lr=1e-5, warmup=0.02, evals_per_epoch=2, seed=seed)
    watcher = watch(trainer)
    trainer.train()
    assert watcher.events
    assert trainer.state.global_step <= 0.5 * trainer.state.max_steps


def test_nan_is_caught_at_the_step_it_appears_in(new_trainer):
    trainer = new_trainer()
    watcher = watch(trainer)
    inner = trainer.model.forward
    trainer.model.forward = lambda *a, **k: {
        name: value * (math.nan if name == "loss" and trainer.state.global_step == 2 else 1)
        for name, value in inner(*a, **k).items()
    }
    trainer.train()
    assert trainer.state.global_step == 3
    assert "step 3" in watcher.events[0]


def test_without_stop_it_only_says_so(new_trainer):
    trainer = new_trainer(epochs=3, lr=0.5, head_lr=1e-5, warmup=0.02, evals_per_epoch=2)
    watcher = watch(trainer, stop=False)
    trainer.train()
    assert watcher.events
    assert trainer.state.global_step == trainer.state.max_steps


def fp16_trainer(folder, overflowing, **arguments):
    """A Trainer with a real GradScaler, whose loss is infinite at the steps named by `overflowing`."""
    trainer = plain_trainer(folder, max_steps=60, eval_strategy="no", optim="adamw_torch_fused", **arguments)
    trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu")

    def spoil(module, inputs, output):
        if module.training and overflowing(trainer.state.global_step):
            output["loss"] = output["loss"] * math.inf
        return output

    trainer.model.register_forward_hook(spoil)
    return trainer


def test_one_infinite_loss_that_the_scaler_skips_is_no_reason_to_stop(tmp_path):
    trainer = fp16_trainer(tmp_path, lambda step: step == 7)
    watcher = watch(trainer)
    trainer.train()
    assert watcher.events == []
    assert sum(watcher.skipped) == 1
    assert trainer.state.global_step == 60


def test_several_infinite_losses_in_a_row_are(tmp_path):
    trainer = fp16_trainer(tmp_path, lambda step: step >= 7)
    watcher = watch(trainer)
    trainer.train()
    assert "NaN or infinite" in watcher.events[0]
    assert trainer.state.global_step == 10


def test_skipped_steps_are_seen_by_the_scaler_s_own_scale(tmp_path):
    """Gradients overflow while the loss is finite; with a fused optimizer accelerate reports no skip."""
    trainer = fp16_trainer(tmp_path, lambda step: False)
    trainer.model.classifier.weight.register_hook(lambda gradient: gradient * math.inf)
    watcher = watch(trainer)
    trainer.train()
    assert "skipped" in watcher.events[0]
    assert trainer.state.global_step == 25


def test_skips_now_and_then_are_noted_only(tmp_path):
    trainer = fp16_trainer(tmp_path, lambda step: False)
    trainer.args.max_steps = 110
    trainer.model.classifier.weight.register_hook(
        lambda gradient: gradient * (math.inf if trainer.state.global_step % 3 == 0 else 1)
    )
    watcher = watch(trainer)
    trainer.train()
    assert watcher.events == []
    assert "skipped" in watcher.notes[0]


def test_a_resumed_run_remembers_what_was_seen_before(tmp_path):
    first = plain_trainer(tmp_path, save_strategy="steps", save_steps=10, max_steps=20)
    watch(first)
    first.train()
    trainer = plain_trainer(tmp_path, save_strategy="no", max_steps=40)
    watcher = watch(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert [e["step"] for e in watcher.run.evaluations] == [10, 20, 30, 40]
    assert [step for step, _ in watcher.run.step_losses] == list(range(1, 41))


def test_classes_are_called_what_the_model_calls_them(tmp_path):
    names = {0: "bad", 1: "good"}
    model = make_model(num_labels=2, id2label=names)
    rows = make_rows(60, 1, classes=2)
    trainer = plain_trainer(tmp_path, model, rows, rows, max_steps=1)
    watch(trainer)
    assert {"eval_predicted_bad", "eval_predicted_good", "eval_spread", "eval_log_loss"} <= set(trainer.evaluate())
    trainer = plain_trainer(tmp_path, make_model(num_labels=5), make_rows(60, 1, 5), make_rows(60, 2, 5))
    watch(trainer)
    assert {f"eval_predicted_{k}" for k in range(5)} <= set(trainer.evaluate())


LEARNERS = [
    (family, rate, schedule)
    for family in FAMILIES
    for rate in (2e-3, 3e-3, 5e-3)
    for schedule in (
        {"warmup_steps": 0.0},
        {"warmup_steps": 0.1},
        {"warmup_steps": 0.3, "per_device_train_batch_size": 8, "num_train_epochs": 4},
        {"warmup_steps": 0.1, "lr_scheduler_type": "constant_with_warmup", "per_device_train_batch_size": 32},
    )
]
FAST = (0, 13, 27, 37, 41)


@pytest.mark.parametrize(
    "number", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in range(len(LEARNERS))]
)
def test_a_tiny_learner_of_any_family_is_never_stopped(tmp_path, number):
    family, rate, schedule = LEARNERS[number]
    options = {"num_train_epochs": 8, "learning_rate": rate, "eval_steps": 10} | schedule
    train, valid = make_rows(320, 1, noise=0.0), make_rows(120, 2, noise=0.0)
    trainer = plain_trainer(tmp_path, make_model(family), train, valid, **options)
    watcher = watch(trainer)
    trainer.train()
    assert watcher.events == []
    assert trainer.state.global_step == trainer.state.max_steps
    LEARNED[number] = watcher.run.evaluations[-1]["log_loss"] < watcher.constant - 0.03


LEARNED: dict[int, bool] = {}


@pytest.mark.slow
def test_the_tiny_learners_did_learn():
    """What is not stopped above says something only where it is a learner: at least forty are."""
    if len(LEARNED) < len(LEARNERS):
        pytest.skip("needs all learners")
    assert sum(LEARNED.values()) >= 40


@pytest.mark.parametrize("rate", [0.3, pytest.param(1.0, marks=pytest.mark.slow), 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_at_a_hundred_times_its_rate_is_stopped_within_half_of_its_steps(tmp_path, family, rate):
    trainer = plain_trainer(tmp_path, make_model(family), make_rows(320, 1), make_rows(120, 2), learning_rate=rate)
    watcher = watch(trainer)
    trainer.train()
    assert "same prediction" in watcher.events[0]
    assert trainer.state.global_step <= 0.5 * trainer.state.max_steps


@pytest.mark.parametrize("seed", seeds(20))
def test_a_run_that_learns_is_never_stopped(new_trainer, tmp_path, seed):
    # Answers that differ plainly in quality, so that a few hundred rows are enough to learn from.
    make_pairs(1000, seed, quality_scale=8.0)[0].to_csv(tmp_path / "train.csv", index=False)
    trainer = new_trainer(
        load_pairs(tmp_path / "train.csv", LMSYS)[0], held_out=200, seed=seed, epochs=4, lr=4e-3, head_lr=4e-3
    )
    # Without stopping, so that whether it learns does not depend on the watcher.
    watcher = watch(trainer, stop=False)
    trainer.train()
    if history_table(trainer.state.log_history)["log loss"].min() > watcher.best_constant - 0.01:
        pytest.skip("this seed does not learn: it says nothing about false alarms")
    assert watcher.events == []


def test_the_verdict_names_the_settings_of_the_trainer_that_it_is_given(big, tmp_path):
    train, valid, truth = big
    wild = np.random.default_rng(0).dirichlet([0.5] * 3, len(truth))
    broke_out = pd.DataFrame({"log loss": [1.08, 1.9], "training loss": [1.2, 1.5]})
    given = (train, valid, wild, valid["prompt"].map(tuple), broke_out)
    assert "lower CFG.lr" in judge_training(*given).sentence
    assert "lower TrainingArguments.learning_rate" in judge_training(*given, trainer=plain_trainer(tmp_path)).sentence


@pytest.fixture
def big(tmp_path):
    truth = write_contest(tmp_path, train_rows=1500, test_rows=3)
    table, _ = load_pairs(tmp_path / "train.csv", LMSYS)
    rows = assign_folds(table, 3, 0) == 0
    return table[~rows], table[rows], truth.set_index("id").loc[table["id"][rows], ["a", "b", "tie"]].to_numpy()


def verdict(big, probabilities, history=None, take=slice(None)):
    train, valid, _ = big
    valid = valid.iloc[take]
    history = None if history is None else pd.DataFrame(history)
    return judge_training(train, valid, probabilities[take], valid["prompt"].map(tuple), history)


def test_the_verdicts(big):
    _train, _valid, truth = big
    shares = np.tile(truth.mean(0), (len(truth), 1))
    rng = np.random.default_rng(0)
    healthy = {"log loss": [1.05, 1.0], "training loss": [1.08, 1.0]}
    assert verdict(big, truth, healthy).name == "learned"
    assert verdict(big, shares).name == "constant predictor"
    wild = rng.dirichlet([0.5] * 3, len(truth))
    assert verdict(big, wild).name == "overfitted"
    by_heart = {"log loss": [1.08, 1.2], "training loss": [1.0, 0.5]}
    # Twenty rows, half of them surprising: an interval on both sides of zero.
    gain = np.log(truth[np.arange(len(truth)), big[1]["label"]] / shares[0][big[1]["label"]])
    few = np.concatenate([np.argsort(gain)[:10], np.argsort(-gain)[:10]])
    noisy = 0.93 * shares + 0.07 * wild
    assert verdict(big, noisy, by_heart).name == "overfitted"
    assert verdict(big, truth, healthy | {"log loss": [1.05, math.nan]}).name == "unstable"
    assert verdict(big, 0.4 * truth + 0.6 * shares, take=few).name == "not enough rows to tell"
    assert "LEARNED" in str(verdict(big, truth))
    assert verdict(big, truth).table.shape == (3, 3)


def test_one_bad_evaluation_or_late_overfitting_does_not_make_a_learner_unstable(big):
    truth = big[2]
    spike = {"log loss": [1.5, 1.05, 1.0], "training loss": [1.2, 1.08, 1.0]}
    late = {"log loss": [1.0, 1.1, 1.6], "training loss": [1.0, 0.7, 0.3]}
    assert verdict(big, truth, spike).name == "learned"
    assert verdict(big, truth, late).name == "learned"
    shares = np.tile(truth.mean(0), (len(truth), 1))
    assert verdict(big, shares, spike).name == "unstable"


def test_worse_than_constant_is_by_heart_only_where_the_training_loss_says_so(big):
    wild = 0.6 * np.random.default_rng(0).dirichlet([0.5] * 3, len(big[2])) + 0.4 / 3
    reported = verdict(big, wild).model
    flat = {"log loss": [reported, reported], "training loss": [1.1, 1.1]}
    assert verdict(big, wild, flat).name == "worse than the constant predictor"
    assert verdict(big, wild, flat | {"training loss": [1.0, 0.4]}).name == "overfitted"
    assert "by heart; use" not in verdict(big, wild).sentence


def test_predictions_that_are_not_those_that_training_evaluated(big):
    truth = big[2]
    shares = np.tile(truth.mean(0), (len(truth), 1))
    learned = verdict(big, truth).model
    history = {"log loss": [1.08, learned], "training loss": [1.08, 1.0]}
    assert verdict(big, truth, history).name == "learned"
    other = verdict(big, 0.5 * shares + 0.5 * np.roll(truth, 1, axis=1), history)
    assert other.name == "not what was evaluated"
    assert f"training reported {learned:.4f}" in other.sentence
    # Better than reported by more than calibration brings: other rows or labels were evaluated.
    flawed = {"log loss": [1.6, 1.6], "accuracy": [0.2, 0.2], "training loss": [1.6, 1.5]}
    assert verdict(big, truth, flawed).name == "not what was evaluated"
    # The best weights or the last ones, and a little better by calibration.
    assert verdict(big, truth, {"log loss": [learned + 0.05, 1.2], "training loss": [1.0, 0.9]}).name == "learned"


def test_a_class_that_training_lacks_does_not_make_every_model_learned(big):
    train, valid, truth = big
    shares = np.tile([0.499, 0.499, 0.002], (len(truth), 1))
    result = judge_training(train[train["label"] != 2], valid, shares, valid["prompt"].map(tuple))
    assert result.constant < 10
    assert result.name == "not enough rows to tell"
    assert "labels 2 occur in validation only" in result.sentence


def test_few_prompts_say_nothing_however_many_rows_they_have(big):
    train, valid, truth = big
    assert judge_training(train, valid, truth, valid["prompt"].map(len) % 3).name == "not enough rows to tell"


def test_a_history_without_evaluations_is_no_obstacle(big):
    assert verdict(big, big[2], {"epoch": [1.0]}).name == "learned"


def test_figures_that_do_not_belong_together_are_refused(big):
    train, valid, truth = big
    with pytest.raises(InputError, match=r"`valid` has .* rows, and there are .* predictions and .* prompts"):
        judge_training(train, valid, truth, valid["prompt"].map(tuple)[:-1])
    with pytest.raises(ValueError, match="sum"):
        judge_training(train, valid, truth * 2, valid["prompt"].map(tuple))


def test_a_model_that_only_knows_lengths_is_told_so(big):
    train, valid, _truth = big

    # Labels that follow the length of the answers, and a model that knows just that.
    def longer(table):
        gap = table["response_a"].map(lambda t: sum(map(len, t))) - table["response_b"].map(lambda t: sum(map(len, t)))
        return table.assign(label=np.where(gap > 30, 0, np.where(gap < -30, 1, 2)))

    train, valid = longer(train), longer(valid)
    known = 0.9 * length_only(train, valid, 3) + 0.1 / 3
    result = judge_training(train, valid, known, valid["prompt"].map(tuple))
    assert result.name == "learned little more than answer length"


def test_the_interval_resamples_prompts_not_rows():
    rng = np.random.default_rng(0)
    gains = np.repeat(rng.normal(size=50), 20)
    by_prompt, by_row = (interval(gains, groups) for groups in (np.repeat(np.arange(50), 20), np.arange(1000)))
    assert by_prompt[1] - by_prompt[0] > 3 * (by_row[1] - by_row[0])
