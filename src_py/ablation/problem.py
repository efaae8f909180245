"""What an ablation is about: its rows, its trials, and what one of them finds."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from src_py.ablation.arms import Arm
from src_py.ablation.settings import TrialSettings
from src_py.kaggle.files import ENCODER_FILES, folder_digest
from src_py.kaggle.identity import helper_digests, key_of, rows_digest

RECIPE = "ablate_subset_vs_full"


@dataclass(frozen=True)
class Trial:
    """`as_rows` is 0 for the arm's own number of epochs; in the control arm, the subset is trained for as many
    optimizer steps as `as_rows` rows get."""

    arm: str
    rows: int
    seed: int
    as_rows: int = 0

    def __str__(self) -> str:
        steps = f" for the steps of {self.as_rows:,} (control arm)" if self.as_rows else ""
        return f"{self.arm}, {self.rows:,} rows{steps}, seed {self.seed}"


@dataclass
class Problem:
    """The fixed part of an ablation.

    Args:
        train: rows to take subsets of, from `load_pairs`; rows of extra files begin at the positions `blocks`. Columns
            `soft` and `soft_weight` (a teacher) and `model_a`, `model_b` are used by the arms that need them alone.
        valid: the rows that every trial predicts.
        prompts: one key a validation row.
        unseen: (validation rows,) whether nothing like the row was left in training; None where no group of prompts
            was held out.
        encoders: folders of the encoders that arms may have in place of `model_dir`, by the name that arms give them.
        added: rows that arms with a lever have beside their subset, by what they need: "extra" (labelled), "pseudo"
            (with `soft` and `soft_weight`).
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    prompts: pd.Series
    model_dir: Path
    classes: tuple[str, ...]
    settings: TrialSettings
    blocks: tuple[int, ...] = ()
    unseen: np.ndarray | None = None
    added: dict[str, pd.DataFrame] = field(default_factory=dict)
    encoders: dict[str, Path] = field(default_factory=dict)
    _readings: dict = field(default_factory=dict, repr=False)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def encoder_of(self, arm: Arm) -> Path:
        """The folder of the arm's encoder."""
        return self.encoders[arm.encoder] if arm.encoder else self.model_dir

    def identity(self, encoder: str = "") -> dict:
        """What the result of every trial with this encoder depends on, part by part: settings, rows, encoder and the
        helpers' code.

        Args:
            encoder: of `encoders`; empty is `model_dir`.
        """
        unseen = [] if self.unseen is None else [rows_digest(self.unseen)]
        added = [f"{name} {rows_digest(rows)}" for name, rows in sorted(self.added.items())]
        tables = [rows_digest(self.train), rows_digest(self.valid), *unseen, *added]
        return {
            "settings": asdict(self.settings),
            "rows": "-".join([*tables, *map(str, self.blocks)]),
            "encoder": folder_digest(self.encoders[encoder] if encoder else self.model_dir, ENCODER_FILES),
            "code": helper_digests(),
        }

    def key(self, encoder: str = "") -> str:
        """Digest of `identity`, 12 hex digits."""
        return key_of(self.identity(encoder))

    def has(self) -> set[str]:
        """What arms may need of the rows and is there: keys of `NEEDS`."""
        columns = {"soft": {"soft", "soft_weight"}, "names": {"model_a", "model_b"}}
        return {need for need, wanted in columns.items() if wanted <= set(self.train)} | set(self.added)

    def part(self, unseen: bool) -> np.ndarray:
        """(validation rows,) which of them are unlike the training rows, or like them."""
        everywhere = np.zeros(len(self.valid), dtype=bool) if self.unseen is None else self.unseen
        return everywhere == unseen


@dataclass
class Outcome:
    """`probabilities` (evaluations, validation rows, classes), NaN where the model diverged; `at` the optimizer steps
    of the evaluations; seconds of training, of a usual optimizer step, and of predicting; `memory_gb`, the most that a
    GPU had allocated, 0 without one; `blind` (validation rows, classes) what a model with counts would say if it did
    not read, from `without_text`, None without counts. Where an arm averages several models, seconds are of all, but
    for the step."""

    probabilities: np.ndarray
    at: list[int]
    train_seconds: float
    step_seconds: float
    predict_seconds: float
    memory_gb: float = 0.0
    blind: np.ndarray | None = None
