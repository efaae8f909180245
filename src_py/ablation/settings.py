"""What the settings of a trial come to in its arm."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from src_py.ablation.arms import Arm
from src_py.ablation.posted import posted_config
from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.kaggle.session import PRECISIONS
from src_py.model.families import check_max_length, max_tokens
from src_py.model.preference import ModelSettings
from src_py.pairs.encode import Reading
from src_py.training.trainer import TrainingSettings


@dataclass(frozen=True)
class TrialSettings(Settings):
    """What all arms share, and the values that a repair sets. Lengths are in tokens; a pair read as one sequence has
    twice `max_length`, so that all arms may read the same amount of text."""

    max_length: int = setting(512, least=16, most=8192)
    epochs: float = setting(2.0, above=0, most=100)
    batch_size: int = setting(16, least=1)
    micro_batch: int = setting(8, least=1)
    lr: float = setting(0.0, least=0, most=1)
    head_lr: float = setting(0.0, least=0, most=1)
    freeze_layers: int = setting(0, least=0)
    evaluations: int = setting(3, least=1)
    precision: str = setting("fp32", choices=PRECISIONS)


def steps_for(arm: Arm, settings: TrialSettings, rows: int) -> int:
    """Optimizer steps of the arm on so many rows."""
    return max(1, math.ceil(math.ceil(rows / batch_of(arm, settings)[0]) * arm.change(settings).epochs))


def batch_of(arm: Arm, settings: TrialSettings) -> tuple[int, int]:
    """Pairs in an optimizer step, and in a forward pass."""
    settings = arm.change(settings)
    size = settings.batch_size if "batch" in arm else posted_config().batch_size
    return size, min(size, settings.micro_batch)


def training_of(arm: Arm, settings: TrialSettings, epochs: float) -> TrainingSettings:
    """How the arm is trained, for `epochs` passes over its rows."""
    posted, usual = posted_config(), TrainingSettings()
    batch_size, micro_batch = batch_of(arm, settings)
    made = TrainingSettings(
        lr=settings.lr if "rates" in arm else posted.lr,
        head_lr=settings.head_lr if "rates" in arm else posted.lr,
        layer_decay=usual.layer_decay if "rates" in arm else 1.0,
        warmup=usual.warmup if "warmup" in arm else posted.warmup,
        weight_decay=posted.weight_decay,
        batch_size=batch_size,
        micro_batch=micro_batch,
        evals_per_epoch=0,
    )
    return replace(arm.change(made), epochs=epochs)


def reading_of(arm: Arm, settings: TrialSettings, model_dir: Path, predict: bool = False) -> Reading:
    """How the arm reads pairs in training, or in prediction.

    One sequence that holds both answers has twice the tokens, and a lever may read more in prediction, as far as the
    encoder's positions reach.

    Raises:
        InputError: when the arm asks for more tokens than the encoder reads.
    """
    style, features = "pairwise" if "pairwise" in arm else "joint", "on" if "features" in arm else "off"
    reading = arm.change(Reading(style, settings.max_length, features=features))
    check_max_length(model_dir, reading.max_length)
    longer = (1 if reading.style == "pairwise" else 2) * (arm.longer if predict else 1)
    limit = max_tokens(model_dir) or longer * reading.max_length
    found = replace(reading, max_length=min(longer * reading.max_length, limit))
    if predict and arm.longer > 1 and found == reading_of(arm, settings, model_dir):
        raise InputError(f"{arm.name} cannot read more in prediction: the encoder reads {limit} tokens at most.")
    return found


def model_of(arm: Arm, settings: TrialSettings, attention: str) -> ModelSettings:
    """What is built on the encoder."""
    return arm.change(
        ModelSettings(
            pooling="mean" if "head" in arm else "cls",
            freeze_embeddings="frozen" in arm,
            freeze_layers=settings.freeze_layers,
            attention=attention,
        )
    )
