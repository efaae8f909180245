"""The two ways to turn encodings into class logits."""

import math

import torch
from torch import nn


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
            nn.init.constant_(self.tie[-1].bias, math.log(max(shares[2], 1e-3) / ((shares[0] + shares[1]) / 2)))
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)


class JointHead(nn.Module):
    """What `AutoModelForSequenceClassification` puts on DeBERTa: dense, GELU, dropout, linear."""

    def __init__(self, hidden_size: int, n_classes: int, dropout: float = 0.1):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, n_classes)

    def forward(self, encodings: torch.Tensor) -> torch.Tensor:
        """(batch, 1, hidden) -> (batch, n_classes)."""
        encoding = self.dropout(nn.functional.gelu(self.dense(encodings[:, 0])))
        return self.classifier(encoding)

    def set_prior(self, shares: list[float]) -> None:
        """Start near the constant predictor."""
        nn.init.normal_(self.classifier.weight, std=0.02)
        with torch.no_grad():
            self.classifier.bias.copy_(torch.tensor(shares).clamp(min=1e-3).log())
