"""What a model is trained for: hard labels, a teacher's probabilities, and the names of the chatbots."""

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from src_py.pairs.encode import UNKNOWN


def preference_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    soft_labels: torch.Tensor | None = None,
    soft_weight: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Mean over rows of (1 - w) · cross-entropy with the label + w · τ² · KL(teacher ‖ student), both at temperature τ.

    Distillation as in Hinton et al. (arXiv 1503.02531). The teacher's entropy is added, which has no gradient: at τ = 1
    the loss is a cross-entropy with the mixed labels, to be compared with that of the constant predictor.

    Args:
        logits: (rows, classes).
        labels: (rows,) class numbers.
        smoothing: of the hard labels.
        soft_labels: (rows, classes) probabilities of a teacher; NaN in rows without one.
        soft_weight: (rows,) w; 0 in rows without a teacher.
        temperature: τ.
    """
    if soft_labels is None or soft_weight is None:
        return cross_entropy(logits, labels, label_smoothing=smoothing)
    hard = cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    weight = soft_weight.to(logits.dtype)
    even = torch.full_like(soft_labels, 1 / soft_labels.shape[1])
    teacher = torch.where(weight.unsqueeze(1) > 0, soft_labels, even).to(logits.dtype).clamp(min=1e-6)
    softened = log_softmax(teacher.log() / temperature, dim=1)
    student = log_softmax(logits / temperature, dim=1)
    entropy = -(teacher * teacher.log()).sum(1)
    soft = temperature**2 * kl_div(student, softened, reduction="none", log_target=True).sum(1) + entropy
    return ((1 - weight) * hard + weight * soft).mean()


def names_loss(scores: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of naming the chatbots that wrote the answers; 0 where none is known.

    Args:
        scores: (rows, 2, chatbots).
        names: (rows, 2) numbers, `UNKNOWN` for chatbots that are not to be guessed.
    """
    known = (names != UNKNOWN).sum().clamp(min=1)
    return cross_entropy(scores.flatten(0, 1), names.flatten(), ignore_index=UNKNOWN, reduction="sum") / known
