"""What `make trace` counted, to hold against what a card needs. The only place that knows the format of trace.json."""

import json
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "trace.json"


def counted_peak(shape: str, pairs: int, tokens: int, kind: str, file: Path = FILE) -> float | None:
    """GB (1e9 bytes) at the peak of a training step, pairwise, embeddings frozen; None where nothing was counted."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["memory"]
        for row in rows:
            if (row["shape"], row["pairs"], row["tokens"], row["attention"]) == (shape, pairs, tokens, kind):
                return float(row["peak_gb"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None
