"""The card itself: does this torch run on it, how fast is it, and do two of them find each other?"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.rows import NEEDS_A_GPU, NEEDS_TWO, Row, judged, measured, skipped
from benchmarks.gpu.scale import Scale
from src_py.kaggle.session import missing_kernels

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 20


def architecture(scale: Scale) -> Iterator[Row]:
    """Whether torch has kernels for the card."""
    name = "torch has kernels for the card"
    if not scale.cuda:
        yield skipped(name, NEEDS_A_GPU)
        return
    major, minor = torch.cuda.get_device_capability()
    remedy = missing_kernels()
    yield judged(name, f"sm_{major}{minor}", " ".join(torch.cuda.get_arch_list()), remedy is None, remedy or "")


def speed_of_the_card(scale: Scale) -> Iterator[Row]:
    """Matrix products and memory traffic, each by itself: what the other times can be compared with."""
    size, bytes_moved = (128, 2**20) if scale.toy else (4096, 2**30)
    a = torch.randn(size, size, device=scale.device, dtype=torch.float16)
    x = torch.zeros(bytes_moved // 4, device=scale.device)
    products, copies = _seconds(scale, lambda: a @ a), _seconds(scale, lambda: x.clone())
    yield measured(f"fp16 matrix product, {size:,} squared", f"{2 * size**3 / products / 1e12:.2f} TFLOP/s")
    yield measured("memory traffic, copying", f"{2 * bytes_moved / copies / 1e9:.1f} GB/s")


def loopback(scale: Scale) -> Iterator[Row]:
    """Two processes add their tensors over the loopback device: NCCL on two GPUs, gloo for a toy."""
    name = f"two processes over loopback ({'NCCL' if scale.cuda else 'gloo'})"
    if scale.cuda and scale.gpus < 2:
        yield skipped(name, NEEDS_TWO)
        return
    words = ["-m", "src_py.training.processes", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    loopback_only = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words, "-m", "benchmarks.gpu.add_over_loopback"],
        env=os.environ | loopback_only, cwd=ROOT, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    found = [line.removeprefix("sum ") for line in done.stdout.splitlines() if line.startswith("sum ")]
    why = "" if done.returncode == 0 else " ".join(done.stderr[-400:].split())
    yield judged(name, "3", found[0] if found else "no answer", found[:1] == ["3"] and done.returncode == 0, why)


def _seconds(scale: Scale, work) -> float:
    """Of one call, after a warm-up."""
    work()
    scale.wait()
    begun = time.perf_counter()
    for _ in range(REPEATS):
        work()
    scale.wait()
    return (time.perf_counter() - begun) / REPEATS
