"""`make gpu` finds what is wrong, goes on after it, and all of it runs on a CPU at toy size."""

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import candidates, equal, faults, memory, project, speed, two
from benchmarks.gpu.checks import CHECKS, Check
from benchmarks.gpu.counted import counted_peak
from benchmarks.gpu.rows import MEASURED, OK, SKIPPED, SLOW, WRONG, Row, judged, measured, skipped
from benchmarks.gpu.runner import run_checks
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.write import line
from src_py.doctor.findings import FAIL, PASS, SKIP, Finding
from src_py.model.attention_choice import TOO_LARGE

ROOT = Path(__file__).resolve().parents[2]
TOY = Scale.here(True)


def bent(switch, factor):
    """`switch` that also multiplies what the attention of every kind but the stock one gives."""

    def both(encoder, kind):
        switch(encoder, kind)
        for layer in encoder.encoder.layer:
            attention = layer.attention.self
            attention._forward_hooks.clear()
            if kind != candidates.STOCK:
                attention.register_forward_hook(lambda module, args, out: (out[0] * factor, *out[1:]))

    return both


@pytest.mark.parametrize(("factor", "expected"), [(1.0, OK), (1.01, WRONG), (math.nan, WRONG)])
def test_an_attention_that_is_wrong_by_one_per_cent_is_found(factor, expected, monkeypatch):
    monkeypatch.setattr(equal, "LENGTHS", (333,))
    monkeypatch.setattr(candidates, "usable", lambda device: (["stock", "chunked"], {"flash": "not installed"}))
    monkeypatch.setattr(candidates, "switch", bent(candidates.switch, factor))
    rows = list(equal.equal(TOY))
    assert rows[0] == skipped("attention flash equals stock", "not installed")
    assert [row.ok for row in rows[1:]] == [expected] * 2


@pytest.mark.parametrize(
    ("found", "counted", "expected"),
    [
        (4.8, 4.8, OK),
        (4.4, 4.8, OK),
        (5.76, 4.8, WRONG),
        (3.84, 4.8, WRONG),
        (4.8, None, MEASURED),
        (math.inf, 4.8, WRONG),
        (math.inf, 16.0, OK),
    ],
)
def test_memory_that_is_off_by_a_fifth_is_found(found, counted, expected):
    assert memory.judge("peak", found, counted).ok == expected


def test_the_counted_figures_are_those_of_the_trace(tmp_path):
    file = tmp_path / "trace.json"
    assert counted_peak("base", 4, 512, "stock", file) is None
    calls = [{"model": "base", "pairs × tokens": "4 × 512", "attention": "stock", "peak GB": 7.5}]
    memories = [{"model": "large", "max_length": 512, "micro_batch": 1, "peak GB": 7.9}]
    file.write_text(json.dumps({"calls": calls, "memory": memories}))
    assert counted_peak("base", 4, 512, "stock", file) == 7.5
    assert counted_peak("large", 1, 512, "sdpa", file) == 7.9
    assert counted_peak("large", 1, 512, "stock", file) is None
    file.write_text(json.dumps({"calls": "another format"}))
    assert counted_peak("base", 4, 512, "stock", file) is None


def test_what_is_slow_is_not_wrong():
    assert speed.best("time", {"stock": 2.0, "sdpa": 1.0}, 0.6).ok == OK
    assert speed.best("time", {"stock": 2.0, "sdpa": 1.5}, 0.6).ok == SLOW


@pytest.mark.parametrize(("found", "expected"), [(10.0, OK), (12.4, OK), (13.0, WRONG), (7.0, WRONG)])
def test_a_forecast_that_is_off_by_more_than_a_quarter_is_wrong(found, expected):
    assert project.judge_forecast("forecast", 10.0, found, Scale(False, "cuda", 1)).ok == expected
    assert project.judge_forecast("forecast", 10.0, found, TOY).ok == MEASURED, "a toy's seconds say nothing"


def test_a_kind_that_auto_leaves_out_as_wrong_is_wrong():
    assert speed.judge_candidates({"stock": "", "sdpa": f"{TOO_LARGE} 14.0 GB"}).ok == OK
    assert speed.judge_candidates({"stock": "", "sdpa": "it differs from stock by 2e-01"}).ok == WRONG
    assert speed.judge_candidates({"stock": "", "sdpa": "RuntimeError: no kernel"}).ok == WRONG


def test_two_processes_that_differ_are_wrong():
    assert two.judge("loss", 1.07, 1.0701, 1e-3).ok == OK
    assert two.judge("loss", 1.07, 1.08, 1e-3).ok == WRONG
    assert two.judge("loss", 1.07, math.nan, 1e-3).ok == WRONG


