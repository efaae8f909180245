"""The order in which findings are told: FAIL before WARN; within a status, causes before what they entail."""

from typing import Any

STATUSES = ("FAIL", "WARN", "PASS", "not checked")

# What ends the training first; then the order that the checks have in the posted notebook, along the way of the data,
# causes before what they entail. By the costs that `make doctor-bench` measures (doctor_bench.json), the true
# cause came first or second less often (for 92 of 100 faults instead of 96): its consequences cost as much.
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
    "names of classes",
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
    "tokenizer",
    "pretrained weights",
    "weights",
    "sequence length",
    "embedding rows",
    "trained parts",
    "optimizer",
    "activation",
    # Loss and learning
    "logits",
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
    "schedule",
    "warmup",
    "learning rate",
    "optimizer steps",
    "weight decay",
    "momentum",
    "dropout",
    # Machine and evaluation
    "GPUs",
    "metrics",
    "best model",
    "validation rows",
    "NaN in the log",
    "bf16",
    "GPU architecture",
)


def in_order(findings: list[Any]) -> list[Any]:
    """`Finding`s by status; within one as `ORDER` has them, which comes last for a check that it does not know."""
    return sorted(findings, key=lambda finding: (STATUSES.index(finding.status), place(finding.check)))


def place(check: str) -> int:
    """What to sort checks by: less is told earlier."""
    return ORDER.index(check) if check in ORDER else len(ORDER)
