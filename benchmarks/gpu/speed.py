"""Seconds of a part of a step, for every way to compute the attention."""

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress

import torch

from benchmarks.gpu import candidates
from benchmarks.gpu.rows import Row, judged, measured, wished
from benchmarks.gpu.scale import LOSS_SCALE, Scale, step
from benchmarks.limits import MOST_FROZEN_SHARE, MOST_GB, STOCK_GB
from src_py.kaggle.session import free_memory
from src_py.model.attention import default_attention
from src_py.model.attention_choice import OUT_OF_MEMORY, TOO_LARGE, attention_line, fastest, measure_attention

ROUNDS = 3
NEARLY = 1.05  # as fast as the fastest, within what repeats differ by
_MEMORY = (OUT_OF_MEMORY, TOO_LARGE)


def seconds_a_part(scale: Scale) -> Iterator[Row]:
    """Forward and backward pass of v3-base at four lengths, dropout on, and how the best way compares with the stock
    one; a candidate that does not fit the memory is left out of the comparison."""
    usable, _ = candidates.usable(scale.device)
    model = scale.model("base")
    for pairs, tokens in scale.parts:
        part, seconds = scale.part(pairs, tokens), {}
        for kind in usable:
            candidates.switch(model.encoder, kind)
            name = f"a part of {pairs} × {tokens}, {kind}"
            with suppress(torch.OutOfMemoryError):
                seconds[kind] = _median(scale, model, part)
            if kind not in seconds:
                model.zero_grad(set_to_none=True)
                free_memory()
                yield measured(name, "does not fit the memory")
                continue
            compared = f"{seconds[kind] / seconds['stock']:.2f} of stock" if "stock" in seconds else ""
            yield measured(name, f"{1000 * seconds[kind]:.1f} ms", compared)
        if (pairs, tokens) in MOST_GB and "stock" in seconds:
            yield best(
                f"time against stock, {pairs} × {tokens}", seconds, MOST_GB[pairs, tokens] / STOCK_GB[pairs, tokens]
            )


def best(name: str, seconds: dict[str, float], most: float) -> Row:
    """The fastest way, against what the counted traffic promises."""
    kind = min(seconds, key=seconds.__getitem__)
    share = seconds[kind] / seconds["stock"]
    return wished(name, f"at most {most:.2f} (counted traffic)", f"{share:.2f} ({kind})", share <= most)


def automatic_choice(scale: Scale) -> Iterator[Row]:
    """What attention="auto" chooses from two layers, against what is the fastest in a whole part."""
    usable, _ = candidates.usable(scale.device)
    pairs, tokens = scale.parts[1]
    found = measure_attention(scale.config("base"), 2 * pairs, tokens, "fp16", scale.device, True, tuple(usable))
    yield judge_candidates({one.kind: one.problem for one in found})
    chosen, model, part, seconds = fastest(found).kind, scale.model("base"), scale.part(pairs, tokens), {}
    for kind in (one.kind for one in found if not one.problem):
        candidates.switch(model.encoder, kind)
        seconds[kind] = _median(scale, model, part)
    least = min(seconds, key=seconds.__getitem__)
    reached = seconds[chosen] <= NEARLY * seconds[least]
    yield wished("attention auto: the fastest", least, chosen, reached, attention_line(found, "fp16"))


def judge_candidates(problems: dict[str, str]) -> Row:
    """A kind may be left out for its memory, and for nothing else."""
    wrong = [f"{kind}: {why}" for kind, why in problems.items() if why and not why.startswith(_MEMORY)]
    return judged("attention auto: kinds left out as wrong", "none", "; ".join(wrong) or "none", not wrong)


def frozen_layers(scale: Scale) -> Iterator[Row]:
    """Backward pass with half of the layers frozen against none, as `ModelSettings.freeze_layers` does it."""
    kind = default_attention()
    depth = scale.config("base").num_hidden_layers
    pairs, tokens = scale.parts[1]
    part, seconds = scale.part(pairs, tokens), {}
    for frozen in (0, depth // 2):
        model = scale.built("base", kind, frozen)
        seconds[frozen] = statistics.median(_backward(scale, model, part) for _ in range(ROUNDS + 1))
        del model
        free_memory()
    share = seconds[depth // 2] / seconds[0]
    name = f"backward pass, {depth // 2} of {depth} layers frozen against none, {kind}"
    yield wished(name, f"at most {MOST_FROZEN_SHARE}", f"{share:.2f}", share <= MOST_FROZEN_SHARE)


def _median(scale: Scale, model, part: dict) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        scale.wait()
        begun = time.perf_counter()
        step(scale, model, part)
        scale.wait()
        times.append(time.perf_counter() - begun)
    model.zero_grad(set_to_none=True)
    return statistics.median(times[1:])


def _backward(scale: Scale, model, part: dict) -> float:
    with scale.autocast():
        loss = model(**part)["loss"] * LOSS_SCALE
    scale.wait()
    begun = time.perf_counter()
    loss.backward()
    scale.wait()
    return time.perf_counter() - begun
