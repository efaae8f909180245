"""Learning curves that were measured. The files of benchmarks/curves hold them:

    {"source": "where they come from", "curves": [
      {"data": "...", "learner": "...", "constant": 0.6934, "rows": [200, 500], "losses": [[0.6917, 0.6902], [0.6785]]}
    ]}

(in one line a curve). `minutes`, alike, is what each training took; the order of trials is measured with them.
`python -m benchmarks.curves_record` makes such a file from a run of the ablation.

`losses` has a list a size: the log losses of its seeds on validation rows that all share; `constant` is that of the
constant predictor. What was measured at the largest size is what the other sizes have to foretell.
"""

import json
from pathlib import Path

import numpy as np

from benchmarks.curves_simulated import Recorded

FOLDER = Path(__file__).resolve().parent / "curves"
LEAST_SIZES = 4  # three are left


def read_recorded(folder: Path = FOLDER, some: bool = False) -> list[Recorded]:
    """All curves with enough sizes, those of a file named "real, FILE".

    Args:
        some: every twentieth of each file.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
        usable = [curve for curve in curves if len(curve["rows"]) >= LEAST_SIZES]
        found += [_held_out(curve, f"real, {path.stem}") for curve in (usable[::20] if some else usable)]
    return found


def _held_out(curve: dict, shape: str) -> Recorded:
    *sizes, target = curve["rows"]
    *below, measured = (np.array(losses, float) for losses in curve["losses"])
    return Recorded(
        shape=shape,
        rows=np.repeat(sizes, [len(losses) for losses in below]),
        losses=np.concatenate(below),
        constant=curve["constant"],
        largest=sizes[-1],
        before=np.nan,
        target=target,
        truth=np.nan,
        measured=measured,
    )
