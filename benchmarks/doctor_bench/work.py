"""Measure set-ups in several processes; each finished part is stored at once."""

import multiprocessing
import os
import time
from pathlib import Path

import datasets
import torch

from benchmarks.doctor_bench import world
from benchmarks.doctor_bench.setups import Setup
from benchmarks.doctor_bench.store import PARTS, measured, parts_of, result
from src_py.kaggle import start_session


def measure(listed: list[Setup], store: Path, processes: int) -> None:
    """Measure what is not stored yet, and say how far it is."""
    # First what the doctor says, which takes a quarter of the time.
    jobs = [(store, setup, part) for part in PARTS for setup in listed if part in parts_of(setup, store)]
    missing = [job for job in jobs if result(*job) is None]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} parts of {len(listed)} set-ups are done.", flush=True)
    if not missing:
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny: more threads only wait for each other
    started, families = time.monotonic(), sorted({setup.encoder for _, setup, _ in missing})
    with multiprocessing.get_context("spawn").Pool(processes, _start) as pool:
        pool.starmap(_encoder, [(store, family) for family in families], chunksize=1)
        for number, _ in enumerate(pool.imap_unordered(_measure, missing, chunksize=1), 1):
            if number % 20 == 0 or number == len(missing):
                print(f"{number} of {len(missing)} parts, {(time.monotonic() - started) / 60:.1f} min", flush=True)


def _start() -> None:
    torch.set_num_threads(1)
    start_session(0)  # no progress bars of transformers
    datasets.disable_progress_bars()


def _encoder(store: Path, family: str) -> None:
    world.encoder(store / "models", family)


def _measure(job: tuple[Path, Setup, str]) -> None:
    measured(*job)
