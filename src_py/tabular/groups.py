"""The feature groups of a table: which there are, what is counted for all rows, and what is fitted inside a fold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.encode import Reading, encode_pairs
from src_py.tabular.embeddings import POOLINGS, EmbeddingFeatures, embed_sequences
from src_py.tabular.length import LengthFeatures
from src_py.tabular.sides import FeatureGroup, Sides
from src_py.tabular.tfidf import TfidfFeatures
from src_py.tabular.word2vec import WordVectorFeatures

GROUP_CLASSES: dict[str, type[FeatureGroup]] = {
    "length": LengthFeatures,
    "tfidf": TfidfFeatures,
    "word2vec": WordVectorFeatures,
    "embeddings": EmbeddingFeatures,
}
GROUPS = tuple(GROUP_CLASSES)


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """Which features a pair has.

    Args:
        groups: some of `GROUPS`.
        max_length: tokens in a sequence of prompt and one answer that the encoder embeds.
        pooling: of the encoder's token vectors, see `embed_sequences`.

    Raises:
        InputError: when there is no group.
    """

    groups: tuple[str, ...] = setting(GROUPS, choices=GROUPS)
    max_length: int = setting(512, least=16, most=16384)
    pooling: str = setting("mean", choices=POOLINGS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups:
            raise InputError(f"CFG.groups is empty; use at least one of {', '.join(map(repr, GROUPS))}.")

    @property
    def reading(self) -> Reading:
        """How the encoder reads a pair: as `finetune_deberta` does by default."""
        return Reading(style="pairwise", max_length=self.max_length)


def group_sets(groups: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Every group alone, and all together."""
    return {group: (group,) for group in groups} | {"all": groups}


def pair_sequences(encoded, tokenizer) -> list[list[int]]:
    """Three sequences a row, of a dataset from `encode_pairs`: the prompt, P+A and P+B."""
    sequences = []
    for with_a, with_b in encoded["sequences"]:
        sequences += [with_a[: with_a.index(tokenizer.sep_token_id) + 1], with_a, with_b]
    return sequences


def embed_pairs(
    table: pd.DataFrame, model_dir: Path, tokenizer, cache_dir: Path, features: FeatureSettings, precision: str
) -> np.ndarray:
    """Embeddings (rows, 3, hidden) of the prompt, of P+A and of P+B, cut as `finetune_deberta` cuts them."""
    sequences = pair_sequences(encode_pairs(table, tokenizer, features.reading), tokenizer)
    vectors = embed_sequences(sequences, model_dir, tokenizer, cache_dir, features.pooling, precision)
    return vectors.reshape(len(table), 3, -1)


class Counted:
    """What is counted without fitting anything, by group, for all rows of a table."""

    def __init__(self, parts: dict[str, Any]):
        self.parts = parts

    @classmethod
    def of(
        cls, table: pd.DataFrame, groups: tuple[str, ...], embed: Callable[[pd.DataFrame], np.ndarray] | None
    ) -> "Counted":
        """Count the texts of a table; its labels are not passed on, so that no feature can see them.

        Args:
            embed: takes the table and returns its embeddings; called only if that group is wanted.
        """
        texts = table[list(TEXT_COLUMNS)]
        return cls({group: GROUP_CLASSES[group].count(texts, embed) for group in groups})

    def take(self, rows: np.ndarray) -> "Counted":
        """Some rows (numbers)."""
        return Counted({group: GROUP_CLASSES[group].take(part, rows) for group, part in self.parts.items()})


class FoldFeatures:
    """What is fitted on the training rows of one fold."""

    def __init__(self, fitted: dict[str, FeatureGroup]):
        self.fitted = fitted

    @classmethod
    def fit(
        cls, counted: Counted, labels: np.ndarray, prompts: np.ndarray, seed: int
    ) -> tuple["FoldFeatures", dict[str, Sides]]:
        """Fit on training rows; returns also their own features, by group, out of fold where labels are used."""
        both = {group: GROUP_CLASSES[group].fit(part, labels, prompts, seed) for group, part in counted.parts.items()}
        return cls({group: pair[0] for group, pair in both.items()}), {group: pair[1] for group, pair in both.items()}

    def transform(self, counted: Counted) -> dict[str, Sides]:
        """Features of other rows, by group."""
        return {group: self.fitted[group].transform(part) for group, part in counted.parts.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs."""
        return {
            f"{group}/{name}": array for group, part in self.fitted.items() for name, array in part.arrays().items()
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "FoldFeatures":
        """What was fitted, read back."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            found.setdefault(group, {})[rest] = array
        return cls({group: GROUP_CLASSES[group].from_arrays(own) for group, own in found.items()})
