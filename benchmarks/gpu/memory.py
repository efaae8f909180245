"""Peak memory of a training step against the counted figure."""

from collections.abc import Iterator

import torch

from benchmarks.gpu import candidates
from benchmarks.gpu.counted import counted_peak
from benchmarks.gpu.rows import NEEDS_A_GPU, Row, judged, measured, skipped, wished
from benchmarks.gpu.scale import CAP, Scale, capped, step
from benchmarks.limits import MOST_MEMORY_GB

CASES = (("base", 4, 512), ("base", 8, 512), ("large", 1, 512))
TOLERANCE = 0.1


def peak_memory(scale: Scale) -> Iterator[Row]:
    """Weights, gradients, Adam's moments and activations of two parts, under a cap of 15 GB."""
    usable, _ = candidates.usable(scale.device)
    peaks = {}
    for shape, pairs, tokens in CASES:
        for kind in usable:
            name = f"peak memory, {shape}, {pairs} × {tokens}, {kind}"
            with capped(scale):
                try:
                    found = peak_of_a_step(scale, shape, kind, pairs, scale.tokens(tokens))
                except torch.OutOfMemoryError:
                    found = float("inf")
            if not scale.cuda:
                yield skipped(name, f"{NEEDS_A_GPU} (the step itself runs)")
                continue
            peaks[shape, pairs, kind] = found
            yield judge(name, found, counted_peak(shape, pairs, tokens, kind), scale.cap / 1e9)
    own = [peaks["base", 4, kind] for kind in candidates.OWN if ("base", 4, kind) in peaks]
    if own:
        found = min(own)
        name = "peak memory, base, 4 × 512, the least of ours"
        yield wished(name, f"at most {MOST_MEMORY_GB} GB", f"{found:.2f} GB", found <= MOST_MEMORY_GB)


def judge(name: str, found: float, counted: float | None, cap: float = CAP / 1e9) -> Row:
    """What a step needed (GB; inf: more than the cap) against what was counted."""
    told = "more than the cap" if found == float("inf") else f"{found:.2f} GB"
    if counted is None:
        return measured(name, told, "no counted figure")
    expected = f"{counted:.2f} GB ± {TOLERANCE:.0%}"
    if found == float("inf"):
        return judged(name, expected, told, counted * (1 + TOLERANCE) > cap, f"cap {cap:.0f} GB")
    right = abs(found / counted - 1) <= TOLERANCE
    return judged(name, expected, told, right, "" if right else f"{found / counted - 1:+.0%}")


def peak_of_a_step(scale: Scale, shape: str, kind: str, pairs: int, tokens: int) -> float:
    """GB above what was held before; 0 on a CPU."""
    before = torch.cuda.memory_allocated() if scale.cuda else 0
    model, part = scale.model(shape, kind), scale.part(pairs, tokens)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    step(scale, model, part)  # makes the gradients, and the optimizer its moments
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if scale.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):  # the second part meets the gradients of the first
        step(scale, model, part)
    return (torch.cuda.max_memory_allocated() - before) / 1e9 if scale.cuda else 0.0
