"""Optimizer steps: every pair once, little padding, and a gradient that knows nothing of the parts."""

import numpy as np
import pytest
import torch

from src_py.batches import PooledBatches, TokenBudget
from src_py.model import adapt, build_model
from src_py.predict import PairCollator
from src_py.session import start_session
from src_py.text import encode_pairs
from src_py.train import make_trainer


@pytest.fixture
def lengths():
    return np.random.default_rng(0).lognormal(5, 0.8, 3000).astype(int).clip(10, 512).tolist()


def test_every_row_comes_once_an_epoch_in_another_order_each_time(lengths):
    sampler = PooledBatches(lengths[:997], 16, seed=0)
    epochs = [list(sampler), list(sampler)]
    assert len(sampler) == len(epochs[0]) == 63
    for steps in epochs:
        assert sorted(row for step in steps for row in step) == list(range(997))
    assert epochs[0] != epochs[1]
    again = PooledBatches(lengths[:997], 16, seed=0)
    again.set_epoch(1)
    assert list(again) == epochs[1]


def test_the_longest_row_comes_first_and_the_rest_is_not_in_order_of_length(lengths):
    steps = list(PooledBatches(lengths, 16, seed=0))
    assert max(lengths[row] for row in steps[0]) == max(lengths)
    means = [np.mean([lengths[row] for row in step]) for step in steps[1:]]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_parts_keep_the_budget_all_rows_and_little_padding(lengths):
    budget = TokenBudget(PairCollator(0), tokens=4 * 512 * 2)
    used = real = 0
    for step in PooledBatches(lengths, 16, seed=0):
        rows = [{"sequences": [[1] * lengths[i]] * 2, "length": lengths[i], "labels": i} for i in step]
        parts = budget(rows)["parts"]
        assert sorted(label for part in parts for label in part["labels"].tolist()) == sorted(step)
        for part in parts:
            assert part["input_ids"].numel() <= budget.tokens
            used, real = used + part["attention_mask"].numel(), real + int(part["attention_mask"].sum())
    assert 1 - real / used < 0.05


def test_a_row_over_the_budget_goes_alone():
    budget = TokenBudget(PairCollator(0), tokens=10)
    rows = [{"sequences": [[1] * n], "length": n} for n in (3, 30, 4)]
    assert [len(part["input_ids"]) for part in budget(rows)["parts"]] == [1, 2]


def test_the_size_of_the_parts_changes_nothing(tiny, tokenizer, pairs, tmp_path):
    encoded = encode_pairs(pairs[:60], tokenizer, max_length=48)
    weights = []
    for micro_batch in (16, 3, 1):
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], dropout=0.0)
        adapt(model, freeze_embeddings=True, freeze_layers=0, reinit_layers=0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"epochs": 1, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "warmup": 0.25, "evals_per_epoch": 0}
        trainer = make_trainer(
            model, encoded, encoded, tokenizer.pad_token_id, tmp_path, micro_batch=micro_batch, precision="fp32",
            seed=0, **options,
        )  # fmt: skip
        done = trainer.train()
        weights.append((done.training_loss, model.head.score.weight.detach().clone()))
    for loss, weight in weights[1:]:
        assert loss == pytest.approx(weights[0][0], abs=1e-5)
        torch.testing.assert_close(weight, weights[0][1], atol=1e-5, rtol=1e-3)
