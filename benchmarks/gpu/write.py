"""What `make gpu` leaves: gpu.json, gpu.md, and lines on the screen."""

import json
import platform
import subprocess
from collections import Counter
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
import transformers

from benchmarks.gpu.rows import MEASURED, OK, SKIPPED, SLOW, WRONG, Row
from benchmarks.gpu.scale import CAP, Scale

_ORDER = (WRONG, SLOW, OK, MEASURED, SKIPPED)


def setting(scale: Scale) -> dict[str, str]:
    """Card, driver and versions, and when."""
    told = {"date": date.today().isoformat(), "card": "CPU, toy size", "driver": "none"}
    if scale.cuda:
        cards = [torch.cuda.get_device_properties(number) for number in range(scale.gpus)]
        told["card"] = ", ".join(f"{card.name} ({card.total_memory / 1e9:.1f} GB)" for card in cards)
        told |= {"driver": _driver(), "CUDA": str(torch.version.cuda), "cap": f"{CAP / 1e9:.0f} GB where it is said"}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return told | versions | {"python": platform.python_version()}


def line(row: Row) -> str:
    """A row as it appears on the screen."""
    told = [f"expected {row.expected}" if row.expected else "", f"found {row.found}" if row.found else "", row.note]
    return f"{row.ok:<11} {row.check}: " + "; ".join(filter(None, told))


def summary(rows: list[Row]) -> str:
    """How many rows there are of each kind."""
    counts = Counter(row.ok for row in rows)
    return ", ".join(f"{counts[kind]} {kind}" for kind in _ORDER if counts[kind]) + "."


def write(rows: list[Row], told: dict[str, str], out: Path) -> None:
    """gpu.json and gpu.md in `out`."""
    made = {"setting": told, "rows": [asdict(row) for row in rows]}
    (out / "gpu.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["# `make gpu`", "", ", ".join(f"{name} {value}" for name, value in told.items()) + ".", ""]
    lines += [summary(rows), "", "| check | expected | found | | note |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ok = f"**{row.ok}**" if row.ok == WRONG else row.ok
        cells = (row.check, row.expected, row.found, ok, row.note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    (out / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
