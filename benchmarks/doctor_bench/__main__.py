"""The doctor, with a score: python -m benchmarks.doctor_bench [--quick=1] [--workers=2] [--only=word] [--out=FOLDER]

Every finished set-up is kept in build/doctor-bench, so that a run that was interrupted resumes; `--quick=1` is a fixed
tenth. Writes doctor_bench.json, doctor_bench.md and doctor_bench.png.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.doctor_bench import report
from benchmarks.doctor_bench.score import Row, score
from benchmarks.doctor_bench.setups import Setup, setups
from benchmarks.doctor_bench.store import ALONE, CHECK, PEERS, RUN, parts_of, result
from benchmarks.doctor_bench.work import measure
from tools.arguments import checked, new_folder, yes

HERE = Path(__file__).resolve().parents[1]
STORE = HERE.parent / "build" / "doctor-bench"


def main(words: list[str] | None = None, store: Path = STORE) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.doctor_bench", description=__doc__)
    flag = {"type": checked(yes), "nargs": "?", "const": True, "default": False}
    parser.add_argument("--quick", **flag, help="1: a fixed tenth of the set-ups; written to build/doctor-bench")
    parser.add_argument("--workers", type=checked(workers), default=2, help="processes")
    parser.add_argument("--only", default="", help="set-ups whose key holds this word, and their twins")
    parser.add_argument("--score", **flag, help="1: measure nothing, and score what is stored")
    parser.add_argument("--out", type=checked(new_folder), help="folder for the figures; benchmarks/ unless given")
    chosen = parser.parse_args(words)
    listed = _chosen(setups(chosen.quick), chosen.only)
    if not listed:
        parser.error(f"no set-up is called {chosen.only!r}")
    if not chosen.score:
        measure(listed, store, chosen.workers)
    rows, missing = scored(listed, store)
    partial = chosen.quick or chosen.only or missing
    print(report.write(rows, chosen.out or (store if partial else HERE), missing))
    return 0


def workers(text: str) -> int:
    """Processes at a time."""
    if text not in {str(number) for number in range(1, 65)}:
        raise ValueError(f"WORKERS is {text!r}; write a whole number from 1 to 64")
    return int(text)


def scored(listed: list[Setup], store: Path) -> tuple[list[Row], int]:
    """A row for every set-up that is measured, and how many are not."""
    parts = {s.key: {part: result(store, s, part) for part in parts_of(s, store)} for s in listed}
    rows = []
    for setup in listed:
        own, twin = parts[setup.key], parts.get(setup.twin, {}).get(RUN)
        if own[CHECK] is not None and own[RUN] is not None and (twin is not None or not setup.faults):
            rows.append(
                score(setup, own[CHECK], own[RUN], twin if setup.faults else None, own.get(ALONE), own.get(PEERS))
            )
    return rows, len(listed) - len(rows)


def _chosen(listed: list[Setup], only: str) -> list[Setup]:
    if not only:
        return listed
    kept = [setup for setup in listed if only in setup.key]
    twins = {setup.twin for setup in kept if setup.faults}
    return [setup for setup in listed if setup.key in twins or setup in kept]


if __name__ == "__main__":
    sys.exit(main())
