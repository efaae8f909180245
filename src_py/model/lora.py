"""LoRA: train low-rank adapters beside an encoder's frozen weights, and fold them into those weights afterwards."""

import re

from torch import nn
from transformers import PreTrainedModel

from src_py.errors import InputError
from src_py.model.attention import attention_of
from src_py.model.encoder import encoder_layers
from src_py.model.families import known_family

# The product of the two factors is scaled by alpha / rank. With alpha at twice the rank that is 2 for any rank, so that
# one learning rate suits all of them; the public study of this contest did the same (alpha 32 at rank 16).
ALPHA_FACTOR = 2


def add_lora(encoder: PreTrainedModel, rank: int, freeze_layers: int = 0) -> None:
    """Freeze an encoder and put low-rank adapters (Hu et al., arXiv 2106.09685) beside its blocks' linear layers.

    Done in place: the encoder keeps its class, config and modules' paths. Which layers are adapted says
    `Family.adapted`; the adapters are float32 and change nothing at first. Nothing but them is trained afterwards:
    no embedding, bias, LayerNorm, or position embedding. They have no dropout of their own: the encoder's goes on,
    and another mask would have to be kept for every linear layer.

    Args:
        rank: of the adapters.
        freeze_layers: lowest blocks without adapters, so that the backward pass ends above them.

    Raises:
        InputError: peft is missing or cannot be used here, the family or the attention cannot have adapters, or no
            block is left for them.
    """
    family = known_family(encoder.config, type(encoder).__name__)
    layers = len(encoder_layers(encoder))
    if not family.adapted:
        raise InputError(
            f"CFG.lora_rank is {rank}, but adapters are not supported for {family.name}; set CFG.lora_rank to 0."
        )
    if attention_of(encoder) == "flash":
        raise InputError(
            "CFG.lora_rank does not go with CFG.attention 'flash', which may read the weights past the adapters; set "
            "CFG.attention to 'sdpa', or CFG.lora_rank to 0."
        )
    if freeze_layers >= layers:
        raise InputError(
            f"CFG.freeze_layers is {freeze_layers}, which leaves none of the encoder's {layers} layers to CFG.lora_rank; "
            "lower it, or set CFG.lora_rank to 0."
        )
    blocks = "|".join(map(str, range(freeze_layers, layers)))
    _inject(encoder, rank, rf"{re.escape(family.layers)}\.({blocks})\..*\b({'|'.join(family.adapted)})")


def merge_lora(encoder: PreTrainedModel) -> None:
    """Fold the adapters into the weights, in place: modules and names are again those of a plain encoder.

    Does nothing to an encoder without adapters. The weights stay as they are, frozen; outputs change by rounding only.
    """
    for name, module in _adapted(encoder):
        module.merge()
        encoder.set_submodule(name, module.get_base_layer())
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config


def lora_of(encoder: PreTrainedModel) -> tuple[int, int]:
    """Rank of an encoder's adapters and the lowest blocks without any, as `add_lora` takes them; (0, 0) without."""
    ranks = [[module.r["default"] for _, module in _adapted(layer)] for layer in encoder_layers(encoder)]
    first = next((number for number, found in enumerate(ranks) if found), None)
    return (0, 0) if first is None else (ranks[first][0], first)


def _inject(encoder: PreTrainedModel, rank: int, where: str) -> None:
    """`where`: pattern of the modules' names."""
    try:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=rank, lora_alpha=ALPHA_FACTOR * rank, lora_dropout=0.0, target_modules=where)
        inject_adapter_in_model(config, encoder)
    except ImportError as error:
        raise InputError(_cannot(error)) from error
    for _, module in _adapted(encoder):
        module.cast_input_dtype_enabled = False  # a cast to fp32 of what autocast will cast to fp16 again


def _cannot(error: ImportError) -> str:
    """peft asks for the versions of packages that it would not use here: an old torchao breaks every adapter."""
    text = str(error).strip().splitlines()[0]
    if "torchao" in text:
        return (
            f"CFG.lora_rank needs peft, which does not work beside this machine's torchao ({text}); put "
            "`!pip uninstall -y torchao` into a new first cell and restart, or set CFG.lora_rank to 0."
        )
    return (
        f"CFG.lora_rank needs peft, which cannot be imported here ({text}); install peft 0.18 or newer, or set "
        "CFG.lora_rank to 0."
    )


def _adapted(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules that hold an adapter: found without peft, which need not be installed."""
    return [
        (name, one) for name, one in module.named_modules() if isinstance(getattr(one, "lora_A", None), nn.ModuleDict)
    ]
