"""Minutes to the verdict of a whole grid: trials in the adaptive order against the fixed one.

    python -m benchmarks.adaptive_bench [--quick=1] [--out FOLDER]

Grids whose losses are known are run in both orders. After each trial the verdicts are read, as from a run that was
stopped there; the minutes count until a verdict is that of the whole grid, and stays it. Writes adaptive.json and
adaptive.md into benchmarks/ or the folder given.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as t_distribution

from benchmarks.adaptive_grids import ARMS, SEEDS, KnownGrid, recorded, simulated
from src_py.ablation.adaptive import Question
from src_py.ablation.curves import fit_curve
from src_py.ablation.problem import Trial
from src_py.ablation.verdicts import ONE_SEED
from tools.arguments import checked, new_folder, yes

HERE = Path(__file__).resolve().parent
UNKNOWN = "cannot tell"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.adaptive_bench", description=__doc__.split("\n")[0])
    quick = {"type": checked(yes), "nargs": "?", "const": True, "default": False}
    parser.add_argument("--quick", **quick, help="1: one simulated grid of each kind, and few recorded ones")
    parser.add_argument("--out", type=checked(new_folder), default=HERE)
    chosen = parser.parse_args(words)
    each = pd.DataFrame(row for grid in list_grids(chosen.quick) for row in measure(grid))
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(each, chosen.out)
    print((chosen.out / "adaptive.md").read_text(encoding="utf-8"))


def list_grids(quick: bool) -> Iterator[KnownGrid]:
    """All grids of a run."""
    for default in (True, False):
        yield from simulated(default, 1 if quick else SEEDS)
    found = list(recorded())
    yield from found[:: 20 if quick else 1]


def measure(grid: KnownGrid) -> Iterator[dict]:
    """One row a verdict: that of the whole grid, and the minutes to it in both orders."""
    orders = {"fixed": None, "adaptive": Question(ARMS, grid.sizes, grid.constant)}
    found = {name: run(grid, question) for name, question in orders.items()}
    rows = {name: {which: reached(trace, which) for which in ("twice", "code")} for name, trace in found.items()}
    for which in ("twice", "code", "both"):
        parts = ("twice", "code") if which == "both" else (which,)
        final = [rows["fixed"][part][0] for part in parts]
        minutes = {name: max(rows[name][part][1] for part in parts) for name in orders}
        yield {"grids": grid.kind, "verdict": which, "final": "; ".join(final)} | minutes


def run(grid: KnownGrid, question: Question | None) -> pd.DataFrame:
    """Minutes, and both verdicts, after each trial that they depend on."""
    waiting, done, minutes = list(grid.trials), {}, 0.0
    trace = [{"minutes": 0.0, "twice": UNKNOWN, "code": UNKNOWN}]
    while any(_counts(trial) for trial in waiting):
        trial = question.choose(waiting, done, grid.minutes) if question else waiting[0]
        waiting.remove(trial)
        minutes += grid.minutes[trial]
        if _counts(trial):
            done[trial] = grid.losses[trial]
            trace.append({"minutes": minutes, "twice": _twice(done, grid), "code": _code(done, grid)})
    return pd.DataFrame(trace)


def reached(trace: pd.DataFrame, which: str) -> tuple[str, float]:
    """The last verdict, and the minutes from which on it stays."""
    final = trace[which].iloc[-1]
    other = np.flatnonzero(trace[which] != final)
    return final, float(trace["minutes"].iloc[other[-1] + 1 if len(other) else 0])


def _counts(trial: Trial) -> bool:
    return trial.arm in ARMS and not trial.as_rows


def _twice(done: dict[Trial, float], grid: KnownGrid) -> str:
    """What the last arm's curve says of twice the grid's rows, once that arm was trained on all."""
    own = [(trial.rows, loss) for trial, loss in done.items() if trial.arm == ARMS[-1]]
    law = fit_curve(*zip(*own), grid.constant) if max(own, default=(0, 0))[0] == grid.sizes[-1] else None
    return law.verdict if law else UNKNOWN


def _code(done: dict[Trial, float], grid: KnownGrid) -> str:
    """Which arm is better at the largest size that both have, over the seeds that both have."""
    for rows in reversed(grid.sizes):
        old, new = ({t.seed: loss for t, loss in done.items() if (t.arm, t.rows) == (arm, rows)} for arm in ARMS)
        gains = np.array([old[seed] - new[seed] for seed in old.keys() & new.keys()])
        if len(gains):
            several = len(gains) > 1
            error = gains.std(ddof=1) / len(gains) ** 0.5 if several else 0.0
            reach = t_distribution.ppf(0.975, len(gains) - 1) * error if several else ONE_SEED
            return UNKNOWN if abs(gains.mean()) <= reach else "better" if gains.mean() > 0 else "worse"
    return UNKNOWN


def summarize(each: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of grid and verdict. Grids whose last verdict is "cannot tell" are counted only: that is the
    verdict before anything was run, too."""
    rows = []
    for (kind, which), part in each.groupby(["grids", "verdict"], sort=False):
        told = part[(part["fixed"] > 0) & (part["final"].str.split("; ").map(set) != {UNKNOWN})]
        ratios = told["adaptive"] / told["fixed"]
        rows.append(
            {
                "grids": kind,
                "verdict": which,
                "number": len(part),
                "with a verdict": len(told),
                "minutes, fixed": told["fixed"].sum(),
                "minutes, adaptive": told["adaptive"].sum(),
                "ratio": told["adaptive"].sum() / told["fixed"].sum() if len(told) else np.nan,
                "median ratio": ratios.median(),
                "share that take longer": (ratios > 1.0001).mean(),
            }
        )
    return pd.DataFrame(rows)


def write(each: pd.DataFrame, folder: Path) -> None:
    """adaptive.json, with the same rows as the table of adaptive.md."""
    table = summarize(each)
    rows = json.loads(table.to_json(orient="records"))
    text = json.dumps({"date": date.today().isoformat(), "rows": rows}, indent=1)
    (folder / "adaptive.json").write_text(text + "\n", encoding="utf-8")
    lines = [
        "# `python -m benchmarks.adaptive_bench`",
        "",
        f"{date.today().isoformat()}. Minutes until the verdict is that of the whole grid and stays it, summed over "
        'grids. Verdicts: "twice", what twice the rows bring the last arm; "code", which arm is better at the largest '
        'size; "both", the later of the two. Minutes are simulated: in proportion to rows, beside a fixed part.',
        "",
        f"| {' | '.join(table.columns)} |",
        "|" + " --- |" * len(table.columns),
        *("| " + " | ".join(_cell(value) for value in row) + " |" for row in table.itertuples(index=False)),
    ]
    (folder / "adaptive.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(value) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if np.isnan(value) else f"{value:.0f}" if value > 10 else f"{value:.2f}"


if __name__ == "__main__":
    main()
