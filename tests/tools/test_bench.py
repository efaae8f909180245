"""`make bench` keeps its figures, wherever they go."""

import json

from benchmarks import bench


def test_a_new_folder_holds_the_figures_after_every_measurement(tmp_path, contest, tiny, monkeypatch, capsys):
    out = tmp_path / "new/folder"
    row = {"measure": "m", "alternative": "a", "here": "h", "ratio": 2.0}

    def measure(quick, table, model, scratch):
        yield [row]
        assert len(json.loads((out / "bench.json").read_text())["rows"]) == 1, "written before the next one begins"
        yield [row, row]

    monkeypatch.setattr(bench, "measure", measure)
    bench.main(["--quick=1", f"--data={contest}", f"--model={tiny}", f"--out={out}"])
    assert json.loads((out / "bench.json").read_text())["rows"] == [row] * 3
    assert (out / "bench.md").read_text() in capsys.readouterr().out
