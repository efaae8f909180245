"""Which attention is the fastest here: measured on the card at hand, at the run's own shapes."""

import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModel

from src_py.errors import InputError
from src_py.kaggle.session import all_devices, free_memory
from src_py.model.attention import KINDS, default_attention, flash_problem, use_attention
from src_py.model.attention_cores import CORES
from src_py.model.families import read_config
from src_py.pairs.encode import round_up

LAYERS = 2  # that are measured: what holds for them holds for the others
REPEATS = 5
# A candidate's difference from stock against stock's own size, in outputs and in each gradient. Two layers of v3-base
# differed by 1.3e-3 in fp16 on a CPU.
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 8e-2}
OUT_OF_MEMORY, TOO_LARGE = "out of memory", "its activations take"  # how the two problems of memory begin
_KNOWN: dict[tuple, tuple["Measured", ...]] = {}  # what was measured in this process
MEMORY_SHARE = 0.85  # of a GPU's memory that may be filled; the rest is context, buckets and fragments


@dataclass(frozen=True)
class Measured:
    """One candidate: `seconds` of a forward (and backward) pass of `LAYERS` layers, `difference` from stock as in
    `TOLERANCE`, `gigabytes` that the whole encoder's activations would fill (0 on a CPU), and the `problem` why it
    cannot be taken, if there is one."""

    kind: str
    seconds: float = float("inf")
    difference: float = float("inf")
    gigabytes: float = 0.0
    problem: str = ""


def choose_attention(
    folder: str | Path,
    wanted: str,
    rows: int,
    tokens: int,
    precision: str,
    device: str = "",
    training: bool = True,
    quiet: bool = False,
) -> str:
    """The kind of attention that `use_attention` should get, for the model in `folder`.

    "auto" is measured for a few seconds on a GPU, and the result printed in one line; a CPU takes the kind that was
    made for it. Another encoder than DeBERTa keeps the attention that it has ("stock").

    Args:
        wanted: `CFG.attention`, one of `ATTENTIONS`.
        rows: sequences of `tokens` tokens in a forward pass.
        precision: "fp16", "bf16" or "fp32", from `choose_precision`.
        device: the first GPU, or the CPU, unless given.
        training: whether the backward pass counts.
        quiet: print nothing.
    """
    config = read_config(folder)
    if config.model_type != "deberta-v2" or not getattr(config, "relative_attention", False):
        return "stock"
    if wanted != "auto":
        check_attention(wanted)
        return wanted
    device, tokens = device or all_devices()[0], round_up(tokens)
    if device.startswith("cpu"):
        return default_attention()
    kinds = tuple(kind for kind in KINDS if kind != "chunked" and (kind != "flash" or flash_problem() is None))
    shape = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    key = json.dumps(shape, sort_keys=True, default=str), rows, tokens, precision, device, training, kinds
    if key not in _KNOWN:
        _KNOWN[key] = _measured(config, *key[1:])
        if not quiet:
            print(attention_line(_KNOWN[key], precision))
    return fastest(_KNOWN[key]).kind


def check_attention(wanted: str) -> None:
    """Raise `InputError` for a kind that cannot be used here."""
    if wanted == "flash" and (problem := flash_problem()):
        raise InputError(f"CFG.attention is 'flash', but {problem}; set CFG.attention to 'auto'.")


def fastest(found: tuple[Measured, ...]) -> Measured:
    """The fastest candidate without a problem; the first where all have one."""
    return min((one for one in found if not one.problem), key=lambda one: one.seconds, default=found[0])


def attention_line(found: tuple[Measured, ...], precision: str) -> str:
    """Which kind is used, the time of each against stock, and how far their results are apart: one line."""
    right = [one for one in found if not one.problem]
    base = right[0] if right else found[0]  # stock, unless it has a problem itself
    times = ", ".join(f"{one.kind} {one.seconds / base.seconds:.2f}" for one in right if one is not base)
    line = f"attention: {fastest(found).kind}"
    if times:
        equal = f"all equal within {max(one.difference for one in right):.0e} in {precision}"
        line += f", the fastest (time against {base.kind}: {times}), {equal}"
    return line + "".join(f"; {one.kind} is left out: {one.problem}" for one in found if one.problem)


def _measured(config, *arguments) -> tuple[Measured, ...]:
    """As `measure_attention`; the default kind alone where the memory does not even hold stock."""
    try:
        return measure_attention(config, *arguments)
    except torch.OutOfMemoryError:
        pass  # what the failed pass holds can be given back only outside of this block
    free_memory()
    return (Measured(default_attention()), Measured("stock", problem=OUT_OF_MEMORY))


