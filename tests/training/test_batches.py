"""Optimizer steps: every pair once, little padding, and a gradient that knows nothing of the parts."""

import numpy as np
import pytest
import torch

from src_py.errors import InputError
from src_py.kaggle.session import start_session
from src_py.model.length_groups import length_groups
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import PairCollator, Reading, encode_pairs, round_up
from src_py.training.batches import PooledBatches, TokenBudget
from src_py.training.trainer import TrainingSettings, make_trainer


@pytest.fixture
def lengths():
    return np.random.default_rng(0).lognormal(5, 0.8, 3000).astype(int).clip(10, 512).tolist()


def test_every_row_comes_once_an_epoch_in_another_order_each_time(lengths):
    sampler = PooledBatches(lengths[:997], 16, seed=0)
    epochs = [list(sampler)]
    sampler.set_epoch(1)
    epochs.append(list(sampler))
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
    budget = TokenBudget(PairCollator(0), tokens=16)
    rows = [{"sequences": [[1] * n], "length": n} for n in (3, 30, 4)]
    assert [len(part["input_ids"]) for part in budget(rows)["parts"]] == [1, 2]


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    encoded = encode_pairs(pairs[:60], tokenizer, Reading(max_length=48))

    def make(micro_batch=16, **changes):
        """Without dropout, so that runs can be compared."""
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(dropout=0.0, **changes))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"epochs": 1, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "warmup": 0.25, "evals_per_epoch": 0}
        settings = TrainingSettings(**options, micro_batch=micro_batch)
        return make_trainer(model, encoded, encoded, tokenizer.pad_token_id, tmp_path, settings)

    return make


def trained(trainer):
    return trainer.train().training_loss, trainer.model.head.score.weight.detach().clone()


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-5)
    torch.testing.assert_close(one[1], other[1], atol=1e-5, rtol=1e-3)


def test_the_size_of_the_parts_changes_nothing(new_trainer):
    whole = trained(new_trainer(16))
    for micro_batch in (3, 1):
        assert_same(trained(new_trainer(micro_batch)), whole)


def test_the_fast_attention_learns_what_the_stock_one_does(new_trainer):
    assert_same(trained(new_trainer(attention="chunked")), trained(new_trainer(attention="stock")))


def test_what_the_host_reads_stays_on_the_host(new_trainer):
    trainer = new_trainer(4)
    step = next(iter(trainer.get_train_dataloader()))
    prepared = trainer._prepare_inputs(step)
    assert prepared["weights"] == step["weights"]
    for part, before in zip(prepared["parts"], step["parts"]):
        assert part["lengths"] == before["lengths"]
        assert all(torch.equal(part[name], before[name]) for name in ("input_ids", "attention_mask", "labels"))


def test_half_of_the_largest_part_is_what_to_try_next(new_trainer):
    """Parts of the longest pairs hold fewer than `most`."""
    trainer = new_trainer(4)
    assert trainer.smaller() == trainer.most // 2 == 8
    step = next(iter(trainer.get_train_dataloader()))
    trainer.create_optimizer_and_scheduler(1)
    trainer.training_step(trainer.model, step)
    largest = max(len(part["labels"]) for part in step["parts"])
    assert largest < 8
    assert trainer.smaller() == largest // 2


def short_of_memory(trainer, rows):
    """Half of the gradients are there when the memory runs out."""
    forward = trainer.model.forward

    def too_much(input_ids, **more):
        found = forward(input_ids, **more)
        if len(input_ids) > rows and trainer.model.training:
            found["loss"].backward()
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    trainer.model.forward = too_much
    return trainer


def test_out_of_memory_repeats_the_step_in_smaller_parts_and_changes_nothing(new_trainer, capsys):
    whole = trained(new_trainer(16))
    assert_same(trained(short_of_memory(new_trainer(16), rows=5)), whole)
    said = capsys.readouterr().out
    assert said.count("Out of memory") == 2
    assert "at most 3 pairs" in said


def test_out_of_memory_in_an_evaluation_halves_its_batches_and_changes_nothing(new_trainer):
    trainer = new_trainer(16)
    expected = trainer.evaluate()
    forward, sizes = trainer.model.forward, []

    def too_much(input_ids, **more):
        if len(input_ids) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(input_ids))
        return forward(input_ids, **more)

    trainer.model.forward = too_much
    found = trainer.evaluate()
    assert sum(sizes) == 60
    for name in ("eval_loss", "eval_log_loss", "eval_accuracy"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)

    def never(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.model.forward = never
    with pytest.raises(InputError, match="does not hold one pair"):
        trainer.evaluate()


def test_memory_for_less_than_a_pair_is_refused(new_trainer):
    with pytest.raises(InputError, match=r"CFG\.max_length"):
        short_of_memory(new_trainer(16), rows=0).train()


def test_groups_hold_every_sequence_once_and_little_padding(lengths):
    groups = length_groups(lengths[:40])
    assert sorted(row for rows, _ in groups for row in rows) == list(range(40))
    assert all(longest == max(lengths[row] for row in rows) for rows, longest in groups)
    padded = sum(len(rows) * round_up(longest) for rows, longest in groups)
    assert padded + 128 * len(groups) <= 40 * round_up(max(lengths[:40])) + 128
    assert 1 - sum(lengths[:40]) / padded < 0.12
    assert length_groups([7, 7, 7]) == [([0, 1, 2], 7)]
    assert len(length_groups([512, 500, 20, 10])) == 2
    assert length_groups([20, 24, 17], call=0) == [([1, 0, 2], 24)], "all are padded to 24"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_groups_change_no_output_and_no_gradient(tiny, tokenizer, pairs, pooling, monkeypatch):
    monkeypatch.setattr("src_py.model.preference.length_groups", lambda lengths, _: length_groups(lengths, call=4))
    encoded = encode_pairs(pairs[:8], tokenizer, Reading(max_length=48))
    batch = PairCollator(tokenizer.pad_token_id)(list(encoded))
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(pooling=pooling)).eval()
    found = []
    for lengths in (None, batch["lengths"]):
        result = model(batch["input_ids"], batch["attention_mask"], batch["labels"], lengths)
        result["loss"].backward()
        found.append((result["logits"].detach(), model.encoder.encoder.rel_embeddings.weight.grad))
        model.zero_grad()
    torch.testing.assert_close(*(logits for logits, _ in found), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*(gradient for _, gradient in found), atol=1e-6, rtol=1e-4)
