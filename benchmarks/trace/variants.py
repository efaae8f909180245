"""Every way to build and run the model once on the traced device: none may mix tensors of CPU and card."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.trace.measure import LOSS_SCALE
from benchmarks.trace.models import BEST, KINDS, make_batch, make_model, tiny
from benchmarks.trace.tracer import tracing
from src_py.model.families import FAMILIES
from src_py.tabular.embeddings import POOLINGS as EMBEDDINGS
from src_py.tabular.embeddings import _pool

PAIRS = [[40, 17], [16, 33], [8, 8]]  # tokens of both sequences: padding, short and long ones apart, odd lengths
SINGLE = [[40], [17], [33]]


def variants() -> dict[str, Callable[[], None]]:
    """Name to a function that runs this variant, forward and backward where there is a backward pass."""
    found: dict[str, Callable[[], None]] = {}
    for kind in KINDS:
        found[f"{kind}, pairwise"] = partial(run, kind)
        found[f"{kind}, joint"] = partial(run, kind, SINGLE, style="joint")
        found[f"{kind}, evaluation"] = partial(run, kind, train=False)
        found[f"{kind}, checkpointing"] = partial(run, kind, checkpointing=True)
        found[f"{kind}, recompute"] = partial(run, kind, recompute=True)
        found[f"{kind}, fp32"] = partial(run, kind, fp16=False)
        found[f"{kind}, own keys for positions"] = partial(run, kind, share_att_key=False)
    for positions in ("c2p", "p2c"):
        found[f"{BEST}, {positions} alone"] = partial(run, BEST, pos_att_type=[positions])
    for style, lengths in (("pairwise", PAIRS), ("joint", SINGLE)):
        found[f"{BEST}, {style}, cls"] = partial(run, BEST, lengths, style=style, pooling="cls")
    found |= {
        f"{BEST}, embeddings trained": partial(run, BEST, freeze_embeddings=False),
        f"{BEST}, frozen and new layers": partial(run, BEST, freeze_layers=1, reinit_layers=1),
        f"{BEST}, side bias and label smoothing": partial(run, BEST, side_bias=True, label_smoothing=0.1),
        f"{BEST}, one sequence length": partial(run, BEST, [[24, 24]] * 2),
    }
    for family in FAMILIES:
        found[f"{family}, pairwise"] = partial(run, BEST, family=family)
        found[f"{family}, joint"] = partial(run, BEST, SINGLE, family=family, style="joint")
        for pooling in EMBEDDINGS if family == "deberta" else EMBEDDINGS[-1:]:
            found[f"{family}, embeddings, {pooling}"] = partial(embed, family, pooling)
    return found


def run(
    kind: str,
    lengths: list[list[int]] = PAIRS,
    family: str = "deberta",
    train: bool = True,
    checkpointing: bool = False,
    fp16: bool = True,
    change: Callable | None = None,
    **settings,
) -> None:
    """Run a tiny model of a family once.

    Args:
        checkpointing: of whole layers, by transformers.
        change: called with the model before it runs.
        settings: of `make_model`, and of the encoder's configuration.

    Raises:
        RuntimeError: torch's own, when an operation is given tensors of both devices.
    """
    config = tiny(family)
    for name in [name for name in settings if hasattr(config, name)]:
        setattr(config, name, settings.pop(name))
    with tracing():
        model = make_model(config, kind, **settings).train(train)
        if checkpointing:
            name = "activation_checkpointing_enable"  # its name from transformers 5.23 on
            getattr(model.encoder, name, model.encoder.gradient_checkpointing_enable)()
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


def embed(family: str, pooling: str) -> None:
    """Vectors of sequences as the LightGBM recipe makes them."""
    with tracing():
        encoder = make_model(tiny(family), BEST).encoder.eval()
        batch = make_batch(SINGLE)
        ids, mask = (batch[name][:, 0] for name in ("input_ids", "attention_mask"))
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            out = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=pooling == "last4")
            _pool(out, mask, pooling)


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
    return {name: _error(lambda change=change: run(BEST, change=change)) for name, change in changes.items()}


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
