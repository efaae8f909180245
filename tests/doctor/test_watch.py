"""The watcher stops what cannot get better, and nothing else; the verdict says what came of it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from src_py.doctor.verdict import interval, judge_training
from src_py.doctor.watch import diagnose, watch
from src_py.evaluation.baselines import length_only
from src_py.evaluation.report import history_table
from src_py.kaggle.session import start_session
from src_py.model.preference import adapt, build_model
from src_py.pairs.contest import LMSYS
from src_py.pairs.encode import encode_pairs
from src_py.pairs.load import load_pairs
from src_py.pairs.split import assign_folds
from src_py.training.trainer import make_trainer
from tests.conftest import seeds
from tools.demo_data import make_pairs, write_contest

CONSTANT = 1.097


def evaluation(step, log_loss, spread, training_loss=1.09):
    return {"step": step, "log_loss": log_loss, "spread": spread, "training_loss": training_loss}


@pytest.mark.parametrize(
    ("evaluations", "word"),
    [
        ([evaluation(20, math.nan, math.nan)], "NaN"),
        ([evaluation(20, 1.0971, 0.00001)], "same prediction"),
        ([evaluation(12, 1.099, 0.004), evaluation(24, 1.098, 0.004)], "collapse"),
        ([evaluation(12, 1.05, 0.1), evaluation(24, 1.16, 0.2)], "diverged"),
        ([evaluation(10 * i, 1.11, 0.1, 1.1 - 0.1 * i) for i in range(1, 5)], "by heart"),
        # May still learn: in the warmup; a spread that grows; a good loss with little spread; a little overfitting.
        ([evaluation(5, 1.0971, 0.00001)], None),
        ([evaluation(12, 1.099, 0.004), evaluation(24, 1.097, 0.009)], None),
        ([evaluation(12, 1.08, 0.019), evaluation(24, 1.07, 0.019)], None),
        ([evaluation(12, 1.02, 0.1), evaluation(24, 1.07, 0.2)], None),
        ([evaluation(10 * i, 1.099, 0.1, 1.09) for i in range(1, 5)], None),
    ],
)
def test_each_way_to_lose_a_run_is_recognised(evaluations, word):
    problem = diagnose(evaluations, CONSTANT, CONSTANT, warmup_steps=10, max_steps=100)
    assert (problem is None) if word is None else (word in problem)


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    def make(table=None, rows=240, held_out=60, **changes):
        seed = changes.get("seed", 0)
        start_session(seed)
        encoded = encode_pairs(pairs[:rows] if table is None else table, tokenizer, max_length=64)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
        adapt(model, freeze_embeddings=True, freeze_layers=0, reinit_layers=0)
        options = {"epochs": 6, "lr": 2e-3, "head_lr": 2e-3, "batch_size": 16, "micro_batch": 16, "warmup": 0.1}
        options |= {"evals_per_epoch": 1, "precision": "fp32", "seed": seed}
        return make_trainer(
            model,
            encoded.select(range(held_out, len(encoded))),
            encoded.select(range(held_out)),
            pad_token_id=tokenizer.pad_token_id,
            output_dir=tmp_path,
            **options | changes,
        )

    return make


@pytest.mark.parametrize("seed", range(3))
def test_a_collapsing_run_is_stopped_within_a_quarter_of_its_steps(new_trainer, seed):
    trainer = new_trainer(lr=0.5, head_lr=1e-5, warmup=0.02, evals_per_epoch=2, seed=seed)
    watcher = watch(trainer)
    trainer.train()
    assert watcher.events
    assert trainer.state.global_step <= 0.25 * trainer.state.max_steps


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
    trainer = new_trainer(epochs=3, lr=0.5, head_lr=1e-5, warmup=0.02)
    watcher = watch(trainer, stop=False)
    trainer.train()
    assert watcher.events
    assert trainer.state.global_step == trainer.state.max_steps


def test_skipped_fp16_steps_are_counted(new_trainer, capsys):
    trainer = new_trainer()
    watcher = watch(trainer)
    scaler = torch.amp.GradScaler("cpu")
    trainer.accelerator.scaler = scaler
    trainer.accelerator.__class__ = type(
        "Skipping", (type(trainer.accelerator),), {"optimizer_step_was_skipped": property(lambda self: True)}
    )
    control = type("Control", (), {"should_training_stop": False})()
    for step in range(1, 121):
        state = type("State", (), {"global_step": step})()
        watcher.on_step_end(trainer.args, state, control)
        if control.should_training_stop:
            break
    assert step == 100
    assert "skipped" in watcher.events[0]


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


def test_the_six_verdicts(big):
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
