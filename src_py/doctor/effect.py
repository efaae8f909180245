"""The order in which findings are told: FAIL before WARN, and within a status what costs most first."""

import math
from typing import Any

STATUSES = ("FAIL", "WARN", "PASS", "not checked")

# Nats a row that the faults behind an alarm of this check cost: the test loss of a set-up with the fault, minus that of
# its healthy twin, in `make doctor-bench` (benchmarks/README.md). Only what was measured there stands here.
COST: dict[str, float] = {}

# Where nothing is measured: what ends the training first; then the order that the checks have in the posted notebook,
# along the way of the data, causes before what they entail. A check without a figure counts as much as the nearest one
# with a figure before it in this list; where there is none, it comes before all that have one.
ORDER = (
    "first step",
    # Text, labels, split
    "tokens per character",
    "one answer cut more",
    "rows mostly cut",
    "rows cut",
    "unknown tokens",
    "tokens of the text",
    "markup in the text",
    "labels",
    "labels and row order",
    "signal in labels",
    "labels of both sets",
    "ties and sides",
    "label in the text",
    "prompts on both sides",
    # Rows and batches
    "equal rows",
    "contradicting rows",
    "two answers",
    "special tokens",
    "padding in the rows",
    "labels in a batch",
    "tokens in a batch",
    "rows used",
    "classes in a step",
    # Weights, and what the model can read
    "pretrained weights",
    "weights",
    "sequence length",
    "embedding rows",
    "trained parts",
    "optimizer",
    "activation",
    # Loss and learning
    "loss of known predictions",
    "logged loss",
    "gradients",
    "memorises a batch",
    "loss at the start",
    "first steps",
    "padding",
    "rows of a batch",
    "training and evaluation mode",
    "fp16 head-room",
    "added tokens' norms",
    "memory",
    # Batch, schedule, optimizer
    "pairs in a step",
    "warmup",
    "learning rate",
    "optimizer steps",
    "weight decay",
    "momentum",
    "dropout",
    # Machine and evaluation
    "GPUs",
    "metrics",
    "validation rows",
    "NaN in the log",
    "bf16",
    "GPU architecture",
)


def in_order(findings: list[Any]) -> list[Any]:
    """`Finding`s by status, then by the cost of their check; those of equal cost as `ORDER` has them."""
    return sorted(findings, key=lambda finding: (STATUSES.index(finding.status), *place(finding.check)))


def place(check: str) -> tuple[float, int]:
    """What to sort checks by: less is told earlier. A check that `ORDER` does not know comes last."""
    if check not in ORDER:
        return (-COST.get(check, 0.0), len(ORDER))
    number = ORDER.index(check)
    known = [COST[name] for name in ORDER[: number + 1] if name in COST]
    return (-known[-1] if known else -math.inf, number)