def measure_attention(
    config, rows: int, tokens: int, precision: str, device: str, training: bool, kinds: tuple[str, ...]
) -> tuple[Measured, ...]:
    """Every kind on a few random layers of this configuration; the first of `kinds` has to be "stock".

    The random state of the caller stays what it was.
    """
    depth = config.num_hidden_layers
    config = deepcopy(config)
    config.num_hidden_layers = min(LAYERS, depth)
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(0)
        encoder = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False).to(device)
        encoder.embeddings.requires_grad_(False)
        trial = _Trial(encoder, rows, tokens, precision, device, training)
        expected, found = trial.result(), []
        for kind in kinds:
            found.append(_try(trial, kind, expected, depth / config.num_hidden_layers))
            use_attention(encoder, "stock")
    del trial, encoder, expected
    free_memory()
    return tuple(found)


def _try(trial: "_Trial", kind: str, expected: dict[str, torch.Tensor], depth: float) -> Measured:
    try:
        use_attention(trial.encoder, kind)
        result = trial.result()
        difference = _difference(result, expected)
        seconds, kept = trial.seconds_and_bytes()
    except torch.OutOfMemoryError:
        return Measured(kind, problem=OUT_OF_MEMORY)
    except Exception as error:  # kernels and their compilers each raise their own
        line = (str(error).strip().splitlines() or [""])[0][:100]
        return Measured(kind, problem=f"{type(error).__name__}: {line}")
    problem = ""
    if not difference <= TOLERANCE[trial.precision]:
        problem = f"it differs from stock by {difference:.0e}"
    elif kind not in CORES and kept * depth > MEMORY_SHARE * (trial.memory or math.inf):  # the cores can recompute
        problem = f"{TOO_LARGE} {kept * depth / 1e9:.1f} GB, more than the GPU has room for"
    return Measured(kind, seconds, difference, kept * depth / 1e9, problem)


class _Trial:
    """A batch of random tokens, a tenth of them padding, and what an encoder makes of it."""

    def __init__(self, encoder, rows: int, tokens: int, precision: str, device: str, training: bool):
        self.encoder, self.precision, self.device, self.training = encoder, precision, device, training
        cuda = device.startswith("cuda")
        self.memory = torch.cuda.get_device_properties(device).total_memory if cuda else 0
        self.ids = torch.randint(1, min(1000, encoder.config.vocab_size), (rows, tokens), device=device)
        self.mask = torch.ones_like(self.ids)
        self.mask[::2, tokens - tokens // 5 :] = 0
        self.weights = torch.randn(rows, tokens, encoder.config.hidden_size, device=device) * self.mask[..., None]

    def result(self) -> dict[str, torch.Tensor]:
        """Vectors of tokens and all gradients, without dropout."""
        self.encoder.zero_grad(set_to_none=True)  # of a pass that failed
        dropouts = [module for module in self.encoder.modules() if isinstance(module, nn.Dropout)]
        rates = [module.p for module in dropouts]
        for module in dropouts:
            module.p = 0.0
        try:
            hidden = self._pass()
            found = {"output": hidden.detach() * self.mask[..., None]}
        finally:
            for module, rate in zip(dropouts, rates, strict=True):
                module.p = rate
        for name, parameter in self.encoder.named_parameters():
            if parameter.grad is not None:
                found[name], parameter.grad = parameter.grad, None
        return found

    def seconds_and_bytes(self) -> tuple[float, float]:
        """Least of some repeats, and what a forward pass leaves allocated for the backward one (0 on a CPU)."""
        self._pass()  # the first pass builds and warms up
        seconds = []
        for _ in range(REPEATS):
            self._wait()
            begun = time.perf_counter()
            self._pass()
            self._wait()
            seconds.append(time.perf_counter() - begun)
        before = torch.cuda.memory_allocated(self.device) if self.memory else 0
        hidden = self._forward()
        kept = torch.cuda.memory_allocated(self.device) - before if self.memory else 0
        del hidden
        self.encoder.zero_grad(set_to_none=True)
        return min(seconds), float(kept)

    def _pass(self) -> torch.Tensor:
        hidden = self._forward()
        if self.training:
            (hidden * self.weights).sum().backward()
        return hidden

    def _forward(self) -> torch.Tensor:
        self.encoder.train(self.training)
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        with (
            torch.set_grad_enabled(self.training),
            torch.autocast(self.device.split(":")[0], dtype=dtype, enabled=dtype is not None),
        ):
            return self.encoder(input_ids=self.ids, attention_mask=self.mask)[0].float()

    def _wait(self) -> None:
        if self.memory:
            torch.cuda.synchronize(self.device)


def _difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor against its own size, by root mean squares; NaN if there is one anywhere.

    A gradient that is nothing but rounding (of the key's bias, which a softmax does not see) counts as a hundredth of a
    typical one.
    """
    sizes = {name: _size(value) for name, value in expected.items()}
    least = 1e-2 * float(np.median(list(sizes.values())))
    ratios = [_size(found[name] - value) / max(sizes[name], least, 1e-9) for name, value in expected.items()]
    return float(np.max(ratios))  # not Python's `max`, which would pass over a NaN


def _size(x: torch.Tensor) -> float:
    return float(x.float().square().mean().sqrt())
