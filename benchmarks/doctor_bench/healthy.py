"""Healthy set-ups, as varied as real ones: nothing that the doctor says of them may be a FAIL."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.doctor_bench import world
from benchmarks.doctor_bench.case import OURS, PLAIN, Case

HEALTHY: dict[str, "Healthy"] = {}


@dataclass(frozen=True)
class Healthy:
    """A way to train that is right; `encoder` "" means that the set-ups take turns."""

    name: str
    kind: str
    encoder: str
    apply: Callable[[Case], None]


def healthy(*kinds: str, encoder: str = "") -> Callable:
    """Decorator: the function makes a healthy set-up of each of `kinds`."""

    def add(apply):
        name = apply.__name__.replace("_", " ").strip()
        for kind in kinds:
            HEALTHY[f"{name}, {kind}"] = Healthy(name, kind, encoder, apply)
        return apply

    return add


def options(name: str, kinds: tuple[str, ...], **changes) -> None:
    """A healthy set-up that differs in settings only."""
    for kind in kinds:
        HEALTHY[f"{name}, {kind}"] = Healthy(name, kind, "", lambda case: case.set(**changes))


def settings(name: str, **changes) -> None:
    """The same with settings of our model."""
    HEALTHY[f"{name}, {OURS}"] = Healthy(name, OURS, "", lambda case: case.model_settings.update(changes))


def rows(name: str, **changes) -> None:
    """Single texts made otherwise, as `world.classification` has it."""

    def apply(case):
        case.classes = changes.get("classes", case.classes)
        case.tables = world.classification(seed=case.seed, **changes)

    HEALTHY[f"{name}, {PLAIN}"] = Healthy(name, PLAIN, "", apply)


BOTH = (OURS, PLAIN)
rows("two classes", classes=2)
rows("five classes", classes=5)
rows("imbalance of 90 to 10", classes=2, shares=(0.9, 0.1))
rows("imbalance of 80, 10 and 10", classes=3, shares=(0.8, 0.1, 0.1))
rows("short texts", length=(3, 6))
rows("long texts", length=(40, 55))
rows("texts of very different lengths", length=(3, 50))
rows("noisy labels, 30 %", noise=0.3)
rows("no noise in the labels", noise=0.0)
options("batch of 32", BOTH, batch_size=32, epochs=5)
options("batch of 8", BOTH, batch_size=8, epochs=2)
options("cosine", BOTH, schedule="cosine")
options("constant with warmup", (PLAIN,), schedule="constant_with_warmup")
options("polynomial", (PLAIN,), schedule="polynomial")
options("half of the rate", BOTH, lr=5e-4)
options("twice the rate", BOTH, lr=2e-3)
options("warmup of a quarter", BOTH, warmup=0.25)
options("strong weight decay", BOTH, weight_decay=0.1)
options("no weight decay", (PLAIN,), weight_decay=0.0)
options("gradients clipped at 0.3", BOTH, max_grad_norm=0.3)
options("gradients not clipped", (PLAIN,), max_grad_norm=0.0)
options("four epochs", BOTH, epochs=4)
options("layer decay", (OURS,), layer_decay=0.8)
options("head at ten times the rate", (OURS,), head_lr=5e-3)
options("moving average", (OURS,), ema=0.99)
options("label smoothing", (PLAIN,), label_smoothing_factor=0.1)
options("micro-batch of one", (OURS,), micro_batch=1)
options("Adam's second beta 0.98", (PLAIN,), adam_beta2=0.98)
options("incomplete steps dropped", (PLAIN,), dataloader_drop_last=True)
options("steps of equal length", (PLAIN,), train_sampling_strategy="group_by_length")
settings("label smoothing", label_smoothing=0.1)
settings("attention pooling", pooling="attention")
settings("first token pooled", pooling="cls")
settings("network head", head="network")
settings("side bias", side_bias=True)
settings("embeddings trained", freeze_embeddings=False)
settings("a frozen layer", freeze_layers=1)
settings("top layer anew", reinit_layers=1)
settings("no dropout in the encoder", encoder_dropout=0.0)
settings("more dropout", encoder_dropout=0.2, dropout=0.2)
