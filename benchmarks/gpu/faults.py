"""What goes wrong in training on a GPU, made to happen: an fp16 overflow, and a batch that the memory does not hold."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import TrainerCallback

from benchmarks.gpu.rows import Row, judged, measured
from benchmarks.gpu.scale import Scale, capped
from src_py.doctor.watch import watch
from src_py.model.attention import default_attention

STEPS, FORCED = 6, 4  # steps of the training with an overflow; the one that overflows
PAIRS, SHORT = 16, 6e9  # pairs of a part that takes more memory than these bytes


def overflow(scale: Scale) -> Iterator[Row]:
    """A gradient that is infinite at one step: the scaler leaves the step out, halves its scale, and the watcher
    sees it."""
    tokens = scale.tokens(256)
    with tempfile.TemporaryDirectory() as folder:
        model = scale.model("base", default_attention(), layers=2, vocabulary=1000)
        rows = scale.dataset(4 * STEPS, tokens)
        trainer = scale.trainer(model, Path(folder), rows, rows.select(range(4)), batch_size=4, warmup=0.0)
        if not scale.cuda:  # accelerate turns fp16 off on a CPU
            trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu")
        noted = _Noted(trainer)
        watcher = watch(trainer, stop=True)
        trainer.add_callback(noted)
        weight = next(model.head.parameters())
        weight.register_hook(lambda gradient: gradient * torch.inf if noted.step == FORCED else gradient)
        trainer.train()
    left_out = [number for number, kept in enumerate(noted.unchanged, 1) if kept]
    seen = [number for number, skipped in enumerate(watcher.skipped, 1) if skipped]
    fell = [number for number, factor in enumerate(noted.factors, 1) if factor < 1]
    yield judged("overflow: the step is left out", f"step {FORCED}", f"steps {left_out}", FORCED in left_out)
    yield judged("overflow: the loss scale falls there", f"steps {left_out}", f"steps {fell}", fell == left_out)
    yield judged("overflow: the watcher sees it", f"steps {left_out}", f"steps {seen}", seen == left_out)
    on = f"{len(noted.unchanged)} steps, {len(watcher.events)} stops"
    yield judged("overflow: training goes on", f"{STEPS} steps, 0 stops", on, on == f"{STEPS} steps, 0 stops")


class _Noted(TrainerCallback):
    """What a step did to the weights and to the loss scale."""

    def __init__(self, trainer):
        self.trainer, self.step, self.unchanged, self.factors = trainer, 0, [], []

    def on_step_begin(self, args, state, control, **_):
        self.step = state.global_step + 1

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.before, self.scale = self._weights(), self.trainer.accelerator.scaler.get_scale()

    def on_step_end(self, args, state, control, **_):
        same = zip(self.before, self._weights())
        self.unchanged.append(all(torch.equal(old, new) for old, new in same))
        self.factors.append(self.trainer.accelerator.scaler.get_scale() / self.scale)

    def _weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.trainer.model.parameters() if p.requires_grad]


def out_of_memory(scale: Scale) -> Iterator[Row]:
    """A part of 16 pairs that does not fit: it is halved until it does, and the training ends as it should."""
    tokens = scale.tokens(512)
    with tempfile.TemporaryDirectory() as folder, capped(scale, SHORT):
        model = scale.model("base", default_attention())
        before = [p.detach().clone() for p in model.head.parameters()]
        rows = scale.dataset(2 * PAIRS, tokens)
        options = {"batch_size": PAIRS, "micro_batch": PAIRS}
        trainer = scale.trainer(model, Path(folder), rows, rows.select(range(4)), **options)
        with _short_of_memory(scale, model):
            result = trainer.train()
        learned = any(not torch.equal(old, new) for old, new in zip(before, model.head.parameters()))
    name = "out of memory"
    told = f"at most {trainer.most} of {PAIRS} pairs in a pass"
    yield judged(f"{name}: parts are halved", f"fewer than {PAIRS} pairs", told, trainer.most < PAIRS)
    steps, loss = trainer.state.global_step, result.training_loss
    found = f"{steps} steps, loss {loss:.3f}, weights {'other' if learned else 'the same'}"
    right = steps == 2 and learned and math.isfinite(loss)
    yield judged(f"{name}: training goes on", "2 steps, a finite loss, weights other", found, right)
    if scale.cuda:
        yield measured(f"{name}: memory kept after the training", f"{torch.cuda.memory_allocated() / 1e9:.2f} GB")


@contextmanager
def _short_of_memory(scale: Scale, model) -> Iterator[None]:
    """On a GPU the cap makes memory short; on a CPU more than two pairs in a pass do."""
    if scale.cuda:
        yield
        return

    def refuse(module, args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("a toy's memory")

    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
