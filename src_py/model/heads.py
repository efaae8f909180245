"""From the vectors of a pair to class logits. Swapping A and B swaps the first two, but not in `JointHead`."""

import math

import torch
from torch import nn

HEADS = ("bradley_terry", "network")


class DavidsonHead(nn.Module):
    """Bradley-Terry with ties (Davidson 1970, JASA 65:317) on the encodings of two sequences.

    One score s = w·h for each answer; the logits are (s_a - s_b) / 2, -(s_a - s_b) / 2 and a tie logit from a
    symmetric function of both encodings. Swapping A and B therefore swaps the first two probabilities exactly,
    unless `side_bias` lets the model learn that people favour one side.
    """

    def __init__(self, hidden_size: int, n_classes: int, dropout: float = 0.1, side_bias: bool = False):
        super().__init__()
        self.n_classes = n_classes
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden_size, 1)
        self.bias = nn.Parameter(torch.zeros(())) if side_bias else None
        if n_classes == 3:
            self.tie = nn.Sequential(nn.Linear(2 * hidden_size, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, encodings: torch.Tensor) -> torch.Tensor:
        """(batch, 2, hidden) -> (batch, n_classes)."""
        a, b = self.dropout(encodings).unbind(1)
        margin = (self.score(a) - self.score(b)) / 2
        if self.bias is not None:
            margin = margin + self.bias
        logits = [margin, -margin]
        if self.n_classes == 3:
            # h_a + h_b and |h_a - h_b| do not change when A and B change places.
            logits.append(self.tie(torch.cat([a + b, (a - b).abs()], dim=-1)))
        return torch.cat(logits, dim=-1)

    def set_prior(self, shares: list[float]) -> None:
        """Start near the constant predictor: at equal scores the tie probability is the ties' share."""
        if self.n_classes == 3:
            nn.init.zeros_(self.tie[-1].weight)
            nn.init.constant_(self.tie[-1].bias, tie_logit(shares))
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)


class NetworkHead(nn.Module):
    """Both encodings, the size of their difference and their product (InferSent, arXiv 1705.02364) through a network.

    It reads (A, B) and (B, A), whose classes are then exchanged, and the logits are the mean of both.
    """

    def __init__(self, hidden_size: int, n_classes: int, dropout: float = 0.1):
        super().__init__()
        self.n_classes = n_classes
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(4 * hidden_size, hidden_size)
        self.classifier = nn.Linear(hidden_size, n_classes)

    def forward(self, encodings: torch.Tensor) -> torch.Tensor:
        """(batch, 2, hidden) -> (batch, n_classes)."""
        a, b = self.dropout(encodings).unbind(1)
        return (self._one_order(a, b) + swap_classes(self._one_order(b, a))) / 2

    def _one_order(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        both = torch.cat([first, second, (first - second).abs(), first * second], dim=-1)
        return self.classifier(self.dropout(nn.functional.gelu(self.dense(both))))

    def set_prior(self, shares: list[float]) -> None:
        """Start near the constant predictor."""
        start_at(self.classifier, shares)


class JointHead(nn.Module):
    """What `AutoModelForSequenceClassification` puts on DeBERTa: dense, GELU, dropout, linear."""

    def __init__(self, hidden_size: int, n_classes: int, dropout: float = 0.1):
        super().__init__()
        self.n_classes = n_classes
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, n_classes)

    def forward(self, encodings: torch.Tensor) -> torch.Tensor:
        """(batch, 1, hidden) -> (batch, n_classes)."""
        encoding = self.dropout(nn.functional.gelu(self.dense(encodings[:, 0])))
        return self.classifier(encoding)

    def set_prior(self, shares: list[float]) -> None:
        """Start near the constant predictor."""
        start_at(self.classifier, shares)


class AttentionPooling(nn.Module):
    """A weighted mean of a sequence's tokens, with weights that are learned; it starts as the plain mean."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.score = nn.Linear(hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(sequences, tokens, hidden) and (sequences, tokens) -> (sequences, hidden)."""
        scores = self.score(hidden).squeeze(-1).float().masked_fill(mask == 0, torch.finfo(torch.float32).min)
        return (scores.softmax(-1).unsqueeze(-1) * hidden).sum(1)


def make_head(
    style: str, hidden_size: int, n_classes: int, dropout: float, side_bias: bool = False, kind: str = HEADS[0]
) -> nn.Module:
    """The head of a reading: pairwise has two kinds, joint one."""
    if style != "pairwise":
        return JointHead(hidden_size, n_classes, dropout)
    if kind == "network":
        return NetworkHead(hidden_size, n_classes, dropout)
    return DavidsonHead(hidden_size, n_classes, dropout, side_bias)


def swap_classes(logits: torch.Tensor) -> torch.Tensor:
    """The first two classes exchanged: what the logits mean for B and A."""
    return torch.cat([logits[:, 1:2], logits[:, :1], logits[:, 2:]], dim=1)


def tie_logit(shares: list[float]) -> float:
    """Logit of a tie beside two logits of 0, at which its probability is the ties' share."""
    return math.log(max(shares[2], 1e-3) / max((shares[0] + shares[1]) / 2, 1e-3))


def start_at(classifier: nn.Linear, shares: list[float]) -> None:
    """Small weights, and biases at which every row gets about these probabilities."""
    nn.init.normal_(classifier.weight, std=0.02)
    with torch.no_grad():
        classifier.bias.copy_(torch.tensor(shares).clamp(min=1e-3).log())
