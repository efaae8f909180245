"""How long this machine takes for encoder calls: counted work, and seconds fitted to a few measured parts."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from scipy.optimize import nnls

from src_py.kaggle.session import all_devices
from src_py.model.length_groups import CALL, length_groups
from src_py.model.predict import prediction_parts
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.encode import Reading, round_up

ROUNDS = 12  # of measuring at most: more do not change the median
DRAWN = 4_000  # rows that stand for others at most
SINGLE = 0.1  # what the time of a single row counts, against that of a part


class Pace(NamedTuple):
    """Seconds of an encoder call: fixed, for each of its tokens, and for each token times the call's length.

    Padding counts as tokens. The last one is the attention, whose work grows with the square of the length.
    """

    call: float
    token: float
    square: float

    def seconds(self, work: np.ndarray) -> float:
        """Seconds for work of shape (3,) or the sum of several, (n, 3), as `part_work` counts it."""
        return float((np.asarray(work, dtype=float) @ np.asarray(self)).sum())


class Part(NamedTuple):
    """Rows that go through the model together.

    Attributes:
        rows: their numbers.
        ready: makes a batch of some of them, and returns what is to be timed.
        work: that of some of them, (3,), as `part_work` counts it.
    """

    rows: np.ndarray
    ready: Callable[[np.ndarray], Callable[[], object]]
    work: Callable[[np.ndarray], np.ndarray]


def sequence_lengths(encoded) -> np.ndarray:
    """Tokens of every sequence, int64 (rows, sequences), of a dataset from `encode_pairs`."""
    found = []
    for table in encoded.select_columns(["sequences"]).with_format("arrow").iter(batch_size=1000):
        sequences = table["sequences"].combine_chunks()
        found.append(pc.list_value_length(sequences.flatten()).to_numpy(zero_copy_only=False).reshape(len(table), -1))
    return np.concatenate(found).astype(np.int64)


def prediction_lengths(encoded, reading: Reading) -> np.ndarray:
    """Tokens of every sequence, int64 (rows, sequences), of the same pairs when they are read as `reading` says.

    Args:
        encoded: from `encode_pairs`, of the same style with any `max_length`: it says how long the whole texts are.
    """
    prompt, a, b = (np.asarray(encoded[f"{part}_tokens"]) for part in TEXT_COLUMNS)
    whole = np.stack([prompt + a + b + 4] if reading.style == "joint" else [prompt + a + 3, prompt + b + 3], axis=1)
    return np.minimum(whole, reading.max_length).astype(np.int64)


def part_work(lengths: Sequence[int], device: str = "cpu") -> np.ndarray:
    """Encoder calls, tokens with padding, and tokens times length, (3,), of one part of these sequences.

    Args:
        device: its type, such as "cuda", on which it depends how many calls `PreferenceModel` makes.
    """
    groups = length_groups(list(lengths), CALL.get(device, CALL["cpu"]))
    calls = [(1, len(rows) * round_up(longest), len(rows) * round_up(longest) ** 2) for rows, longest in groups]
    return np.array(calls, dtype=np.int64).sum(0)


def works(lengths: np.ndarray, parts: list[np.ndarray], device: str = "cpu") -> np.ndarray:
    """`part_work` of every part, (parts, 3)."""
    return np.array([part_work(lengths[rows].ravel().tolist(), device) for rows in parts]).reshape(-1, 3)


def prediction_seconds(lengths: np.ndarray, pace: Pace, row: float) -> float:
    """Seconds of `predict_pairs` on rows of these lengths (rows, sequences), on all devices.

    Args:
        row: seconds of tokenising a pair and putting it into a batch.
    """
    devices = all_devices()
    parts = prediction_parts(lengths.max(1), lengths.shape[1])
    work = works(lengths, parts, devices[0].split(":")[0]).sum(0)
    orders = 2 if lengths.shape[1] == 1 else 1  # a joint reading reads both
    return orders * (pace.seconds(work) / len(devices) + len(lengths) * row)


def seconds_like(lengths: np.ndarray, rows: int, pace: Pace, row: float) -> float:
    """Seconds of `predict_pairs` on `rows` rows that are as long as those of `lengths`."""
    if not rows:
        return 0.0
    drawn = np.random.default_rng(0).integers(len(lengths), size=min(rows, DRAWN))
    return prediction_seconds(lengths[drawn], pace, row) * rows / len(drawn)


def typical(work: np.ndarray, count: int = 3) -> list[int]:
    """Positions of `count` parts, short to long: in order of length, each in the middle of a share of all tokens."""
    order = np.argsort(work[:, 2] / work[:, 1], kind="stable")
    share = np.cumsum(work[order, 1]) / work[:, 1].sum()
    return [int(order[np.searchsorted(share, (k + 0.5) / count)]) for k in range(count)]


def fit_pace(work: np.ndarray, seconds: np.ndarray, weights: np.ndarray | None = None) -> Pace:
    """The pace that fits parts (n, 3) and their seconds (n,) best; none of it is negative.

    Args:
        weights: (n,) what the relative error of each part counts; all alike unless given.
    """
    size = work.max(0)  # columns of one size for the solver
    weights = np.ones(len(seconds)) if weights is None else weights
    found, _ = nnls(work / size * (weights / seconds)[:, None], weights)
    return Pace(*(found / size).tolist())


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of `run`, until `device` has finished."""
    _wait(device)
    begun = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - begun


