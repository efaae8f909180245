"""`python -m benchmarks.adaptive_bench`: what it counts, and that it runs."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import adaptive_bench
from benchmarks.adaptive_grids import ARMS, recorded, simulated
from src_py.ablation.adaptive import Question
from src_py.ablation.schedule import list_trials


def test_a_verdict_counts_from_when_it_stays():
    trace = pd.DataFrame(
        {"minutes": [0.0, 1, 2, 3, 4], "twice": ["cannot tell", "better", "nothing", "better", "better"]}
    )
    assert adaptive_bench.reached(trace, "twice") == ("better", 3.0)
    assert adaptive_bench.reached(trace.assign(twice="better"), "twice") == ("better", 0.0)


def test_grids_without_a_verdict_are_counted_but_have_no_ratio():
    rows = [("a", "twice", "better", 10.0, 5.0), ("a", "twice", "cannot tell", 9.0, 9.0)]
    table = adaptive_bench.summarize(pd.DataFrame(rows, columns=["grids", "verdict", "final", "fixed", "adaptive"]))
    assert table[["number", "with a verdict", "ratio"]].iloc[0].tolist() == [2, 1, 0.5]


def test_both_orders_end_with_the_same_trials_and_verdicts():
    grid = next(simulated(default=False, seeds=1))
    traces = [adaptive_bench.run(grid, question) for question in (None, Question(ARMS, grid.sizes, grid.constant))]
    assert traces[0]["minutes"].iloc[-1] == pytest.approx(traces[1]["minutes"].iloc[-1])
    assert traces[0].iloc[-1, 1:].tolist() == traces[1].iloc[-1, 1:].tolist()
    assert len(traces[0]) == len(grid.trials) + 1


def test_recorded_grids_have_both_arms_and_the_sizes_of_the_last():
    grids = list(recorded())
    assert len(grids) > 100
    for grid in grids:
        assert set(grid.trials) == set(grid.losses) <= set(list_trials(ARMS, (), grid.sizes, 5, False))
        assert {trial.arm for trial in grid.trials} == set(ARMS)
        assert np.isfinite(list(grid.losses.values())).all()


@pytest.mark.slow
def test_a_quick_run_writes_its_table(tmp_path):
    adaptive_bench.main(["--quick=1", f"--out={tmp_path}"])
    rows = json.loads((tmp_path / "adaptive.json").read_text())["rows"]
    assert {row["verdict"] for row in rows} == {"twice", "code", "both"}
    assert "recorded, lcdb" in (tmp_path / "adaptive.md").read_text()
