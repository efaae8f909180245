"""What a blend is fitted on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src_py.pairs.split import grouped_folds

PARTS = 5  # of the prompts: each is left out in turn


@dataclass(frozen=True)
class Rows:
    """What a blend is fitted on.

    Args:
        predictions: (rows, classes, members).
        labels, prompt: (rows,) class numbers, and numbers of the prompts from 0 on.
        groups: by grouping, the group of every row, (rows,).
        part: (rows,) number of the part, of which each is left out in turn; a prompt's rows are in one.
        lengths: (rows, 2) of answers A and B, if known.
    """

    predictions: np.ndarray
    labels: np.ndarray
    prompt: np.ndarray
    groups: Mapping[str, np.ndarray]
    part: np.ndarray
    lengths: np.ndarray | None = None

    @classmethod
    def of(cls, members: Mapping[str, np.ndarray], labels, prompts, groups, seed: int, lengths=None) -> "Rows":
        """Raises: ValueError, as `choose_blend` says."""
        if not members:
            raise ValueError("A blend needs at least one member.")
        arrays = {name: np.asarray(predicted, dtype=np.float64) for name, predicted in members.items()}
        shape = next(iter(arrays.values())).shape
        for name, predicted in arrays.items():
            if predicted.shape != shape:
                raise ValueError(f"Member {name} has predictions of shape {predicted.shape}, the first of {shape}.")
            if bad := int((~np.isfinite(predicted).all(1)).sum()):
                raise ValueError(f"Member {name} has no finite prediction for {bad} of {shape[0]} rows.")
        given = {"labels": labels, "prompts": prompts, **groups} | ({} if lengths is None else {"lengths": lengths})
        for name, values in given.items():
            if len(values) != shape[0]:
                raise ValueError(f"{shape[0]} rows of predictions, but {len(values)} of {name}.")
        labels, prompt = np.asarray(labels), pd.factorize(np.asarray(prompts))[0]
        part = np.zeros(len(labels), dtype=np.int64)
        if len(np.unique(prompt)) >= PARTS:
            part = grouped_folds(labels, prompt, PARTS, seed)
        groups = {name: np.asarray(group) for name, group in groups.items()}
        lengths = None if lengths is None else np.asarray(lengths)
        return cls(np.stack(list(arrays.values()), axis=2), labels, prompt, groups, part, lengths)

    @property
    def parts(self) -> np.ndarray:
        """Numbers of the parts: one alone where there are too few prompts to judge by."""
        return np.unique(self.part)

    def take(self, where: np.ndarray) -> "Rows":
        """Some of the rows."""
        groups = {name: group[where] for name, group in self.groups.items()}
        lengths = None if self.lengths is None else self.lengths[where]
        return Rows(self.predictions[where], self.labels[where], self.prompt[where], groups, self.part[where], lengths)
