"""Features of a pair, stored so that swapping A and B is exact; and what a group of them can do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from src_py.pairs.counts import Counts


@dataclass(frozen=True)
class Sides(Counts):
    """Figures of pairs that may be counted or fitted, and what can be done with them."""

    def __len__(self) -> int:
        return len(self.a)

    def swapped(self) -> "Sides":
        """The same pairs with A and B exchanged."""
        return Sides(self.b, self.a, self.shared, self.names, self.shared_names)

    def take(self, rows) -> "Sides":
        """Some rows."""
        return Sides(self.a[rows], self.b[rows], self.shared[rows], self.names, self.shared_names)

    def for_trees(self) -> np.ndarray:
        """(rows, 3k + m): A, B, A minus B, shared."""
        return np.hstack([self.a, self.b, self.a - self.b, self.shared])

    def tree_names(self) -> list[str]:
        """Names of the columns of `for_trees`."""
        forms = [f"{name} {form}" for form in ("A", "B", "A-B") for name in self.names]
        return forms + list(self.shared_names)

    def for_linear(self) -> np.ndarray:
        """(rows, 3k + m): A minus B, its size, the mean of both, shared."""
        parts = [self.a - self.b, np.abs(self.a - self.b), (self.a + self.b) / 2, self.shared]
        return np.hstack(parts).astype(np.float64)


def join(groups: list[Sides]) -> Sides:
    """The columns of several groups side by side."""
    a, b, shared = (np.hstack([getattr(group, part) for group in groups]) for part in ("a", "b", "shared"))
    names, shared_names = (
        tuple(name for group in groups for name in getattr(group, part)) for part in ("names", "shared_names")
    )
    return Sides(a, b, shared, names, shared_names)


def stack(parts: list[Sides]) -> Sides:
    """The rows of several tables one below the other."""
    first = parts[0]
    a, b, shared = (np.vstack([getattr(part, name) for part in parts]) for name in ("a", "b", "shared"))
    return Sides(a, b, shared, first.names, first.shared_names)


class FeatureGroup:
    """A group of features. What needs no fitting is counted once for all rows; an instance is what was fitted on the
    training rows of one fold."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    @staticmethod
    def count(table: pd.DataFrame, embed: Callable[[pd.DataFrame], np.ndarray] | None) -> Any:
        """What is counted without fitting anything, for all rows.

        Args:
            table: prompt, response_a and response_b, each a list of turns; no labels.
            embed: returns the embeddings of a table's rows (rows, 3, hidden).
        """
        raise NotImplementedError

    @staticmethod
    def take(counted: Any, rows: np.ndarray) -> Any:
        """Some rows (numbers) of what was counted."""
        raise NotImplementedError

    @classmethod
    def fit(cls, counted: Any, labels: np.ndarray, prompts: np.ndarray, seed: int) -> tuple[Self, Sides]:
        """Fit on training rows; returns also their own features, out of fold where labels are used.

        Args:
            labels, prompts: (rows,) class, and number of the prompt.
        """
        features = cls(seed=seed)
        return features, features.fit_transform(counted, labels, prompts)

    def fit_transform(self, counted: Any, labels: np.ndarray, prompts: np.ndarray) -> Sides:
        """Fit on training rows and return their own features."""
        raise NotImplementedError

    def transform(self, counted: Any) -> Sides:
        """Features of rows that nothing was fitted on."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs."""
        raise NotImplementedError

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """What was fitted, read back."""
        raise NotImplementedError
