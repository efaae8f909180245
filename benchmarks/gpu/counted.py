"""What `make trace` counted, to hold against what a card needs. The only place that knows the format of trace.json."""

import json
from pathlib import Path

from benchmarks.gpu.candidates import OWN

FILE = Path(__file__).resolve().parents[1] / "trace.json"


def counted_peak(shape: str, pairs: int, tokens: int, kind: str, file: Path = FILE) -> float | None:
    """GB (1e9 bytes) at the peak of a training step, pairwise, embeddings frozen; None where nothing was counted."""
    try:
        traced = json.loads(file.read_text(encoding="utf-8"))
        found = {
            (row["model"], row["pairs × tokens"], row["attention"]): float(row["peak GB"]) for row in traced["calls"]
        }
        for row in traced.get("memory", []):  # of the best attention for a GPU only
            if row.get("lora_rank"):
                continue
            key = (row["model"], f"{row['micro_batch']} × {row['max_length']}", row.get("attention", OWN[-1]))
            found[key] = float(row["peak GB"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found.get((shape, f"{pairs} × {tokens}", kind))
