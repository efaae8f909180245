"""Count what the model makes a GPU do, without one: python -m benchmarks.trace [--quick=1] [--top=N] [--out=FOLDER]

Writes trace.json and trace.md. With --check=1 it writes check.json instead: the limits, and every variant of the model,
with the error it ends with if devices are mixed; the exit code is 1 when a limit or a variant fails.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.trace import guard
from tools.arguments import checked, count, new_folder, yes

HERE = Path(__file__).resolve().parents[1]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.trace", description=__doc__)
    flag = {"type": checked(yes), "nargs": "?", "const": True, "default": False}
    parser.add_argument("--quick", **flag, help="1: one table, in half a minute; written to build/trace")
    parser.add_argument("--check", **flag, help="1: limits and variants only")
    parser.add_argument("--top", type=checked(count), default=20, help="operations in the breakdown")
    parser.add_argument("--out", type=checked(new_folder), help="folder for the figures; benchmarks/ unless given")
    chosen = parser.parse_args(words)
    problem = guard.missing()
    if problem:
        print(problem)
        return 0
    guard.load()
    out = chosen.out or (guard.CACHE if chosen.quick or chosen.check else HERE)
    if chosen.check:
        return check(out)
    from benchmarks.trace import report  # imports torch, which has to come after the guard

    report.write(out, chosen.quick, chosen.top)
    return 0


def check(out: Path) -> int:
    """Write check.json to `out`; 1 when something does not hold."""
    from benchmarks.trace import report, variants

    found = {"limits": report.limits(), "variants": variants.problems(), "mixed on purpose": variants.mixed_problems()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "check.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(report.markdown(found["limits"]))
    failed = [f"{name}: {error}" for name, error in found["variants"].items() if error]
    print(*(failed or [f"{len(found['variants'])} variants, none mixes devices."]), sep="\n")
    return int(bool(failed) or not all(row["holds"] for row in found["limits"]))


if __name__ == "__main__":
    sys.exit(main())
