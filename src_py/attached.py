"""Predictions of `finetune_deberta`, when its output is attached."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.env import TRAINED_MARKER, find_named
from src_py.errors import InputError
from src_py.metrics import apply_temperature
from src_py.model import load_trained
from src_py.predict import predict_pairs
from src_py.tokenizer import load_tokenizer


class FineTuned(NamedTuple):
    """Out-of-fold probabilities (training rows, classes), NaN where there are none, and the trained folders."""

    oof: np.ndarray
    folders: list[Path]


def find_fine_tuned(root: str | Path, table: pd.DataFrame, classes: tuple[str, ...]) -> FineTuned | None:
    """The output of `finetune_deberta` below `root`: `oof.csv` beside its `fold_*` folders; None when there is none.

    Raises:
        InputError: several are attached, its rows or labels are not those of `table`, or its folders are missing.
    """
    found = find_named(root, "oof.csv")
    if not found:
        return None
    if len(found) > 1:
        raise InputError(f"Several files oof.csv are attached ({', '.join(map(str, found))}); keep one.")
    oof = pd.read_csv(found[0], dtype={"id": str}).set_index("id")
    rows = oof.reindex(table["id"])
    wrong = rows["label"].notna().to_numpy() & (rows["label"].to_numpy() != table["label"].to_numpy())
    if wrong.any() or not oof.index.isin(table["id"]).all():
        raise InputError(f"{found[0]} was made from other training rows; attach the run on this data, or none.")
    folders = sorted(path.parent for path in found[0].parent.glob(f"fold_*/{TRAINED_MARKER}"))
    if not folders:
        raise InputError(f"{found[0]} has no fold_* folders beside it; attach the whole output of finetune_deberta.")
    return FineTuned(rows[list(classes)].to_numpy(float), folders)


def predict_fine_tuned(folders: list[Path], table: pd.DataFrame, precision: str) -> np.ndarray:
    """Mean probabilities of the trained folders, each at its own temperature, (rows, classes)."""
    parts = []
    for folder in folders:
        model, settings = load_trained(folder)
        reading = {key: settings[key] for key in ("style", "max_length", "prompt_share", "head_share")}
        predicted = predict_pairs(model, load_tokenizer(folder), table, **reading, precision=precision)
        parts.append(apply_temperature(predicted, settings["temperature"]))
    return np.mean(parts, axis=0)
