"""A member of a blend: what it is, what it predicted out of fold, and how it predicts new rows."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.kaggle.resume import is_scoring_run
from src_py.kaggle.session import free_memory


@dataclass(frozen=True, kw_only=True)
class Member(ABC):
    """Predictions of one run, or of somebody else's model, that can take part in a blend.

    Attributes:
        name: in tables, from its folder.
        folder: where it lies.
        oof: probabilities (training rows, classes) by models that have not seen the row's prompt; NaN where there are
            none.
        digest: tells one member from another; a copy has the same.
        folds: how many folds its models are from; 0: unknown.
        edited: helper files that its predictions depend on, and that had another text when it was trained.
    """

    name: str
    folder: Path
    oof: np.ndarray
    digest: str
    folds: int = 0
    edited: tuple[str, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """(training rows,) whether a row has an out-of-fold prediction."""
        return np.isfinite(self.oof).all(1)

    @property
    def recipe(self) -> str:
        """Whose output it is."""
        return "foreign"

    @property
    def encoder(self) -> str:
        """In words; "" when it has none, or is unknown."""
        return ""

    @property
    def temperature(self) -> float:
        """Of its own calibration, the mean over its models; NaN when it is unknown."""
        return float("nan")

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes that are read to predict."""

    @abstractmethod
    def predict(self, job: "Job") -> np.ndarray:
        """Probabilities (rows, classes) of the job's rows.

        Raises:
            InputError: when a file that it needs is missing or damaged.
        """

    @abstractmethod
    def seconds(self, sample: pd.DataFrame, rows: int, precision: str) -> float:
        """What `predict` will take for `rows` rows like those of `sample`, measured in a few seconds."""


@dataclass(frozen=True)
class Job:
    """Rows to predict, and what the members that predict them share.

    Attributes:
        table: test rows from `load_pairs`.
        classes: of the contest, in order.
        scratch: a folder for what several members use, such as tokenised texts.
        done: predictions (rows, classes) by the member's digest.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    precision: str
    scratch: Path
    done: dict[str, np.ndarray] = field(default_factory=dict)

    def predictions_of(self, member: Member) -> np.ndarray:
        """Probabilities (rows, classes); a member that is also a part of another one predicts only once.

        Raises:
            ValueError: the member's predictions are not finite, or not one row for each of the job's.
        """
        if member.digest not in self.done:
            shape = (len(self.table), len(self.classes))
            predicted = member.predict(self) if len(self.table) else np.empty(shape)
            if predicted.shape != shape or not np.isfinite(predicted).all():
                raise ValueError(f"its predictions are not {shape[0]} rows of {shape[1]} finite numbers")
            self.done[member.digest] = predicted
        return self.done[member.digest]


@contextmanager
def left_out_if_scoring(folder: Path, left_out: list[str]) -> Iterator[None]:
    """In a scoring run, whatever fails inside becomes a sentence in `left_out`: the other members can still answer. In
    any other run it is raised, so that its owner sees it."""
    try:
        yield
    except Exception as error:
        if not is_scoring_run():
            raise
        left_out.append(f"{folder}: {type(error).__name__}: {error}")
    finally:
        free_memory()


def encoder_config(folder: Path) -> dict[str, Any]:
    """The config.json of an encoder's folder; {} when it cannot be read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def encoder_name(folder: Path) -> str:
    """Family and size of the encoder in a folder, such as "deberta-v2, 12 layers of 768"; "" when it cannot be read."""
    config = encoder_config(folder)
    layers, width = config.get("num_hidden_layers"), config.get("hidden_size")
    return f"{config['model_type']}, {layers} layers of {width}" if layers and config.get("model_type") else ""


def folder_size(folders: list[Path]) -> int:
    """Bytes of the files in these folders."""
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