def machine_line(flops: float, traffic: float) -> str:
    """What was measured of the device, operations and bytes a second, in words."""
    return f"This machine: {flops / 1e12:.2f} TFLOP/s in matrix products, {traffic / 1e9:.0f} GB/s of memory traffic."


def measure_rounds(runs: Sequence[Callable[[], object]], budget: float, device: torch.device) -> list[float]:
    """Median seconds of every run, taken in turn for about `budget` seconds; the first round, a warm-up, not counted.

    In turn, so that what else the machine does falls on all of them. There is at least one round that counts.
    """
    end = time.perf_counter() + budget
    for run in runs:
        run()
    rounds: list[list[float]] = []
    while not rounds or (len(rounds) < ROUNDS and time.perf_counter() + sum(rounds[-1]) < end):
        rounds.append([timed(run, device) for run in runs])
    return [statistics.median(seconds) for seconds in zip(*rounds)]


def measure_paces(kinds: Sequence[Sequence[Part]], budget: float, device: torch.device) -> list[Pace]:
    """The pace of each kind of parts (such as training and prediction), measured together for about `budget` seconds.

    Where whole parts would take too long for three rounds, parts of fewer rows stand for them. What single rows take
    tells the cost of a call from that of its tokens.
    """
    parts = [part for kind in kinds for part in kind]
    expected = 0.0
    for part in parts:
        one = part.ready(part.rows[:1])
        one()  # the first call at a new length includes warming up
        expected += timed(one, device) * part.work(part.rows)[1] / part.work(part.rows[:1])[1]
    share = min(1.0, budget / 3 / expected)
    sizes = [max(1, math.ceil(share * len(part.rows))) for part in parts] + [1] * len(parts)
    chosen = [part._replace(rows=part.rows[:size]) for part, size in zip(parts + parts, sizes)]
    seconds = np.array(measure_rounds([part.ready(part.rows) for part in chosen], budget, device))
    work = np.array([part.work(part.rows) for part in chosen])
    weights = np.repeat([1.0, SINGLE], len(parts))
    kind_of = np.tile(np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds]), 2)
    return [fit_pace(work[kind_of == k], seconds[kind_of == k], weights[kind_of == k]) for k in range(len(kinds))]


def matrix_rate(device: torch.device, precision: str, budget: float) -> float:
    """Floating-point operations a second in a product of square matrices, in "fp16", "bf16" or "fp32"."""
    size = 4096 if device.type == "cuda" else 1024
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    # Not zeros, for which a card that is limited in power keeps a higher clock.
    left = right = (torch.arange(size * size, device=device) % 7 - 3).view(size, size).to(dtype)
    return 2 * size**3 / measure_rounds([lambda: left @ right], budget, device)[0]


def traffic_rate(device: torch.device, budget: float) -> float:
    """Bytes a second that are read and written by a copy in the device's memory."""
    count = 2**27 if device.type == "cuda" else 2**24
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * count / measure_rounds([lambda: target.copy_(source)], budget, device)[0]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
