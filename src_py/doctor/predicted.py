"""Predictions as an evaluation has them: their logits, whether they are of classes, and an untrained model's spread."""

import math

import numpy as np
import pandas as pd
from scipy.special import softmax

from src_py.doctor.rows import first_set, take
from src_py.doctor.untouched import untouched
from src_py.errors import InputError
from src_py.model.counted import counts_beside, counts_logits

UNTRAINED_ROWS = 64  # evaluation rows predicted before training, to know the spread of an untrained model


def predicts_rows(trainer) -> bool:
    """Whether the model predicts something of each row, and not of its tokens or pixels; True where it cannot be seen.

    Those of a language model, rows x tokens x vocabulary, would fill the memory if an evaluation gathered them.
    """
    data = first_set(trainer.eval_dataset)
    if getattr(trainer.args, "predict_with_generate", False):
        return False
    try:
        with untouched(trainer), trainer.accelerator.autocast():
            trainer.model.eval()
            collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
            batch = collate([dict(row) if isinstance(row, dict) else row for row in take(data, 1)])
            _, logits, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
        return (logits[0] if isinstance(logits, tuple) else logits).ndim < 3
    except Exception:
        return True


def check_eval_rows(trainer, valid: pd.DataFrame) -> None:
    """Before a training whose predictions are to be judged: whether they will be of the rows of `valid`.

    Raises:
        InputError: when the Trainer has no validation rows, several sets of them, or another number than `valid`.
    """
    data = trainer.eval_dataset
    if data is None:
        raise InputError("Your Trainer has no eval_dataset: give it one, made from the rows of `valid`, row for row.")
    if isinstance(data, dict):
        raise InputError(
            f"Your Trainer's eval_dataset holds {len(data)} sets: give it only the one that was made from `valid`."
        )
    rows = len(data) if hasattr(data, "__len__") else len(valid)  # a stream does not tell
    if rows != len(valid):
        raise InputError(
            f"Your eval_dataset has {rows:,} rows and `valid` has {len(valid):,}: set `valid` to the table that the "
            "eval_dataset was made from, row for row."
        )


def logits_of(prediction) -> np.ndarray | None:
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    fits = isinstance(logits, np.ndarray) and logits.ndim == 2 and np.issubdtype(logits.dtype, np.floating)
    return logits if fits else None


def are_classes(logits: np.ndarray, labels) -> bool:
    return (
        logits.shape[1] > 1
        and isinstance(labels, np.ndarray)
        and labels.ndim == 1
        and np.issubdtype(labels.dtype, np.integer)
        and labels.min(initial=0) >= 0
        and labels.max(initial=0) < logits.shape[1]
    )


def untrained_spread(trainer) -> float:
    """Spread of the predictions over some evaluation rows, as an evaluation would measure it now; NaN if it fails.

    It is not needed to train: whatever goes wrong here is left to the evaluation itself to report.
    """
    data = first_set(trainer.eval_dataset)
    if data is None or getattr(trainer.args, "predict_with_generate", False):
        return math.nan
    try:
        with untouched(trainer), trainer.accelerator.autocast():
            trainer.model.eval()
            rows, size = take(data, UNTRAINED_ROWS, seed=0), max(1, min(8, trainer.args.per_device_eval_batch_size))
            collate, parts = trainer._get_collator_with_removed_columns(trainer.data_collator), []
            for start in range(0, len(rows), size):
                batch = collate([dict(r) if isinstance(r, dict) else r for r in rows[start : start + size]])
                _, logits, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
                parts.append((logits[0] if isinstance(logits, tuple) else logits).float().cpu().numpy())
                if (counts := counts_beside(trainer.model)) is not None:
                    parts[-1] = parts[-1] - counts_logits(counts, batch["features"].cpu().numpy())
            logits = np.concatenate(parts).astype(np.float64)
            classes = are_classes(logits, None if labels is None else labels.cpu().numpy())
            return float((softmax(logits, axis=1) if classes else logits).std(0).mean())
    except Exception:
        return math.nan
