"""`make curves-bench`: what it counts, and that it runs."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import adaptive_grids, curves_bench, curves_record
from benchmarks.curves_recorded import read_recorded
from benchmarks.curves_rivals import WAYS, last_value, plain_fit, power_law_before
from benchmarks.curves_simulated import EXPONENTIALS, TRUTHS, UNSEEN, simulate


def test_at_equal_coverage_an_interval_that_never_holds_counts_as_wide():
    """Here half as wide as before; before it would have to be three times as wide to hold."""
    columns = {"way": [], "level width": [], "level stretch": []}
    for way, width, stretch in (("here", 1.0, 1.0), ("power law, before", 2.0, 3.0), ("last value", np.nan, np.nan)):
        for _ in range(10):
            for name, value in zip(columns, (way, width, stretch)):
                columns[name].append(value)
    part = pd.DataFrame(columns)
    assert curves_bench.width_ratio(part, "power law, before", "level") == pytest.approx(1 / 6)
    assert np.isnan(curves_bench.width_ratio(part, "last value", "level"))
    assert np.isnan(curves_bench.width_ratio(part, "here", "level"))


@pytest.mark.parametrize("shape", [*TRUTHS, *EXPONENTIALS, *UNSEEN])
def test_a_simulated_curve_is_what_its_truth_says(shape):
    """Noise has no mean: over many curves the losses at the largest size lie about the truth there."""
    curves = [simulate(shape, seed) for seed in range(200)]
    off = [(one.losses[one.rows == one.largest] - one.before).mean() for one in curves]
    assert abs(np.mean(off)) < 0.003
    assert all(one.target == 2 * one.largest and 4 <= len(np.unique(one.rows)) <= 8 for one in curves)
    assert simulate(shape, 3).losses.tolist() == curves[3].losses.tolist()


def test_a_recorded_curve_keeps_its_largest_size_back(tmp_path):
    made = {"data": "d", "learner": "l", "constant": 0.7, "rows": [10, 20, 40, 80]}
    losses = [[0.7], [0.6, 0.5], [0.4], [0.3, 0.2]]
    short = made | {"rows": [10, 20, 40], "losses": losses[:3]}
    text = json.dumps({"source": "here", "curves": [made | {"losses": losses}, short]})
    (tmp_path / "mine.json").write_text(text)
    (found,) = read_recorded(tmp_path)
    assert found.shape == "real, mine"
    assert found.rows.tolist() == [10, 20, 20, 40]
    assert (found.largest, found.target) == (40, 80)
    assert found.measured.tolist() == [0.3, 0.2]


def test_the_recorded_curves_can_be_read():
    found = read_recorded()
    assert len(found) > 200
    assert all(np.isfinite(one.losses).all() and len(one.losses) == len(one.rows) for one in found)


def test_rivals_answer_a_power_law_and_say_so_where_they_cannot():
    rows = np.repeat([100, 200, 400, 800, 1600], 2)
    losses = 0.8 + 0.3 * (rows / 100) ** -0.5 + np.tile([0.001, -0.001], 5)
    truth = 0.8 + 0.3 * 32**-0.5
    for way in (power_law_before, plain_fit):
        found = way(rows, losses, 1.2, 3200)
        assert found.level.low < truth < found.level.high
        assert found.tells
        two_sizes = way(rows[:4], losses[:4], 1.2, 400)
        assert two_sizes is None or not two_sizes.tells
    held = last_value(rows, losses, 1.2, 3200)
    assert held.level.best == pytest.approx(losses[-2:].mean())
    assert not held.tells


def test_the_table_has_a_row_a_shape_and_way(tmp_path):
    each = pd.DataFrame(row for shape in TRUTHS[:2] for row in curves_bench.measure(simulate(shape, 0)))
    curves_bench.write(each, tmp_path)
    rows = json.loads((tmp_path / "curves.json").read_text())["rows"]
    assert {(row["shape"], row["way"]) for row in rows} == {
        (shape, way) for shape in (*TRUTHS[:2], "the five") for way in WAYS
    }
    assert "| power | here | 1 |" in (tmp_path / "curves.md").read_text()


@pytest.mark.slow
def test_a_quick_run_writes_its_table(tmp_path):
    curves_bench.main(["--quick=1", f"--out={tmp_path}"])
    rows = json.loads((tmp_path / "curves.json").read_text())["rows"]
    covered = {row["shape"]: row["coverage"] for row in rows if row["way"] == "here"}
    assert covered["the five"] > 0.7
    assert {"real, lcdb", "real, judge_preference"} <= set(covered)


def test_a_run_of_the_ablation_is_recorded_and_read_again(tmp_path):
    rows = [
        {
            "arm": arm,
            "rows": size,
            "as_rows": 0,
            "seed": seed,
            "log_loss": 0.7 - size / 1e4 + seed / 100,
            "minutes": 1.5,
        }
        for arm in ("posted", "recipe")
        for size in (100, 200, 400, 800)
        for seed in (1, 0)
    ]
    rows += [rows[0] | {"as_rows": 800}, rows[1] | {"seed": 2, "log_loss": float("nan")}]
    table = pd.DataFrame(rows).assign(gain=lambda t: 0.7 - t["log_loss"])
    table.to_csv(tmp_path / "ablation.csv")
    words = ["--run", str(tmp_path), "--out", str(tmp_path / "pairs.json")]
    curves_record.main([*words, "--data", "pairs", "--encoder", "tiny", "--source", "a test"])
    posted, recipe = read_recorded(tmp_path)
    assert (recipe.shape, recipe.target, recipe.constant) == ("real, pairs", 800, 0.7)
    assert recipe.measured.tolist() == [0.62, 0.63]
    assert posted.rows.tolist() == [100, 100, 200, 200, 400, 400]
    grid = next(adaptive_grids.recorded(tmp_path))
    assert set(grid.minutes.values()) == {1.5}
    assert len(grid.trials) == len(grid.minutes) == 16
