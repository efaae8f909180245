"""What happens inside an encoder call: copies that make the host wait, and the kernels that take the time."""

import warnings
from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import candidates
from benchmarks.gpu.rows import NEEDS_A_GPU, Row, judged, measured, skipped, wished
from benchmarks.gpu.scale import LOSS_SCALE, Scale, step
from benchmarks.limits import MOST_COPIES, MOST_KERNELS

TOP = 10
_WAITS = "synchronizing CUDA operation"  # torch.cuda.set_sync_debug_mode's own words


def blocking_copies(scale: Scale) -> Iterator[Row]:
    """How often the host has to wait for the GPU in one encoder call, and in one part of a step."""
    usable, _ = candidates.usable(scale.device)
    model, part = scale.model("base"), scale.part(*scale.parts[1])
    for kind in usable:
        candidates.switch(model.encoder, kind)
        works = {
            "an encoder call": lambda: encoder_call(scale, model.encoder, part),
            "a part": lambda: step(scale, model, part),
        }
        for what, work in works.items():
            name = f"blocking copies in {what}, {kind}"
            work()
            found = waits(work)
            if not scale.cuda:
                yield skipped(name, f"{NEEDS_A_GPU} (the call itself runs)")
            elif kind in candidates.OWN:
                yield judged(name, str(MOST_COPIES), str(found), found <= MOST_COPIES)
            else:
                yield measured(name, str(found))


def waits(work: Callable[[], object]) -> int:
    """Synchronizing operations that torch reports while `work` runs; 0 on a CPU."""
    if not torch.cuda.is_available():
        work()
        return 0
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(_WAITS in str(warning.message) for warning in heard)


def kernels(scale: Scale) -> Iterator[Row]:
    """Number of kernels of an encoder call, and the ten that take most of its time, for the fastest way."""
    usable, _ = candidates.usable(scale.device)
    model, part = scale.model("base"), scale.part(*scale.parts[1])
    totals, events = {}, {}
    for kind in usable:
        candidates.switch(model.encoder, kind)
        encoder_call(scale, model.encoder, part)
        events[kind] = _profiled(scale, lambda: encoder_call(scale, model.encoder, part))
        totals[kind] = sum(seconds for _, seconds, _ in events[kind])
        name = f"kernels of an encoder call, {kind}"
        count = sum(calls for _, _, calls in events[kind])
        if not count:
            yield skipped(name, "the profiler saw no kernels")
        elif scale.cuda and kind in candidates.OWN:
            yield wished(name, f"at most {MOST_KERNELS:,}", f"{count:,}", count <= MOST_KERNELS, _busy(totals[kind]))
        else:
            yield measured(name, f"{count:,}", _busy(totals[kind]) if scale.cuda else "operations of a CPU")
    kind = min((kind for kind in usable if totals[kind]), key=totals.__getitem__, default=None)
    for place, (name, seconds, calls) in enumerate(events[kind][:TOP] if kind else [], 1):
        told = f"{1000 * seconds:.2f} ms, {seconds / totals[kind]:.0%}"
        yield measured(f"kernel {place} of an encoder call, {kind}", told, f"{calls} × {name[:80]}")


def encoder_call(scale: Scale, encoder, part: dict) -> None:
    """Forward and backward pass of the encoder alone."""
    ids, mask = (part[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))
    with scale.autocast():
        hidden = encoder(input_ids=ids, attention_mask=mask)[0]
    (hidden.float().mean() * LOSS_SCALE).backward()


def _busy(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms of kernels"


def _profiled(scale: Scale, work: Callable[[], object]) -> list[tuple[str, float, int]]:
    """(name, seconds, calls) of every kernel, or on a CPU of every operation; the dearest first."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if scale.cuda else [])
    with profile(activities=activities) as seen:
        work()
        scale.wait()
    found = []
    for event in seen.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if (
            on_gpu != scale.cuda
            or event.is_user_annotation
            or event.key.startswith(("Memcpy", "Memset", "ProfilerStep"))
        ):
            continue
        microseconds = event.self_device_time_total if scale.cuda else event.self_cpu_time_total
        found.append((event.key, microseconds / 1e6, event.count))
    return sorted(found, key=lambda row: -row[1])
