"""Everything about this project that only a GPU can show, in at most ten minutes.

    python -m benchmarks.gpu [--toy=1] [--out FOLDER]

Needs a machine with one or two NVIDIA cards; no network, no weights. Writes gpu.json and gpu.md into benchmarks/ or the
folder given, after every check. Ends with 1 where something is wrong (not where it is slow). --toy=1 runs all of it on
the CPU with tiny models, and writes to build/gpu_toy/.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.checks import CHECKS
from benchmarks.gpu.rows import WRONG, Row
from benchmarks.gpu.runner import run_checks
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.write import line, setting, summary, write
from tools.arguments import checked, new_folder, yes

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parent


def main(words: list[str] | None = None) -> int:
    """1 where something is wrong, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--toy", type=checked(yes), nargs="?", const=True, default=False, help="1: on the CPU")
    parser.add_argument("--out", type=checked(new_folder))
    chosen = parser.parse_args(words)
    if chosen.toy:
        # Before anything asks for a GPU; and tiny models are faster with one thread.
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    elif not torch.cuda.is_available():
        sys.exit("make gpu needs an NVIDIA card that torch can use, and sees none; make gpu TOY=1 tries it on the CPU.")
    out = chosen.out or (ROOT / "build/gpu_toy" if chosen.toy else HERE)
    if chosen.toy and out.resolve() == HERE:
        sys.exit("A toy run says nothing about a GPU, so it does not write to benchmarks/: choose another OUT.")
    out.mkdir(parents=True, exist_ok=True)
    log = ROOT / "build/gpu.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    scale, begun, rows = Scale.here(chosen.toy), time.monotonic(), list[Row]()
    told = setting(scale)
    for row in run_checks(CHECKS, scale, log):
        rows.append(row)
        print(line(row), flush=True)
        write(rows, told | {"seconds": f"{time.monotonic() - begun:.0f}"}, out)
    print(f"\n{summary(rows)} Written to {out}; what the checks printed is in {log}.")
    return int(any(row.ok == WRONG for row in rows))


if __name__ == "__main__":
    sys.exit(main())
