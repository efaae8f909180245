"""The score on paper: doctor_bench.json, doctor_bench.md and doctor_bench.png."""

import json
import math
import os
import platform
from collections import Counter
from datetime import date
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers

from benchmarks.doctor_bench.fault import FAULTS
from benchmarks.doctor_bench.score import COSTLY, Row, Share, cost_of_alarms, measures
from benchmarks.doctor_bench.setups import HEALTHY_GROUP, LIMITS, REPORT, SINGLE, TWIN

NAME = "doctor_bench"
WAYS = ("FAIL", "WARN", "during", "after")


def write(rows: list[Row], out: Path, missing: int) -> str:
    """Write the three files to `out`; returns the Markdown. `missing`: set-ups that are not measured yet."""
    out.mkdir(parents=True, exist_ok=True)
    halves = {half: measures([row for row in rows if row.setup.half == half]) for half in (REPORT, LIMITS)}
    lines = ["# `make doctor-bench`", "", f"{_setting(rows, missing)}.", "", *_main(halves), ""]
    lines += ["## By family of faults", "", *_families(rows), "", "## What alarms say about cost", "", *_severity(rows)]
    lines += ["", "## Alarms on healthy set-ups", "", *_false(rows), "", "## Every fault", "", *_faults(rows), ""]
    lines += [f"![What is named]({NAME}.png)", ""]
    found = {
        "setting": _setting(rows, missing),
        "measures": {
            half: {name: [share.hits, share.count, *share.interval] for name, share in found.items()}
            for half, found in halves.items()
        },
        "cost": cost_of_alarms(rows),
        "rows": [row.as_dict() for row in rows],
    }
    text = "\n".join(lines)
    (out / f"{NAME}.json").write_text(json.dumps(_finite(found), indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(text, encoding="utf-8")
    _picture(rows, out / f"{NAME}.png")
    return text


def _setting(rows: list[Row], missing: int) -> str:
    counts = Counter(row.setup.group for row in rows)
    parts = [
        date.today().isoformat(),
        ", ".join(f"{count} {group}" for group, count in counts.items()),
        f"CPU, {os.cpu_count()} cores, python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}",
        f"check before training: median {_median([row.seconds for row in rows]):.1f} s, at most "
        f"{max((row.seconds for row in rows), default=0):.1f} s",
        "tiny encoders trained on generated words: nothing here says how often the faults occur in the world",
    ]
    return "; ".join(parts + ([f"NOT COMPLETE: {missing} set-ups are not measured"] if missing else []))


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _main(halves: dict[str, dict[str, Share]]) -> list[str]:
    lines = ["| measure | half that limits were not chosen on | the other half |", "| --- | --- | --- |"]
    return lines + [f"| {name} | {share} | {halves[LIMITS][name]} |" for name, share in halves[REPORT].items()]


def _families(rows: list[Row]) -> list[str]:
    lines = ["| family | faults | set-ups | cost 0.02 nats or more | of these named | any alarm |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for family in dict.fromkeys(fault.family for fault in FAULTS.values()):
        own = [row for row in rows if _family(row) == family]
        costly = [row for row in own if row.harm >= COSTLY]
        named, alarmed = Share.of(any(r.named.values()) for r in costly), Share.of(r.alarmed for r in costly)
        faults = len({row.setup.faults for row in own})
        lines.append(f"| {family} | {faults} | {len(own)} | {len(costly)} | {named} | {alarmed} |")
    return lines


def _family(row: Row) -> str:
    return FAULTS[row.setup.faults[0]].family if row.setup.group == SINGLE else ""


def _severity(rows: list[Row]) -> list[str]:
    """Severity should follow cost."""
    lines = ["| worst alarm before training | single faults | median cost | cost 0.02 nats or more |"]
    lines.append("| --- | --- | --- | --- |")
    single = [row for row in rows if row.setup.group == SINGLE]
    for status in ("FAIL", "WARN", "none"):
        own = [row for row in single if _worst(row) == status]
        costs = [min(row.harm, 5.0) for row in own]
        lines.append(f"| {status} | {len(own)} | {_median(costs):.3f} | {Share.of(c >= COSTLY for c in costs)} |")
    return lines


def _worst(row: Row) -> str:
    return next((status for status in ("FAIL", "WARN") if any(s == status for _, s in row.alarms)), "none")


def _false(rows: list[Row]) -> list[str]:
    sound = [row for row in rows if row.setup.group in (TWIN, HEALTHY_GROUP)]
    lines = ["| what is said | times | where |", "| --- | --- | --- |"]
    told: dict[str, list[str]] = {}
    for row in sound:
        said = [f"{status} {check}" for check, status in row.alarms]
        said += ["the watcher would have stopped"] if row.stopped is not None else []
        said += [f"verdict: {row.verdict}"] if row.verdict not in ("learned", "") else []
        said += [f"ended by an error: {row.stops[:80]}"] if row.stops else []
        for what in said:
            told.setdefault(what, []).append(row.setup.key)
    for what, where in sorted(told.items(), key=lambda pair: -len(pair[1])):
        lines.append(f"| {what} | {len(where)} | {', '.join(where[:6])}{', …' if len(where) > 6 else ''} |")
    return lines


def _faults(rows: list[Row]) -> list[str]:
    lines = ["| fault | family | set-up | costs (nats a row) | named | what is said before | during | after |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in sorted((r for r in rows if r.setup.faults), key=lambda r: (len(r.setup.faults), -min(r.harm, 9))):
        family = " + ".join(FAULTS[name].family for name in row.setup.faults)
        named = ", ".join(way or "**missed**" if row.harm >= COSTLY else way or "–" for way in row.named.values())
        said = ", ".join(f"{status} {check}" for check, status in row.alarms)
        during = "" if row.stopped is None else f"stops at {row.stopped:.0%}"
        names, where = " + ".join(row.setup.faults), f"{row.setup.kind}, {row.setup.encoder}"
        cells = [names, family, where, _cost(row), named, said, during, row.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cost(row: Row) -> str:
    if row.cost is None or row.interval is None:
        return f"ends with {row.stops.splitlines()[-1][:60] if row.stops else 'no model'}".replace("|", "/")
    text = f"{row.cost:+.3f} ({row.interval[0]:+.3f} to {row.interval[1]:+.3f})"
    return text + (f"; reports {row.misreport:.2f} wrong" if row.misreport >= COSTLY else "")


def _picture(rows: list[Row], path: Path) -> None:
    """One bar a family: how its costly faults are named."""
    families = list(dict.fromkeys(fault.family for fault in FAULTS.values()))
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    left = np.zeros(len(families))
    labels = {"FAIL": "named, FAIL", "WARN": "named, WARN", "during": "named by the watcher", "after": "by the verdict"}
    colors = ("#1a7f37", "#7bbf6a", "#3b7dd8", "#8c6bb1", "#d4a72c", "#cf222e")
    for way, color in zip((*WAYS, "alarm", ""), colors):
        counts = np.array([sum(_way(r) == way for r in rows if _family(r) == f and r.harm >= COSTLY) for f in families])
        label = labels.get(way, "another alarm only" if way else "nothing is said")
        axis.barh(families, counts, left=left, color=color, label=label)
        left += counts
    axis.invert_yaxis()
    axis.set_xlabel("set-ups with one fault that costs 0.02 nats or more")
    axis.legend(fontsize=8, ncols=2, loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _way(row: Row) -> str:
    way = next(iter(row.named.values()))
    return way or ("alarm" if row.alarmed else "")


def _finite(thing):
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(thing, dict):
        return {key: _finite(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_finite(value) for value in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing
