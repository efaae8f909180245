"""The tables of trace.json and trace.md."""

import itertools
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
import transformers

from benchmarks.limits import SHAPES
from benchmarks.trace import recipes
from benchmarks.trace.card import T4
from benchmarks.trace.limits import measures, pairs_of
from benchmarks.trace.measure import trace_call, trace_memory, trace_predicting
from benchmarks.trace.models import BEST, KINDS, SIZES, v3
from src_py.model.predict import TOKENS

CARD_GB, CONTEXT_GB, FRAGMENTED = 15.0, 1.0, 0.15
MICRO_BATCHES, LORA_RANK = (1, 2, 4, 8, 16), 16
SAID = f"estimated for a {T4.name} that holds {T4.operations / 1e12:.0f} TFLOP/s and {T4.bandwidth / 1e9:.0f} GB/s"


def sections(quick: bool, top: int) -> Iterator[tuple[str, str, list[dict]]]:
    """Title, explanation and rows of every table, as they are counted."""
    yield (
        "calls",
        f"One call of a model, forward and backward pass, fp16 autocast, dropout on, embeddings frozen, no padding. "
        f"Time: {SAID}, ± {T4.uncertainty:.0%}, without the host. Peak: a training step in two such parts. Copies: "
        "between host and card, for which the host waits.",
        calls(("base",) if quick else tuple(SIZES), SHAPES[:1] if quick else SHAPES),
    )
    if quick:
        return
    yield "limits", f"What deberta-v3-base must not exceed with the attention “{BEST}”.", limits()
    yield "operations", f"Where the bytes of 4 × 512 go, deberta-v3-base, “{BEST}”.", operations(top)
    yield "freezing", f"What `freeze_layers` saves, deberta-v3-base, 4 × 512, “{BEST}”.", freezing()
    yield (
        "memory",
        f"Peak memory of a training step, pairwise, “{BEST}”, embeddings frozen. Needed: the peak and, for two GPUs, "
        f"another copy of the gradients, + {FRAGMENTED:.0%} for fragmentation and {CONTEXT_GB:.0f} GB for CUDA and "
        f"NCCL. It fits when that is at most {CARD_GB:.0f} GB. Where a step would not fit otherwise, "
        "the attention computes the scores again in the backward pass: less memory, more time.",
        memory(),
    )
    yield "predicting", f"Peak memory of a batch of predictions, {TOKENS:,} tokens, “{BEST}”.", predicting()
    yield (
        "recipes",
        f"Minutes of the recipes on two {T4.name}s with their default settings: an estimate, not a measurement. "
        f"57,477 rows, deberta-v3-base, {recipes.TEXTS}; {SAID}, {recipes.LAUNCH_SECONDS * 1e6:.0f} µs a kernel for "
        f"the host and {recipes.EXCHANGE / 1e9:.0f} GB/s between the cards, both assumed. Tokenizing, checks, loading "
        "and saving are not in it.",
        hours(),
    )


def calls(sizes: tuple[str, ...], shapes: tuple[tuple[int, int], ...]) -> list[dict]:
    return [
        {
            "model": size,
            "pairs × tokens": f"{pairs} × {tokens}",
            "attention": kind,
            "kernels": call.total.kernels,
            "GB moved": call.total.moved / 1e9,
            "TFLOP": call.total.operations / 1e12,
            "ms": 1e3 * call.total.seconds,
            "peak GB": trace_memory(v3(size), pairs_of(pairs, tokens), kind).peak / 1e9,
            "copies": len(call.copies),
        }
        for size in sizes
        for pairs, tokens in shapes
        for kind in KINDS
        for call in [trace_call(v3(size), pairs_of(pairs, tokens), kind)]
    ]


def limits() -> list[dict]:
    return [asdict(measure) | {"holds": measure.holds} for measure in measures()]


def operations(top: int) -> list[dict]:
    call = trace_call(v3("base"), pairs_of(*SHAPES[0]))
    return [
        {
            "operation": name,
            "kernels": work.kernels,
            "GB moved": work.moved / 1e9,
            "TFLOP": work.operations / 1e12,
            "ms": 1e3 * work.seconds,
        }
        for name, work in list(call.by_operation.items())[:top]
    ]


def freezing() -> list[dict]:
    rows = []
    for frozen in (0, 3, 6, 9):
        call = trace_call(v3("base"), pairs_of(*SHAPES[0]), freeze_layers=frozen)
        peak = trace_memory(v3("base"), pairs_of(*SHAPES[0]), freeze_layers=frozen).peak
        rows.append(
            {
                "freeze_layers": frozen,
                "GB moved, backward": call.backward.moved / 1e9,
                "TFLOP, backward": call.backward.operations / 1e12,
                "ms, both": 1e3 * call.total.seconds,
                "peak GB": peak / 1e9,
            }
        )
    return rows


def memory() -> list[dict]:
    """Peak by model, adapters, tokens and `micro_batch`."""
    rows = []
    for size, rank, tokens, pairs in itertools.product(SIZES, (0, LORA_RANK), (512, 1024), MICRO_BATCHES):
        found = trace_memory(v3(size), pairs_of(pairs, tokens), lora_rank=rank)
        needed = (found.peak + found.gradients) / 1e9 * (1 + FRAGMENTED) + CONTEXT_GB
        rows.append(
            {
                "model": size,
                "lora_rank": rank,
                "max_length": tokens,
                "micro_batch": pairs,
                "peak GB": found.peak / 1e9,
                "needed GB": needed,
                "fits": needed <= CARD_GB,
            }
        )
    return rows


def predicting() -> list[dict]:
    found = []
    for size in SIZES:
        for tokens in (512, 1024):
            _, peak = trace_predicting(v3(size), pairs_of(TOKENS // (2 * tokens), tokens))
            found.append({"model": size, "max_length": tokens, "peak GB": peak / 1e9})
    return found


def hours() -> list[dict]:
    return [
        {
            "recipe": row["recipe"],
            "minutes": row["total"],
            "range": f"{row['from']:.0f} to {row['to']:.0f}",
            "of these": ", ".join(f"{stage} {minutes:.0f}" for stage, minutes in row["minutes"].items()),
        }
        for row in recipes.estimates()
    ]


def setting() -> dict[str, str]:
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def markdown(rows: list[dict]) -> str:
    """A table; a figure has two decimals below 10 and one below 1,000."""
    lines = [f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    lines += [f"| {' | '.join(_cell(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines)


def write(out: Path, quick: bool, top: int) -> None:
    """Count, print as it goes, and write trace.json and trace.md to `out`."""
    told = {"setting": setting()}
    text = ["# `make trace`", "", "Counted on a CUDA device that computes nothing; not measured on a card."]
    text += [", ".join(f"{name} {value}" for name, value in told["setting"].items()) + "."]
    print(*text, sep="\n", flush=True)
    for title, explanation, rows in sections(quick, top):
        told[title] = rows
        text += ["", f"## {title.capitalize()}", "", explanation, "", markdown(rows)]
        print(*text[-6:], sep="\n", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "trace.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (out / "trace.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
