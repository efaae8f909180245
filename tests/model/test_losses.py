"""The loss: hard labels, a teacher's probabilities and chatbots' names, against sums written out."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from src_py.model.losses import names_loss, preference_loss
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import PairCollator, Reading, encode_pairs

LOGITS = torch.tensor([[0.3, -0.2, 1.0], [2.0, 0.0, -1.0]])
LABELS, TEACHER = torch.tensor([2, 1]), torch.tensor([[0.2, 0.3, 0.5], [math.nan] * 3])


@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_hard_and_soft_labels_are_mixed_row_by_row(tau):
    weight = 0.4
    found = preference_loss(LOGITS, LABELS, 0.0, TEACHER, torch.tensor([weight, 0.0]), tau)
    rows = LOGITS.double().numpy()
    hard = -log_softmax(rows, axis=1)[[0, 1], [2, 1]]
    teacher = np.array([0.2, 0.3, 0.5])
    soft_teacher = softmax(np.log(teacher) / tau)
    kl = (soft_teacher * (np.log(soft_teacher) - log_softmax(rows[0] / tau))).sum()
    entropy = -(teacher * np.log(teacher)).sum()
    wanted = ((1 - weight) * hard[0] + weight * (tau**2 * kl + entropy) + hard[1]) / 2
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_a_model_that_agrees_with_its_teacher_has_no_gradient_and_the_loss_of_the_teacher():
    logits = TEACHER[:1].log().requires_grad_()
    loss = preference_loss(logits, LABELS[:1], 0.0, TEACHER[:1], torch.ones(1), 3.0)
    loss.backward()
    assert logits.grad.abs().max() < 1e-6
    assert loss.item() == pytest.approx(-(TEACHER[0] * TEACHER[0].log()).sum().item(), abs=1e-6)


def test_without_teacher_it_is_the_cross_entropy():
    plain = torch.nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    assert preference_loss(LOGITS, LABELS, 0.1) == plain
    assert torch.allclose(preference_loss(LOGITS, LABELS, 0.1, TEACHER, torch.zeros(2)), plain)


def test_certain_teachers_give_finite_gradients():
    logits = LOGITS[:1].clone().requires_grad_()
    preference_loss(logits, LABELS[:1], 0.0, torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1), 1.0).backward()
    assert torch.isfinite(logits.grad).all()


def test_unknown_chatbots_do_not_count():
    scores = torch.randn(2, 2, 3, requires_grad=True)
    names = torch.tensor([[0, -100], [2, 1]])
    wanted = torch.nn.functional.cross_entropy(scores.reshape(4, 3)[[0, 2, 3]], torch.tensor([0, 2, 1]))
    assert torch.allclose(names_loss(scores, names), wanted)
    nothing = names_loss(scores, torch.full((2, 2), -100))
    nothing.backward()
    assert nothing.item() == 0
    assert scores.grad is not None


def test_evaluation_is_the_cross_entropy_with_the_labels(tiny, tokenizer, pairs):
    """The validation loss is compared with the constant predictor, whatever the training rows were taught."""
    table = pairs[:8].assign(soft=[[0.8, 0.1, 0.1]] * 8, soft_weight=1.0)
    rows = encode_pairs(table, tokenizer, Reading(max_length=48))
    batch = PairCollator(tokenizer.pad_token_id)([rows[i] for i in range(8)])
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(dropout=0, encoder_dropout=0))
    with torch.no_grad():
        out = model.eval()(**batch)
        assert out["loss"] == torch.nn.functional.cross_entropy(out["logits"], batch["labels"])
        assert model.train()(**batch)["loss"] != out["loss"]
