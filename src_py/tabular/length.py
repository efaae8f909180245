"""Length and format of answers as a group of features."""

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.pairs.counts import count_answers
from src_py.tabular.sides import FeatureGroup, Sides


class LengthFeatures(FeatureGroup):
    """Length and format: nothing is fitted. The names of the columns are stored, to recognise models of other ones."""

    columns: tuple[str, ...] = ()

    @staticmethod
    def count(table: pd.DataFrame, embed=None) -> Sides:
        return Sides(**vars(count_answers(table)))

    @staticmethod
    def take(counted: Sides, rows: np.ndarray) -> Sides:
        return counted.take(rows)

    def fit_transform(self, counted: Sides, labels: np.ndarray, prompts: np.ndarray) -> Sides:
        self.columns = tuple(counted.tree_names())
        return counted

    def transform(self, counted: Sides) -> Sides:
        """The features as they were counted.

        Raises:
            InputError: when they have other columns than those that the models learned.
        """
        if tuple(counted.tree_names()) != self.columns:
            raise InputError(
                "The length features have other columns than the saved models learned; run the notebook that saved "
                "them, or train again (CFG.mode = 'train')."
            )
        return counted

    def arrays(self) -> dict[str, np.ndarray]:
        return {"columns": np.array(self.columns, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "LengthFeatures":
        features = cls()
        features.columns = tuple(arrays["columns"].tolist())
        return features
