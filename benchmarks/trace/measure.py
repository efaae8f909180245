"""Traces of the project's model: one encoder call, and a training step with its memory."""

from dataclasses import dataclass

import torch

from benchmarks.trace.models import BEST, make_batch, make_model
from benchmarks.trace.tracer import Work, tracing

LOSS_SCALE = 2.0**16  # a GradScaler's first


@dataclass
class Call:
    """Forward and backward pass of a model over one batch.

    Attributes:
        copies: between host and device, for which the host waits.
        by_operation: what each operation takes part in `forward` and `backward`, the most bytes first.
    """

    forward: Work
    backward: Work
    copies: list[str]
    by_operation: dict[str, Work]

    @property
    def total(self) -> Work:
        return self.forward + self.backward


def trace_call(config, lengths: list[list[int]], attention: str = BEST, train: bool = True, **settings) -> Call:
    """Trace one call of a fresh model under fp16 autocast; without `train` there is no backward pass.

    Args:
        lengths: as in `make_batch`.
        settings: as in `make_model`.
    """
    with tracing() as tracer:
        model = make_model(config, attention, **settings).train(train)
        batch = make_batch(lengths)
        tracer.reset()
        loss = _forward(model, batch, train)
        forward, parts, copies = tracer.total, [tracer.work], tracer.copies
        tracer.reset()
        if train:
            (loss * LOSS_SCALE).backward()
        backward, parts, copies = tracer.total, [*parts, tracer.work], copies + tracer.copies
    found = {name: sum((part[name] for part in parts if name in part), Work()) for part in parts for name in part}
    return Call(forward, backward, copies, dict(sorted(found.items(), key=lambda item: -item[1].moved)))


@dataclass
class Memory:
    """Bytes of a training run on the card: `fixed` for weights and Adam's state, `peak` in all."""

    fixed: int
    gradients: int
    peak: int


def trace_memory(config, lengths: list[list[int]], attention: str = BEST, **settings) -> Memory:
    """Peak memory of a run of steps, each of two equal parts, so that the second meets the gradients of the first.

    The weights are fp32, and AdamW keeps two more numbers for each that is trained. The update itself happens in place.
    """
    with tracing() as tracer:
        model = make_model(config, attention, **settings)
        trained = [p for p in model.parameters() if p.requires_grad]
        state = [torch.zeros_like(p) for p in trained for _ in range(2)]
        fixed = tracer.live
        batch = make_batch(lengths)
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            tracer.reset()
            for _ in range(2):
                (_forward(model, batch, True) * LOSS_SCALE).backward()
        gradients = sum(p.grad.numel() * p.grad.element_size() for p in trained if p.grad is not None)
        del state
        return Memory(fixed, gradients, tracer.peak)


def trace_predicting(config, lengths: list[list[int]], attention: str = BEST, **settings) -> tuple[Work, int]:
    """Work and peak bytes of one forward pass without gradients."""
    with tracing() as tracer:
        model = make_model(config, attention, **settings).eval()
        batch = make_batch(lengths)
        tracer.reset()
        _forward(model, batch, False)
        return tracer.total, tracer.peak


def trace_update(config, attention: str = BEST, **settings) -> Work:
    """Work of one optimizer step: unscaling and clipping the gradients, and fused AdamW."""
    with tracing() as tracer:
        model = make_model(config, attention, **settings)
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer = torch.optim.AdamW(trained, fused=True)
        optimizer.step()
        tracer.reset()
        scale, overflow = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
        torch._amp_foreach_non_finite_check_and_unscale_([p.grad for p in trained], overflow, scale)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return tracer.total


def _forward(model, batch: dict, train: bool) -> torch.Tensor | None:
    with torch.set_grad_enabled(train), torch.autocast("cuda", torch.float16):
        return model(**batch)["loss"]
