"""Collate batches and predict, each row once and in order."""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.kaggle.page import progress_bar
from src_py.kaggle.session import all_devices, share_out
from src_py.pairs.encode import PairCollator, Reading, encode_pairs, model_inputs, round_up
from src_py.pairs.load import swap_sides

TOKENS = 32_768  # in a forward pass, padding included


@dataclass(frozen=True)
class PredictionSettings(Settings):
    """What a prediction is made of.

    Args:
        seeds: models trained for every fold, whose predictions are averaged.
        predict_max_length: tokens in a sequence, when more should be read than in training; 0: as in training.
    """

    seeds: int = setting(1, least=1, most=100)
    predict_max_length: int = setting(0, least=0, most=16384)

    def reading(self, trained: Reading) -> Reading:
        """How a model that was `trained` to read pairs in one way reads them in prediction.

        Raises:
            InputError: when it would read less than in training.
        """
        if 0 < self.predict_max_length < trained.max_length:
            raise InputError(
                f"CFG.predict_max_length is {self.predict_max_length}, and CFG.max_length {trained.max_length}; "
                "set it to 0, or to more than that."
            )
        return replace(trained, max_length=self.predict_max_length or trained.max_length)


def token_batches(lengths: list[int], tokens: int) -> list[slice]:
    """Consecutive slices of sequences, sorted longest first, of at most `tokens` tokens with their padding."""
    slices, start = [], 0
    while start < len(lengths):
        size = max(1, tokens // max(1, round_up(lengths[start])))
        slices.append(slice(start, min(start + size, len(lengths))))
        start += size
    return slices


def prediction_parts(lengths: np.ndarray, sequences: int, tokens: int = TOKENS) -> list[np.ndarray]:
    """Row numbers of every batch that `predict_logits` makes of rows of `sequences` sequences.

    Args:
        lengths: the longer sequence of each row, in tokens.
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[rows] for rows in token_batches((lengths[order] * sequences).tolist(), tokens)]


def predict_logits(
    model,
    encoded,
    pad_token_id: int,
    tokens: int = TOKENS,
    precision: str = "fp32",
    progress: bool = True,
    devices: tuple[str, ...] = (),
    what: str = "rows",
) -> np.ndarray:
    """Logits of every row in the dataset's order, float64 of shape (rows, classes).

    Rows are sorted by length, longest first, and batched to about `tokens` tokens: little padding, every batch costs
    the same, and a lack of memory shows at once.

    Args:
        progress: show a bar.
        devices: all GPUs, or the CPU, unless given.
        what: these rows are, for the bar's title.

    Raises:
        ValueError: when there is no row.
        InputError: when a logit is not finite.
    """
    if not len(encoded):
        raise ValueError("There are no rows to predict.")
    devices = devices or all_devices()
    batches = prediction_parts(np.asarray(encoded["length"]), len(encoded[0]["sequences"]), tokens)
    order = np.concatenate(batches)
    found: dict[int, np.ndarray] = {}
    with progress_bar(f"Predicting {what} ({len(order):,} pairs)", len(batches), "batches", shown=progress) as bar:

        def worker(device: str, copy):
            copy = copy.to(device).eval()

            def predict(number: int) -> None:
                found[number] = batch_logits(copy, encoded, batches[number], pad_token_id, device, precision)
                bar.update()

            return predict

        copies = [model, *(deepcopy(model) for _ in devices[1:])]
        share_out(range(len(batches)), [worker(device, copy) for device, copy in zip(devices, copies)])
    sorted_logits = np.concatenate([found[number] for number in range(len(batches))])
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    if bad := int((~np.isfinite(logits).all(1)).sum()):
        # A model that the watcher stopped before its first evaluation has no better weights to go back to.
        raise InputError(
            f"The model's predictions of {what} are NaN or infinite in {bad:,} of {len(logits):,} rows; lower CFG.lr "
            "and train again if its training diverged (then a line above says NaN), else set CFG.precision = 'fp32'."
        )
    return logits


@torch.inference_mode()
def batch_logits(model, encoded, rows: np.ndarray, pad_token_id: int, device: str, precision: str) -> np.ndarray:
    """Logits of the rows with these numbers, which go through the model together; it is on `device` already."""
    wanted = [name for name in ("sequences", "features") if name in encoded.column_names]
    batch = PairCollator(pad_token_id)(encoded.select_columns(wanted).__getitems__(rows.tolist()))
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    with torch.autocast(device.split(":")[0], dtype=dtype, enabled=dtype is not None):
        return model(**model_inputs(batch, device))["logits"].double().cpu().numpy()


def predict_pairs(
    model,
    tokenizer,
    table,
    reading: Reading,
    tokens: int = TOKENS,
    precision: str = "fp32",
    cache_dir: str | Path | None = None,
    what: str = "rows",
) -> np.ndarray:
    """Class probabilities of every row in the table's order, float64 of shape (rows, classes).

    `joint` reads each pair in both orders and averages, which takes out what the model thinks of a side;
    `pairwise` is symmetric already.

    Args:
        cache_dir: as in `encode_pairs`.
        what: as in `predict_logits`.
    """

    def probabilities(pairs, title: str) -> np.ndarray:
        encoded = encode_pairs(pairs, tokenizer, reading, cache_dir)
        logits = predict_logits(model, encoded, tokenizer.pad_token_id, tokens, precision, what=title)
        return softmax(logits, axis=1)

    straight = probabilities(table, what)
    if reading.style == "pairwise":
        return straight
    return (
        straight + probabilities(swap_sides(table), f"{what}, sides swapped")[:, [1, 0, *range(2, straight.shape[1])]]
    ) / 2
