"""Predict with what a run of the LightGBM recipe has stored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from src_py.evaluation.blend import mix
from src_py.evaluation.calibration import Calibration
from src_py.tabular.groups import Counted
from src_py.tabular.saved import FINE_TUNED, predict_folds, read_blend


def predict_blend(
    folder: Path,
    table: pd.DataFrame,
    embed: Callable[[pd.DataFrame], np.ndarray] | None,
    fine_tuned: np.ndarray | None = None,
) -> np.ndarray:
    """Calibrated probabilities (rows, classes) of the blend in this folder, classes in its order.

    Args:
        embed: takes the table and returns its embeddings, as in `Counted.of`.
        fine_tuned: probabilities (rows, classes) of the fine-tuned model in the blend, if there is one.

    Raises:
        InputError: when anything in the folder is missing or damaged.
    """
    blend = read_blend(folder)
    predictions = predict_folds(folder, blend, Counted.of(table, blend.features.groups, embed))
    if fine_tuned is not None:
        predictions[FINE_TUNED] = fine_tuned
    mixed = mix([predictions[name] for name in blend.weights], np.array(list(blend.weights.values())))
    return Calibration(blend.temperature, blend.tie_shift).apply(mixed)
