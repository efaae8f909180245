"""What a contest asks: its columns, its classes and its submission."""

from pathlib import Path

import numpy as np
import pandas as pd

from src_py.kaggle.files import write_csv

TEXT_COLUMNS = ("prompt", "response_a", "response_b")
LABEL_COLUMNS = ("winner_model_a", "winner_model_b", "winner_tie")
WINNER_VALUES = {"model_a": 0, "model_b": 1}
FLOOR = 1e-6  # log loss of a certain and wrong prediction would be infinite


def submission_table(ids: pd.Series, probabilities: np.ndarray) -> pd.DataFrame:
    """One row a test row, in order.

    Args:
        ids: the test file's ids, unique.
        probabilities: (rows, classes); with 3 classes the columns are the winner_* probabilities, with 2 (WSDM)
            the column `winner` names the likelier side.

    Raises:
        ValueError: when rows are missing, repeated, not finite, negative, or do not sum to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape[0] != len(ids):
        raise ValueError(f"{len(ids)} test rows, but {probabilities.shape[0]} predictions.")
    if ids.duplicated().any():
        raise ValueError(f"id {ids[ids.duplicated()].iloc[0]} would be submitted twice.")
    if not np.isfinite(probabilities).all() or (probabilities < 0).any():
        raise ValueError("Some predictions are NaN, infinite or negative.")
    if np.abs(probabilities.sum(1) - 1).max(initial=0) > 1e-4:
        raise ValueError("Some predictions do not sum to 1.")
    if probabilities.shape[1] == 2:
        sides = np.array(list(WINNER_VALUES))
        return pd.DataFrame({"id": ids.to_numpy(), "winner": sides[probabilities.argmax(1)]})
    clipped = probabilities.clip(FLOOR)
    clipped /= clipped.sum(1, keepdims=True)
    return pd.DataFrame({"id": ids.to_numpy()} | {name: clipped[:, i] for i, name in enumerate(LABEL_COLUMNS)})


def write_submission(path: str | Path, ids: pd.Series, probabilities: np.ndarray) -> pd.DataFrame:
    """Check, write to a temporary file, rename, and read back what was written."""
    table = submission_table(ids, probabilities)
    write_csv(path, table)
    written = pd.read_csv(path, dtype={"id": str})
    if list(written.columns) != list(table.columns) or list(written["id"]) != list(table["id"]):
        raise ValueError(f"{path} does not read back as it was written.")
    return written
