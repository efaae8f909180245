"""Record the learning curves that a run of `ablate_subset_vs_full` measured, so that nobody has to repeat it.

    python -m benchmarks.curves_record --run build/judge --data judge-preference --encoder MiniLM-L6 \
        --source "benchmarks/README.md: ..." --out benchmarks/curves/judge_preference.json

Reads the run's ablation.csv. Trials that diverged and those of the control arm are left out.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from tools.arguments import checked, existing_folder


def curves_of(results: pd.DataFrame, data: str, encoder: str) -> list[dict]:
    """The arms of a run as `curves_recorded` has them, in their order.

    Args:
        results: ablation.csv.
    """
    runs = results[(results["as_rows"] == 0) & results["log_loss"].notna()]
    curves = []
    for arm in dict.fromkeys(runs["arm"]):
        sizes = [part.sort_values("seed") for _, part in runs[runs["arm"] == arm].groupby("rows")]
        curves.append(
            {
                "data": data,
                "learner": f"{arm}, {encoder}",
                "constant": round(float((runs["log_loss"] + runs["gain"]).iloc[0]), 4),
                "rows": [int(part["rows"].iloc[0]) for part in sizes],
                "losses": [part["log_loss"].round(4).tolist() for part in sizes],
                "minutes": [part["minutes"].round(2).tolist() for part in sizes],
            }
        )
    return curves


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.curves_record", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=checked(existing_folder), required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("data", "encoder", "source"):
        parser.add_argument(f"--{name}", required=True)
    chosen = parser.parse_args(words)
    found = curves_of(pd.read_csv(chosen.run / "ablation.csv"), chosen.data, chosen.encoder)
    lines = ",\n".join(f"  {json.dumps(curve)}" for curve in found)
    text = f'{{"source": {json.dumps(chosen.source)},\n "curves": [\n{lines}\n]}}\n'
    chosen.out.write_text(text, encoding="utf-8")
    print(f"{len(found)} curves in {chosen.out}")


if __name__ == "__main__":
    main()
