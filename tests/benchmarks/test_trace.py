"""What the model would make a GPU do, counted on a device that computes nothing, stays within its limits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.trace import guard
from benchmarks.trace.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
needs_device = pytest.mark.skipif(bool(guard.missing()), reason=guard.missing())
# The stock attention of deberta-v3-base, counted by another instrument; within 1 %, since pooling has changed.
STOCK = {"GB moved, 4 × 512": 62.5, "GB moved, 2 × 1024": 96.9, "GB moved, 8 × 256": 46.1, "kernels, 4 × 512": 1955}


def run(*words, **variables):
    command = [sys.executable, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_without_a_compiler_it_says_so_and_is_skipped(monkeypatch, capsys):
    monkeypatch.setattr(guard.shutil, "which", lambda name: None)
    monkeypatch.setattr(guard.platform, "system", lambda: "Linux")
    assert main([]) == 0
    assert "needs a C++ compiler, so nothing was counted; install g++" in capsys.readouterr().out


def test_the_device_cannot_come_after_torch():
    with pytest.raises(RuntimeError, match="before the trace's device"):
        guard.load()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("check")
    done = run("-m", "benchmarks.trace", "--check=1", f"--out={out}")
    path = out / "check.json"
    assert path.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(path.read_text()) | {"exit code": done.returncode}


@pytest.mark.slow
@needs_device
def test_a_training_step_stays_within_its_limits(found):
    over = {row["name"]: (row["ours"], row["limit"]) for row in found["limits"] if row["ours"] > row["limit"]}
    assert not over
    assert found["exit code"] == 0


@pytest.mark.slow
@needs_device
def test_the_stock_attention_counts_as_known(found):
    counted = {row["name"]: row["stock"] for row in found["limits"]}
    assert {name: counted[name] for name in STOCK} == pytest.approx(STOCK, rel=1e-2)


@pytest.mark.slow
@needs_device
def test_no_variant_mixes_devices(found):
    assert len(found["variants"]) > 20
    assert {name: error for name, error in found["variants"].items() if error} == {}


@pytest.mark.slow
@needs_device
def test_mixed_devices_are_found(found):
    assert len(found["mixed on purpose"]) == 3
    for name, error in found["mixed on purpose"].items():
        assert "at least two devices" in error, name


COUNTED = """
from benchmarks.trace import guard
guard.load()
import json, torch
from benchmarks.trace.tracer import tracing

def count(run):
    tracer.reset()
    before = tracer.live
    try:
        kept = run()
    except Exception as error:
        tracer.copies.append(type(error).__name__)
    work = tracer.total
    return [work.kernels, work.moved, work.operations, len(tracer.copies), tracer.live - before, tracer.peak - before]

with tracing() as tracer:
    half = {"device": "cuda", "dtype": torch.float16}
    a, b, row = torch.ones(4, 8, **half), torch.ones(8, 16, **half), torch.ones(1, 8, **half)
    q = torch.ones(2, 3, 32, 64, **half)
    on_cpu = torch.arange(4.0)
    pinned = torch.arange(4.0).pin_memory()
    print(json.dumps({
        "product": count(lambda: a @ b),
        "view": count(lambda: a.view(-1)[3:].reshape(-1, 1)),
        "expanded": count(lambda: row.expand(1000, 8) * 2),
        "fill": count(lambda: a.fill_(1)),
        "temporary": count(lambda: (a * 2).sum() * 0),
        "attention": count(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)),
        "pageable": count(lambda: on_cpu.to("cuda", non_blocking=True)),
        "pinned": count(lambda: pinned.to("cuda", non_blocking=True)),
        "pinned, waiting": count(lambda: pinned.to("cuda")),
        "part of pinned": count(lambda: pinned[1:].to("cuda", non_blocking=True)),
        "list": count(lambda: torch.tensor([1, 2], device="cuda")),
        "list as index": count(lambda: a[[0, 2]]),
        "read": count(lambda: a.sum().item()),
        "back": count(lambda: a.cpu()),
        "scalar": count(lambda: a * torch.tensor(2.0)),
        "on the CPU": count(lambda: int(torch.arange(5)[3]) == 3 or 1 / 0),
    }))
"""


@pytest.fixture(scope="module")
def counted():
    done = run("-c", COUNTED)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@needs_device
def test_kernels_bytes_and_operations_are_counted(counted):
    assert counted["product"][:3] == [1, 2 * (4 * 8 + 8 * 16 + 4 * 16), 2 * 4 * 8 * 16]
    assert counted["view"] == [0] * 6
    assert counted["expanded"][:2] == [1, 2 * (8 + 1000 * 8)], "a dimension of stride 0 counts once"
    assert counted["fill"][:2] == [1, 2 * 4 * 8], "filling reads nothing"
    assert counted["attention"][2] == 2 * 2 * 2 * 3 * 32 * 32 * 64, "two products"
    assert counted["on the CPU"][:4] == [0, 0, 0, 0], "and its values are real"


@pytest.mark.slow
@needs_device
def test_memory_is_what_is_alive_in_blocks_of_512_bytes(counted):
    assert counted["product"][4:] == [512, 512]
    assert counted["expanded"][4:] == [16384, 16384]
    assert counted["temporary"][4:] == [512, 1024]


@pytest.mark.slow
@needs_device
def test_only_copies_that_the_host_waits_for_are_counted(counted):
    copies = {name: values[3] for name, values in counted.items()}
    waiting = {"pageable": 1, "pinned, waiting": 1, "list": 1, "list as index": 1, "back": 1}
    waiting["read"] = 2  # the copy, and the error: there is no value to read
    assert {name: number for name, number in copies.items() if number} == waiting


def test_the_memory_table_of_the_notebook_is_what_was_counted():
    root = Path(__file__).resolve().parents[2]
    counted = {
        (row["model"], row["lora_rank"], row["max_length"], row["micro_batch"]): row
        for row in json.loads((root / "benchmarks/trace.json").read_text(encoding="utf-8"))["memory"]
    }
    text = (root / "notebooks/finetune_deberta.py").read_text(encoding="utf-8")
    table = re.findall(r"^# \| deberta-v3-(\w+) \|(.*)\|$", text, re.MULTILINE)
    columns = [(0, 512), (0, 1024), (16, 512), (16, 1024)]
    assert [size for size, _ in table] == ["small", "base", "large"]
    for size, cells in table:
        found = re.findall(r"`micro_batch = (\d+)` \(([\d.]+) GB\)", cells)
        for (rank, tokens), (pairs, needed) in zip(columns, found, strict=True):
            row = counted[size, rank, tokens, int(pairs)]
            assert f"{row['needed GB']:.1f}" == needed
            assert row["fits"]
