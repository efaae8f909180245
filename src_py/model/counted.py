"""A small network on counts of length and format, whose logits are added to those of the text."""

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax
from torch import nn

from src_py.model.heads import swap_classes, tie_logit
from src_py.pairs.counts import SHARED_NAMES, SIDE_NAMES

BINS = 4  # of 4, 8 and 16 the best out of fold on 2,838 real pairs: finer ones overfit
HIDDEN = 64
EPOCHS, BATCH, RATE, DECAY, DROPOUT = 20, 64, 1e-3, 1.0, 0.2
MOST_STEPS = 6000  # of fitting: 20 epochs of 19,200 rows
CHUNK = 4096  # rows at a time


class CountsHead(nn.Module):
    """Reads (A, B) and (B, A); swapping the answers swaps the first two logits exactly.

    Each number is cut into bins of equally many training rows, with a place inside its bin (piecewise linear encoding,
    Gorishniy et al., arXiv 2203.05556): a network then finds thresholds as trees do. `fit` trains it before the
    fine-tuning, as it takes more epochs than an encoder does; the encoder learns what the counts do not say.

    Args:
        n_classes: 2, or 3 with ties.
        dropout: of the network's inputs, and of its hidden units, during the fine-tuning.
    """

    def __init__(self, n_classes: int, dropout: float = 0.1):
        super().__init__()
        sides, shared = len(SIDE_NAMES), len(SHARED_NAMES)
        self.sides, self.n_classes, self.dropout = sides, n_classes, dropout
        self.register_buffer("side_edges", torch.linspace(-1, 1, BINS + 1).repeat(sides, 1))
        self.register_buffer("margin_edges", torch.linspace(-1, 1, BINS + 1).repeat(sides, 1))
        self.register_buffer("shared_edges", torch.linspace(-1, 1, BINS + 1).repeat(shared, 1))
        self.inner = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(BINS * (3 * sides + shared), HIDDEN), nn.GELU(), nn.Dropout(dropout)
        )
        self.classifier = nn.Linear(HIDDEN, n_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, numbers of A, of B, shared) -> logits (batch, n_classes)."""
        a, b, shared = features.float().split([self.sides, self.sides, len(SHARED_NAMES)], dim=1)
        forward, backward = self._one_order(a, b, shared), self._one_order(b, a, shared)
        return (forward + swap_classes(backward)) / 2

    def _one_order(self, first: torch.Tensor, second: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        parts = [_place(x, self.side_edges) for x in (first, second)]
        parts += [_place(first - second, self.margin_edges), _place(shared, self.shared_edges)]
        return self.classifier(self.inner(torch.cat(parts, dim=1)))

    def fit(self, features: np.ndarray, labels: np.ndarray, shares: list[float], seed: int = 0) -> None:
        """Find the bins, and train the network on its own, on the CPU; torch's random state stays what it was.

        Args:
            features: (rows, numbers) of training rows.
            labels: (rows,) class numbers.
            shares: share of each class, at which it starts.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._set_dropout(DROPOUT)
            self._fit(torch.as_tensor(np.asarray(features), dtype=torch.float32), torch.as_tensor(labels), shares)
        self._set_dropout(self.dropout)
        self.eval()

    def _set_dropout(self, share: float) -> None:
        for module in self.inner:
            if isinstance(module, nn.Dropout):
                module.p = share

    def _fit(self, features: torch.Tensor, labels: torch.Tensor, shares: list[float]) -> None:
        a, b, shared = features.split([self.sides, self.sides, len(SHARED_NAMES)], dim=1)
        self.side_edges.copy_(_edges(torch.cat([a, b])))
        self.margin_edges.copy_(_edges(torch.cat([a - b, b - a])))
        self.shared_edges.copy_(_edges(shared))
        for module in self.inner:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        if self.n_classes == 3:
            with torch.no_grad():
                self.classifier.bias[2] = tie_logit(shares)
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=DECAY)
        steps = min(MOST_STEPS, EPOCHS * -(-len(labels) // BATCH))
        slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        order: list[int] = []
        self.train()
        for _ in range(steps):
            if not order:
                order = torch.randperm(len(labels)).tolist()
            rows, order = order[:BATCH], order[BATCH:]
            loss = nn.functional.cross_entropy(self(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            slower.step()


def counts_beside(model) -> CountsHead | None:
    """The network on counts that a model has beside its reading of the text; None where it has no such network, or no
    such text."""
    features = getattr(getattr(model, "architecture", None), "features", "off")
    return getattr(model, "counts", None) if features == "on" else None


def counts_logits(counts: CountsHead, features: ArrayLike) -> np.ndarray:
    """What the counts add to the logits of rows with these features, without dropout: float64 (rows, classes)."""
    device, mode = counts.classifier.weight.device, counts.training
    counts.eval()
    with torch.no_grad():
        parts = torch.as_tensor(np.asarray(features, dtype=np.float32)).split(CHUNK)
        logits = torch.cat([counts(part.to(device)).float().cpu() for part in parts])
    counts.train(mode)
    return logits.double().numpy()


def counts_loss(counts: CountsHead, features: ArrayLike, labels: ArrayLike) -> float:
    """Mean cross-entropy of the counts alone on rows with these features and labels."""
    logs = log_softmax(counts_logits(counts, features), axis=1)
    return float(-logs[np.arange(len(logs)), np.asarray(labels)].mean())


def predict_counts(model, encoded: Dataset) -> np.ndarray | None:
    """Class probabilities (rows, classes) of the counts that a model has beside the text, alone; None without any."""
    counts = counts_beside(model)
    return None if counts is None else softmax(counts_logits(counts, np.asarray(encoded["features"])), axis=1)


def without_text(
    probabilities: np.ndarray, before: np.ndarray | None, after: np.ndarray | None, labels: np.ndarray
) -> np.ndarray | None:
    """What a model with counts would say if it did not read: what it says has to beat this, or its encoder does
    nothing. None without counts.

    Two such predictions are compared, and the one with the lower log loss is taken: that of the counts before the
    training; and that of the counts after it, for which the text adds its mean over all rows. Where every text says
    the same, the second is the model's own.

    Args:
        probabilities: (rows, classes) of the model after training, not calibrated.
        before, after: from `predict_counts`, before and after training.
        labels: (rows,) class numbers.
    """
    if before is None or after is None:
        return None
    logs = np.log(after.clip(1e-15))
    text = np.log(probabilities.clip(1e-15)) - logs
    blind = softmax(logs + (text - text.mean(1, keepdims=True)).mean(0), axis=1)
    rows = np.arange(len(labels))
    return min(before, blind, key=lambda p: -np.log(p[rows, labels].clip(1e-15)).mean())


def _place(x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """How far each number has come through each of its bins, from -0.5 to 0.5: (rows, numbers * bins)."""
    low, high = edges[:, :-1], edges[:, 1:]
    return ((x.unsqueeze(-1) - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).flatten(1) - 0.5


def _edges(values: torch.Tensor) -> torch.Tensor:
    """(numbers, BINS + 1) quantiles."""
    return torch.from_numpy(np.quantile(values.numpy(), np.linspace(0, 1, BINS + 1), axis=0).T.astype(np.float32))
