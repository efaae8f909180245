"""The feature groups of a table: what is counted once for all rows, and what is fitted inside a fold."""

from pathlib import Path

import numpy as np
import pandas as pd

from src_py.pairs.encode import encode_pairs
from src_py.tabular.embeddings import EmbeddingFeatures, embed_sequences
from src_py.tabular.length import length_sides
from src_py.tabular.sides import Sides
from src_py.tabular.tfidf import TfidfFeatures, hash_texts
from src_py.tabular.word2vec import WordVectorFeatures, split_words

GROUPS = ("length", "tfidf", "word2vec", "embeddings")


def embed_pairs(
    table: pd.DataFrame, model_dir: Path, tokenizer, cache_dir: Path, max_length: int, pooling: str, precision: str
) -> np.ndarray:
    """Embeddings (rows, 3, hidden) of the prompt, of P+A and of P+B, cut as `finetune_deberta` cuts them."""
    encoded = encode_pairs(table, tokenizer, "pairwise", max_length)
    sequences = []
    for with_a, with_b in encoded["sequences"]:
        sequences += [with_a[: with_a.index(tokenizer.sep_token_id) + 1], with_a, with_b]
    vectors = embed_sequences(sequences, model_dir, tokenizer, cache_dir, pooling, precision)
    return vectors.reshape(len(table), 3, -1)


class Counted:
    """What is counted without fitting anything, by group, for all rows of a table."""

    def __init__(self, parts: dict[str, object]):
        self.parts = parts

    @classmethod
    def of(cls, table: pd.DataFrame, groups: tuple[str, ...], embed) -> "Counted":
        """`embed` takes the table and returns its embeddings; it is called only if that group is wanted."""
        makers = {"length": length_sides, "tfidf": hash_texts, "word2vec": split_words, "embeddings": embed}
        return cls({group: makers[group](table) for group in groups})

    def take(self, rows: np.ndarray) -> "Counted":
        """Some rows (numbers)."""
        return Counted({group: _TAKE[group](part, rows) for group, part in self.parts.items()})


_TAKE = {
    "length": lambda part, rows: part.take(rows),
    "tfidf": lambda part, rows: {k: {c: m[rows] for c, m in columns.items()} for k, columns in part.items()},
    "word2vec": lambda part, rows: {column: [texts[i] for i in rows] for column, texts in part.items()},
    "embeddings": lambda part, rows: np.asarray(part[rows]),
}
_FITTED = {"tfidf": TfidfFeatures, "word2vec": WordVectorFeatures, "embeddings": EmbeddingFeatures}


class FoldFeatures:
    """What is fitted on the training rows of one fold."""

    def __init__(self, fitted: dict[str, object]):
        self.fitted = fitted

    @classmethod
    def fit(
        cls, counted: Counted, labels: np.ndarray, prompts: np.ndarray, seed: int
    ) -> tuple["FoldFeatures", dict[str, Sides]]:
        """Fit on training rows; returns also their own features, by group, out of fold where labels are used."""
        fitted = {group: _FITTED[group](seed=seed) for group in counted.parts if group in _FITTED}
        sides = {
            group: fitted[group].fit_transform(part, labels, prompts) if group in fitted else part
            for group, part in counted.parts.items()
        }
        return cls(fitted), sides

    def transform(self, counted: Counted) -> dict[str, Sides]:
        """Features of other rows, by group."""
        return {
            group: self.fitted[group].transform(part) if group in self.fitted else part
            for group, part in counted.parts.items()
        }

    def arrays(self) -> dict[str, np.ndarray]:
        return {f"{group}/{name}": array for group, one in self.fitted.items() for name, array in one.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "FoldFeatures":
        found: dict[str, dict] = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            found.setdefault(group, {})[rest] = array
        return cls({group: _FITTED[group].from_arrays(mine) for group, mine in found.items() if group in _FITTED})