def test_a_doctor_that_fails_a_healthy_setup_or_lacks_memory_is_wrong():
    healthy = [Finding("labels", PASS, "shares"), Finding("memory", PASS, "9 GB")]
    assert [row.ok for row in project.judge("base", healthy)] == [OK, OK]
    assert [row.ok for row in project.judge("base", [Finding("labels", FAIL, "shares")])] == [WRONG, OK]
    short = Finding("gradients", SKIP, "not enough memory to check")
    assert [row.ok for row in project.judge("base", [short])] == [OK, WRONG]


@pytest.mark.slow
def test_a_scaler_that_does_not_see_the_overflow_is_found(monkeypatch):
    assert [row.ok for row in faults.overflow(TOY)] == [OK] * 4
    look = torch.amp.GradScaler._check_inf_per_device

    def blind(self, optimizer):
        return {device: found.zero_() for device, found in look(self, optimizer).items()}

    monkeypatch.setattr(torch.amp.GradScaler, "_check_inf_per_device", blind)
    assert next(faults.overflow(TOY)).ok == WRONG


def raises(scale):
    yield judged("first", "1", "1", True)
    raise ValueError("a fault\nof two lines")


def dies(scale):
    yield measured("before", "1")
    os._exit(7)


def hangs(scale):
    yield measured("so far", "1")
    threading.Event().wait()


@pytest.mark.slow
def test_the_runner_goes_on_after_a_check_that_hangs_dies_or_fails(tmp_path):
    checks = (Check("hangs", hangs, 2), Check("dies", dies, 60), Check("raises", raises, 60))
    rows = list(run_checks(checks, TOY, tmp_path / "log"))
    assert [(row.check, row.ok) for row in rows] == [
        ("so far", MEASURED),
        ("hangs", WRONG),
        ("before", MEASURED),
        ("dies", WRONG),
        ("first", OK),
        ("raises", WRONG),
    ]
    assert rows[1].found == "still running"
    assert "exit code 7" in rows[3].found
    assert rows[5].found == "ValueError: a fault"


def test_checks_that_the_time_does_not_reach_are_named(tmp_path):
    rows = list(run_checks(CHECKS, TOY, tmp_path / "log", seconds=0))
    assert [row.check for row in rows] == [check.name for check in CHECKS]
    assert {row.ok for row in rows} == {SKIPPED}


@pytest.mark.parametrize(("ok", "code"), [(WRONG, 1), (SLOW, 0), (SKIPPED, 0)])
def test_the_figures_are_kept_and_only_what_is_wrong_ends_with_an_error(ok, code, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new/folder"
    row = Row("a | b", "1", "2", ok, "why")

    def found(checks, scale, log):
        yield measured("card", "x")
        assert len(json.loads((out / "gpu.json").read_text())["rows"]) == 1, "written before the next one begins"
        yield row

    monkeypatch.setattr(command, "run_checks", found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert command.main(["--toy=1", f"--out={out}"]) == code
    kept = json.loads((out / "gpu.json").read_text())
    assert kept["rows"][1] == {"check": "a | b", "expected": "1", "found": "2", "ok": ok, "note": "why"}
    assert {"date", "card", "driver", "torch", "transformers"} <= kept["setting"].keys()
    assert r"| a \| b | 1 | 2 |" in (out / "gpu.md").read_text()
    assert line(row) in capsys.readouterr().out


def test_a_toy_never_writes_where_the_figures_of_a_card_stand(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit, match="says nothing about a GPU"):
        command.main(["--toy=1", f"--out={ROOT / 'benchmarks'}"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_one_sentence_says_so(tmp_path):
    with pytest.raises(SystemExit, match="needs an NVIDIA card"):
        command.main([f"--out={tmp_path}"])


@pytest.mark.slow
def test_everything_runs_at_toy_size(tmp_path):
    words = ["make", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready", "gpu", "TOY=1", f"OUT={tmp_path}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) > 2 * len(CHECKS)
    assert {row["ok"] for row in rows} <= {OK, SLOW, MEASURED, SKIPPED}
    for said in ("overflow: the watcher sees it", "two against one: loss", "two processes over loopback (gloo)"):
        assert [row["ok"] for row in rows if row["check"] == said] == [OK]
    left_out = {row["check"] for row in rows if row["ok"] == SKIPPED}
    assert {"torch has kernels for the card", "two against one: time"} <= left_out
    assert (tmp_path / "gpu.md").read_text().count("\n|") == 2 + len(rows)
