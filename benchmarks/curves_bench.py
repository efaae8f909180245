"""How far learning curves can be trusted: intervals and forecasts for twice the rows, against the truth.

    python -m benchmarks.curves_bench [--quick=1] [--out FOLDER]

Simulated curves of which the truth is known, and recorded ones whose largest size is held out. Writes curves.json and
curves.md into benchmarks/ or the folder given. The constants of `src_py.ablation.curve_fit` were chosen on other seeds.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import scipy

from benchmarks.curves_recorded import read_recorded
from benchmarks.curves_rivals import WAYS, Answer
from benchmarks.curves_simulated import EXPONENTIALS, TRUTHS, UNSEEN, Recorded, simulate
from src_py.ablation.curves import LEVEL, NOTHING, PERCENT, Forecast, fit_curve
from tools.arguments import checked, new_folder, yes

HERE = Path(__file__).resolve().parent
FIRST_SEED, SEEDS, OTHER_SEEDS, QUICK_SEEDS = 9000, 300, 100, 8


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.curves_bench", description=__doc__.split("\n")[0])
    quick = {"type": checked(yes), "nargs": "?", "const": True, "default": False}
    parser.add_argument("--quick", **quick, help=f"1: {QUICK_SEEDS} simulated curves a shape")
    parser.add_argument("--out", type=checked(new_folder), default=HERE)
    chosen = parser.parse_args(words)
    each = pd.DataFrame(row for curve in list_curves(chosen.quick) for row in measure(curve))
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(each, chosen.out)
    print((chosen.out / "curves.md").read_text(encoding="utf-8"))


def list_curves(quick: bool) -> Iterator[Recorded]:
    """All curves of a run."""
    for shapes, count in ((TRUTHS, SEEDS), (EXPONENTIALS, OTHER_SEEDS), (UNSEEN, OTHER_SEEDS)):
        for shape in shapes:
            for seed in range(FIRST_SEED, FIRST_SEED + (QUICK_SEEDS if quick else count)):
                yield simulate(shape, seed)
    yield from read_recorded(some=quick)


def measure(curve: Recorded) -> Iterator[dict]:
    """One row a way: whether its intervals held, how wide they are, and how far off its best estimate is.

    Of a recorded curve the truth is what was measured. A way without an answer has no interval, and the last value as
    its best estimate.
    """
    last = float(curve.losses[curve.rows == curve.largest].mean())
    measured = float(curve.measured.mean())
    known = np.isfinite(curve.truth)
    for way, answer_of in WAYS.items():
        begun = time.process_time()
        answer: Answer | None = answer_of(curve.rows, curve.losses, curve.constant, curve.target)
        row = {
            "shape": curve.shape,
            "way": way,
            "seeds": len(curve.losses) / len(np.unique(curve.rows)),
            "seconds": time.process_time() - begun,
            "cannot tell": answer is None or not answer.tells,
            "error": abs((answer.level.best if answer else last) - (curve.truth if known else measured)),
        }
        found: dict[str, tuple[Forecast | None, float]] = {
            "level": (answer.level if answer and known else None, curve.truth),
            "measured": (answer.measured if answer else None, measured),
            "change": (answer.change if answer and known else None, curve.truth - curve.before),
        }
        for name, (forecast, truth) in found.items():
            row |= {f"{name} {what}": value for what, value in _held(forecast, truth).items()}
        row["wrong"] = _wrong(answer, curve)
        yield row | (_hindcast(curve) if way == "here" else {})


def _held(forecast: Forecast | None, truth: float) -> dict[str, float]:
    """Whether the interval held, its width, and by how much it would have to be stretched to do so."""
    if forecast is None:
        return dict.fromkeys(("held", "width", "stretch"), np.nan)
    side = forecast.high - forecast.best if truth > forecast.best else forecast.best - forecast.low
    return {
        "held": float(forecast.low <= truth <= forecast.high),
        "width": forecast.high - forecast.low,
        "stretch": abs(truth - forecast.best) / max(side, 1e-12),
    }


def _wrong(answer: Answer | None, curve: Recorded) -> float:
    """Whether what a way tells is not so: that more rows help, or that they bring less than `NOTHING`. NaN where it
    tells nothing, or the truth is not known."""
    truth = curve.truth - curve.before
    if answer is None or answer.change is None or not answer.tells or not np.isfinite(truth):
        return np.nan
    return float(truth >= 0 if answer.change.high < 0 else truth < -NOTHING)


def _hindcast(curve: Recorded) -> dict[str, float]:
    fitted = fit_curve(curve.rows, curve.losses, curve.constant)
    found = fitted.hindcast if fitted else None
    return {"hindcast held": float(found.held) if found else np.nan}


def summarize(each: pd.DataFrame) -> pd.DataFrame:
    """One row a shape and way, and one for all simulated shapes of `TRUTHS` together.

    Real curves have no known truth: their coverage and width are those for the measured mean.
    """
    parts = [(shape, each[each["shape"] == shape]) for shape in dict.fromkeys(each["shape"])]
    parts.insert(len(TRUTHS), ("the five", each[each["shape"].isin(TRUTHS)]))
    rows = []
    for shape, part in parts:
        name = "measured" if shape.startswith("real") else "level"
        for way in WAYS:
            own = part[part["way"] == way]
            rows.append(
                {
                    "shape": shape,
                    "way": way,
                    "curves": len(own),
                    "coverage": own[f"{name} held"].mean(),
                    "width": own[f"{name} width"].median(),
                    "width ratio": width_ratio(part, way, name),
                    "error": own["error"].mean(),
                    "median error": own["error"].median(),
                    "cannot tell": own["cannot tell"].mean(),
                    "wrong": own["wrong"].mean(),
                    "coverage, measured": own["measured held"].mean(),
                    "coverage, change": own["change held"].mean(),
                    "change width ratio": width_ratio(part, way, "change"),
                    "hindcasts held": own["hindcast held"].mean() if way == "here" else np.nan,
                }
            )
    return pd.DataFrame(rows)


def width_ratio(part: pd.DataFrame, way: str, name: str) -> float:
    """Median width of this project's intervals over that of another way's, both stretched or shrunk about the best
    estimate so that they hold in `LEVEL` of the curves for which both give one."""
    columns = [f"{name} width", f"{name} stretch"]
    here, other = (part.loc[part["way"] == one, columns].to_numpy() for one in ("here", way))
    both = np.isfinite(here).all(1) & np.isfinite(other).all(1)
    if way == "here" or not both.any():
        return np.nan
    equal = [np.median(found[both, 0]) * np.quantile(found[both, 1], LEVEL) for found in (here, other)]
    return float(equal[0] / equal[1])


def write(each: pd.DataFrame, folder: Path) -> None:
    """curves.json, with the same rows as the table of curves.md."""
    table = summarize(each)
    here = each[each["way"] == "here"]
    five = here[here["shape"].isin(TRUTHS)]
    one_seed = five.loc[five["seeds"] == 1, "level held"]
    about = {
        "date": date.today().isoformat(),
        "versions": f"python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}",
        "level": LEVEL,
        "coverage of curves with one seed": float(one_seed.mean()),
        "curves with one seed": len(one_seed),
        "median seconds of a fit with its forecasts": float(here["seconds"].median()),
    }
    rows = json.loads(table.to_json(orient="records"))
    text = json.dumps({"about": about, "rows": rows}, indent=1)
    (folder / "curves.json").write_text(text + "\n", encoding="utf-8")
    (folder / "curves.md").write_text("\n".join(_markdown(table, about)) + "\n", encoding="utf-8")


def _markdown(table: pd.DataFrame, about: dict) -> list[str]:
    heads = {
        "shape": "curves of",
        "way": "way",
        "curves": "curves",
        "coverage": "coverage",
        "width": "median width",
        "width ratio": "width here against this way's, at equal coverage",
        "error": "mean absolute error",
        "median error": "median absolute error",
        "cannot tell": "cannot tell",
        "wrong": "wrong, of those that tell",
        "coverage, measured": "coverage of measured means",
        "coverage, change": "coverage of the change",
        "hindcasts held": "hindcasts held",
    }
    lines = [
        "# `make curves-bench`",
        "",
        f"{about['date']}; {about['versions']}. Log loss at twice the largest size (real curves: the largest "
        f"size, held out), intervals of {PERCENT}. Of {about['curves with one seed']} curves with one seed a size "
        f"{_cell('coverage', about['coverage of curves with one seed'])} are covered. A fit with its forecasts takes "
        f"{about['median seconds of a fit with its forecasts']:.3f} s of a processor (median).",
        "",
        f"| {' | '.join(heads.values())} |",
        "|" + " --- |" * len(heads),
    ]
    for row in table.to_dict("records"):
        lines.append("| " + " | ".join(_cell(name, row[name]) for name in heads) + " |")
    return lines


def _cell(name: str, value) -> str:
    if isinstance(value, (str, int)):
        return str(value)
    if not np.isfinite(value):
        return ""
    if name in ("width", "error", "median error"):
        return f"{value:.4f}"
    return f"{value:.2f}" if "ratio" in name else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
