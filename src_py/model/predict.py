"""Collate batches and predict, each row once and in order."""

import sys
from copy import deepcopy

import numpy as np
import torch
from scipy.special import softmax
from tqdm import tqdm

from src_py.kaggle.session import all_devices, share_out, to_device
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.pairs.load import swap_sides

BATCH_SIZE = 32  # pairs in a forward pass


def predict_logits(
    model,
    encoded,
    pad_token_id: int,
    batch_size: int,
    precision: str = "fp32",
    progress: bool = True,
    devices: tuple[str, ...] = (),
) -> np.ndarray:
    """Logits of every row in the dataset's order, float64 of shape (rows, classes).

    Rows are batched by length, longest first: little padding, and a lack of memory shows at once.

    Args:
        progress: show a bar.
        devices: all GPUs, or the CPU, unless given.

    Raises:
        ValueError: when a logit is not finite.
    """
    devices = devices or all_devices()
    order = np.argsort(-np.asarray(encoded["length"]), kind="stable")
    rows, collate = encoded.select_columns(["sequences"]), PairCollator(pad_token_id)
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    found: dict[int, np.ndarray] = {}
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    with tqdm(
        total=len(batches),
        desc=f"Predicting {len(order):,} pairs",
        mininterval=10,
        file=sys.stdout,
        disable=not progress,
    ) as bar:

        def worker(device: str, copy):
            copy = copy.to(device).eval()

            def predict(number: int) -> None:
                batch = collate([{"sequences": ids} for ids in rows[batches[number].tolist()]["sequences"]])
                ids, mask = (to_device(batch[name], device) for name in ("input_ids", "attention_mask"))
                with (
                    torch.inference_mode(),
                    torch.autocast(device.split(":")[0], dtype=dtype, enabled=dtype is not None),
                ):
                    found[number] = copy(ids, mask, lengths=batch["lengths"])["logits"].double().cpu().numpy()
                bar.update()

            return predict

        copies = [model, *(deepcopy(model) for _ in devices[1:])]
        share_out(range(len(batches)), [worker(device, copy) for device, copy in zip(devices, copies)])
    sorted_logits = np.concatenate([found[number] for number in range(len(batches))])
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    if not np.isfinite(logits).all():
        raise ValueError("Predictions are not finite: set CFG.precision to 'fp32', or train again.")
    return logits


def predict_pairs(
    model, tokenizer, table, reading: Reading, batch_size: int = BATCH_SIZE, precision: str = "fp32"
) -> np.ndarray:
    """Class probabilities of every row in the table's order, float64 of shape (rows, classes).

    `joint` reads each pair in both orders and averages, which takes out what the model thinks of a side;
    `pairwise` is symmetric already.
    """

    def probabilities(pairs) -> np.ndarray:
        encoded = encode_pairs(pairs, tokenizer, reading)
        return softmax(predict_logits(model, encoded, tokenizer.pad_token_id, batch_size, precision), axis=1)

    straight = probabilities(table)
    if reading.style == "pairwise":
        return straight
    return (straight + probabilities(swap_sides(table))[:, [1, 0, *range(2, straight.shape[1])]]) / 2
