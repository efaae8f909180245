"""Training: the settings arrive, the loss is what it says, the same seed gives the same model."""

import numpy as np
import pytest
import torch

from src_py.doctor.checks_schedule import check_warmup
from src_py.doctor.findings import Setup
from src_py.errors import InputError
from src_py.evaluation.metrics import evaluation_metrics
from src_py.evaluation.report import history_table, plot_learning
from src_py.kaggle.session import start_session
from src_py.model.encoder import encoder_layers, reference_lr
from src_py.model.lora import add_lora
from src_py.model.predict import predict_logits
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.training.trainer import TrainingSettings, make_trainer, parameter_groups

OPTIONS = {"epochs": 1, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 16, "warmup": 0.25}
OPTIONS |= {"evals_per_epoch": 2}
CLASSES = ("a", "b", "tie")


@pytest.fixture
def encoded(tokenizer, pairs):
    return encode_pairs(pairs[:96], tokenizer, Reading(max_length=48))


@pytest.fixture
def new_trainer(tiny, tokenizer, encoded, tmp_path):
    def make(dropout=0.1, seed=0, **changes):
        start_session(0)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(dropout=dropout))
        train, valid = encoded.select(range(64)), encoded.select(range(64, 96))
        settings = TrainingSettings(**OPTIONS | changes)
        return make_trainer(model, train, valid, tokenizer.pad_token_id, tmp_path, settings, CLASSES, seed=seed)

    return make


def test_warmup_reaches_the_scheduler(new_trainer):
    trainer = new_trainer()
    rates = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.train()
    assert len(rates) == 4
    assert rates[0] == 0
    assert rates[1] == max(rates)
    assert rates[3] < rates[1]


def test_the_schedule_falls_along_a_line_or_a_cosine(new_trainer):
    rates = {}
    for schedule in ("linear", "cosine"):
        trainer = new_trainer(schedule=schedule)
        trainer.create_scheduler(100)
        found = []
        for _ in range(100):
            found.append(trainer.lr_scheduler.get_last_lr()[0])
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
        rates[schedule] = np.array(found) / max(found)
    after = np.arange(75) / 75
    np.testing.assert_allclose(rates["linear"][25:], 1 - after, atol=1e-9)
    np.testing.assert_allclose(rates["cosine"][25:], (1 + np.cos(np.pi * after)) / 2, atol=1e-9)
    np.testing.assert_array_equal(rates["linear"][:25], rates["cosine"][:25])
    with pytest.raises(InputError, match=r"CFG\.schedule"):
        new_trainer(schedule="sine")


def test_the_doctor_sees_the_warmup_of_both_schedules(new_trainer):
    measured = {check_warmup(Setup(new_trainer(schedule=schedule))).measured for schedule in ("linear", "cosine")}
    assert measured == {"25% of the steps (1 of 4)"}


def test_adapters_have_a_rate_of_their_own_that_the_head_shares(tiny, tokenizer, encoded, tmp_path):
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
    add_lora(model.encoder, rank=4)
    settings = TrainingSettings(lr=2e-4, layer_decay=1.0)
    trainer = make_trainer(model, encoded, encoded, tokenizer.pad_token_id, tmp_path, settings)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {2e-4}
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    names = [name for name, p in model.named_parameters() if id(p) in held]
    assert all("lora_" in name or name.startswith("head.") for name in names)


@pytest.mark.parametrize("micro_batch", [16, 4])
def test_accumulation_changes_neither_the_loss_nor_the_gradient(new_trainer, micro_batch):
    """facts: DeBERTa's forward(**kwargs) made Trainer skip the division, and log 4 times the loss."""
    trainer = new_trainer(micro_batch=micro_batch, evals_per_epoch=1, dropout=0.0)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()
    history = history_table(trainer.state.log_history)
    assert history["training loss"].iloc[0] == pytest.approx(1.098, abs=0.03)
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert norms[0] < 3


def test_the_best_checkpoint_by_log_loss_comes_back_and_the_disk_stays_small(new_trainer, encoded, tokenizer, tmp_path):
    trainer = new_trainer(epochs=3, lr=0.02, head_lr=0.02)
    trainer.train()
    history = history_table(trainer.state.log_history)
    logits = predict_logits(trainer.model, encoded.select(range(64, 96)), tokenizer.pad_token_id)
    labels = np.array(encoded["labels"][64:96])
    shifted = logits - logits.max(1, keepdims=True)
    loss = -(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))[np.arange(32), labels].mean()
    assert loss == pytest.approx(history["log loss"].min(), abs=1e-4)
    assert len(list(tmp_path.glob("checkpoint-*"))) <= 2
    assert {"predicted a", "predicted b", "predicted tie", "accuracy", "spread"} <= set(history)
    assert len(plot_learning(history, {"constant predictor": 1.09}).axes) == 2


def test_the_same_seed_gives_the_same_weights(new_trainer):
    weights = []
    for seed in (0, 0, 1):
        trainer = new_trainer(seed=seed)
        trainer.train()
        weights.append(trainer.model.head.score.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_learning_rates_fall_by_layer_and_frozen_parameters_are_left_out(tiny, tokenizer):
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
    groups = parameter_groups(model, lr=1e-5, head_lr=1e-4, layer_decay=0.5, weight_decay=0.01)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    low, high = encoder_layers(model.encoder)
    assert rate[id(high.output.dense.weight)] == pytest.approx(1e-5)
    assert rate[id(low.output.dense.weight)] == pytest.approx(5e-6)
    assert rate[id(model.head.score.weight)] == 1e-4
    assert decay[id(low.output.dense.bias)] == decay[id(low.output.LayerNorm.weight)] == 0
    assert len(rate) == sum(p.requires_grad for p in model.parameters())
    assert reference_lr(model) == 1e-3


def test_an_empty_batch_is_refused(new_trainer):
    with pytest.raises(InputError, match=r"CFG\.micro_batch"):
        new_trainer(micro_batch=0)


def test_padding_changes_no_prediction(tiny, tokenizer, encoded):
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31]).eval()
    batch = PairCollator(tokenizer.pad_token_id)([encoded[i] for i in range(4)])
    alone = PairCollator(tokenizer.pad_token_id)([encoded[0]])
    with torch.no_grad():
        together = model(batch["input_ids"], batch["attention_mask"])["logits"][:1]
        single = model(alone["input_ids"], alone["attention_mask"])["logits"]
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)


def test_nan_does_not_look_like_label_0():
    class Prediction:
        predictions, label_ids = np.full((4, 3), np.nan), np.zeros(4, dtype=int)

    metrics = evaluation_metrics(Prediction)
    assert np.isnan(metrics["log_loss"])
    assert np.isnan(metrics["accuracy"])
