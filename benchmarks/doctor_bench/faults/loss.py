"""Faults of the loss."""

import torch
from torch.nn.functional import cross_entropy, mse_loss, nll_loss, one_hot

from benchmarks.doctor_bench.case import OURS, PLAIN, Case
from benchmarks.doctor_bench.fault import fault, imbalanced

MEMORISES = ("memorises a batch",)


def loss(case: Case, function) -> None:
    case.make_loss(function)


@fault("loss", before=("loss of known predictions",))
def sum_instead_of_mean(case):
    loss(case, lambda logits, labels: cross_entropy(logits, labels, reduction="sum"))


@fault("loss", kinds=(PLAIN,), base=imbalanced, before=("loss of known predictions",))
def class_weights_inverted(case):
    """Weights grow with the class's share, where they should fall."""
    weights = torch.tensor([0.8, 0.1, 0.1]) ** 2 * 3
    loss(case, lambda logits, labels: cross_entropy(logits, labels, weight=weights.to(logits)))


@fault("loss", before=("loss of known predictions",))
def label_smoothing_of_nine_tenths(case):
    loss(case, lambda logits, labels: cross_entropy(logits, labels, label_smoothing=0.9))


@fault("loss", before=("loss of known predictions",))
def softmax_twice(case):
    loss(case, lambda logits, labels: cross_entropy(logits.softmax(-1), labels))


@fault("loss", before=("loss of known predictions",))
def sign_turned(case):
    loss(case, lambda logits, labels: -cross_entropy(logits, labels).clamp(max=20))


@fault("loss", before=("loss of known predictions",))
def logarithm_forgotten(case):
    loss(case, lambda logits, labels: nll_loss(logits, labels))


@fault("loss", before=("loss of known predictions",))
def a_class_is_ignored(case):
    loss(case, lambda logits, labels: cross_entropy(logits, labels, ignore_index=0))


@fault("loss", before=("loss of known predictions",))
def squared_error_to_the_class_number(case):
    loss(case, lambda logits, labels: mse_loss(logits[:, 0], labels.float()))


@fault("loss", before=("loss of known predictions",))
def first_row_only(case):
    loss(case, lambda logits, labels: cross_entropy(logits[:1], labels[:1]))


@fault("loss", before=(*MEMORISES, "loss of known predictions"))
def labels_mixed_in_the_loss(case):
    loss(case, lambda logits, labels: cross_entropy(logits, labels[torch.randperm(len(labels))]))


@fault("loss", before=("loss of known predictions",))
def mean_over_rows_before_the_softmax(case):
    """One answer for all rows of a batch."""
    loss(case, lambda logits, labels: cross_entropy(logits.mean(0, keepdim=True).expand_as(logits), labels))


@fault("loss", before=("first step", "gradients", "loss of known predictions"))
def loss_without_a_graph(case):
    loss(case, lambda logits, labels: cross_entropy(logits.detach(), labels))


@fault("loss", kinds=(PLAIN,), before=("labels", "labels in a batch"))
def most_labels_ignored(case):
    """A collator that marks what it does not know with -100."""

    def wrap(batch):
        batch["labels"] = torch.where(torch.arange(len(batch["labels"])) % 4 > 0, -100, batch["labels"])
        return batch

    case.make_collator(wrap)


@fault("loss", kinds=(OURS,), before=("loss of known predictions",))
def logits_scaled_down(case):
    """A temperature of 100 in the loss alone."""
    loss(case, lambda logits, labels: cross_entropy(logits / 100, labels))


@fault("loss", before=("loss of known predictions",))
def absolute_error_of_probabilities(case):
    """Bounded, and flat where it should be steep."""
    loss(case, lambda logits, labels: (logits.softmax(-1) - one_hot(labels, logits.shape[-1])).abs().mean())
