"""Every way to build and run the model once on the traced device: none may mix tensors of CPU and card."""

from collections.abc import Callable

import torch

from benchmarks.trace.measure import LOSS_SCALE
from benchmarks.trace.models import KINDS, make_batch, make_model, tiny
from benchmarks.trace.tracer import tracing
from src_py.model.families import FAMILIES
from src_py.model.preference import POOLINGS

PAIRS = [[40, 17], [16, 33], [8, 8]]  # tokens of both sequences: padding, short and long ones apart, odd lengths
SINGLE = [[40], [17], [33]]


def variants() -> dict[str, Callable[[], None]]:
    """Name to a function that runs this variant, forward and backward where there is a backward pass."""
    found: dict[str, Callable[[], None]] = {}
    for kind in KINDS:
        for pooling in POOLINGS:
            found[f"{kind}, pairwise, {pooling}"] = lambda kind=kind, pooling=pooling: run(kind, pooling=pooling)
            found[f"{kind}, joint, {pooling}"] = lambda kind=kind, pooling=pooling: run(
                kind, SINGLE, style="joint", pooling=pooling
            )
        found |= {
            f"{kind}, evaluation": lambda kind=kind: run(kind, train=False),
            f"{kind}, embeddings trained": lambda kind=kind: run(kind, freeze_embeddings=False),
            f"{kind}, frozen and new layers": lambda kind=kind: run(kind, freeze_layers=1, reinit_layers=1),
            f"{kind}, recompute": lambda kind=kind: run(kind, recompute=True),
            f"{kind}, side bias and label smoothing": lambda kind=kind: run(kind, side_bias=True, label_smoothing=0.1),
            f"{kind}, one sequence length": lambda kind=kind: run(kind, [[24, 24]] * 2),
            f"{kind}, fp32": lambda kind=kind: run(kind, fp16=False),
            f"{kind}, own keys for positions": lambda kind=kind: run(kind, share_att_key=False),
            f"{kind}, c2p alone": lambda kind=kind: run(kind, pos_att_type=["c2p"]),
            f"{kind}, p2c alone": lambda kind=kind: run(kind, pos_att_type=["p2c"]),
        }
    for name in FAMILIES:
        found[f"family {name}, pairwise"] = lambda name=name: run(KINDS[-1], family=name)
        found[f"family {name}, joint"] = lambda name=name: run(KINDS[-1], SINGLE, family=name, style="joint")
    return found


def run(
    kind: str,
    lengths: list[list[int]] = PAIRS,
    family: str = "deberta",
    train: bool = True,
    recompute: bool = False,
    fp16: bool = True,
    change: Callable | None = None,
    **settings,
) -> None:
    """Run a tiny model of a family once.

    Args:
        recompute: gradient checkpointing.
        change: called with the model before it runs.
        settings: of `ModelSettings`, `style`, and of the encoder's configuration.

    Raises:
        RuntimeError: torch's own, when an operation is given tensors of both devices.
    """
    config = tiny(family)
    for name in [name for name in settings if hasattr(config, name)]:
        setattr(config, name, settings.pop(name))
    with tracing():
        model = make_model(config, kind, **settings).train(train)
        if recompute:
            checkpointing = "activation_checkpointing_enable"  # its name from transformers 5.23 on
            getattr(model.encoder, checkpointing, model.encoder.gradient_checkpointing_enable)()
        if change:
            change(model)
        batch = make_batch(lengths)
        with torch.set_grad_enabled(train), torch.autocast("cuda", torch.float16, enabled=fp16):
            loss = model(**batch)["loss"]
        if train:
            (loss * LOSS_SCALE).backward()
            _check_gradients(model)


def problems() -> dict[str, str]:
    """Name of every variant to the error that it ended with, empty where there was none."""
    return {name: _error(function) for name, function in variants().items()}


def mixed_problems() -> dict[str, str]:
    """The same for variants that mix devices on purpose, to see that this is found."""

    def new_tensor(model):
        model.encoder.embeddings.register_forward_hook(lambda module, given, out: out + torch.ones(out.shape[-1]))

    def forgotten_tensor(model):
        model.scale = model.head.score.weight.detach().to("cpu")  # an attribute, not a buffer
        model.head.register_forward_pre_hook(lambda module, given: (given[0] * model.scale,))

    def forgotten_module(model):
        model.head.score = torch.nn.Linear(32, 1)

    changes = {change.__name__: change for change in (new_tensor, forgotten_tensor, forgotten_module)}
    return {name: _error(lambda change=change: run(KINDS[-1], change=change)) for name, change in changes.items()}


def _check_gradients(model) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None and parameter.grad.device != parameter.device:
            raise RuntimeError(f"The gradient of {name} is on {parameter.grad.device}.")


def _error(function: Callable[[], None]) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
