"""The families of encoders that the recipes can use. A new family is one entry in `FAMILIES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from src_py.errors import InputError


def _positions(config) -> int:
    """BERT, ELECTRA: one learned vector a position."""
    return config.max_position_embeddings


def _positions_after_padding(config) -> int:
    """RoBERTa counts positions from `pad_token_id` + 1: of 514 vectors a text can use 512."""
    return config.max_position_embeddings - config.pad_token_id - 1


def _relative_positions(config) -> int | None:
    """DeBERTa-v2/v3: no limit, unless the configuration adds learned positions as well."""
    return config.max_position_embeddings if config.position_biased_input else None


@dataclass(frozen=True)
class Family:
    """What differs between one family of encoders and the next.

    Attributes:
        model_type: as in `config.json`.
        name: as people write it.
        max_tokens: from the configuration to the longest sequence in tokens, special tokens included; None: no limit.
        add_pooling_layer: whether `AutoModel` takes this argument. The recipes pool themselves, and a pooler that the
            checkpoint lacks would be random.
        embeddings: path of the module between token ids and the first layer.
        layers: path of the list of transformer blocks, lowest first.
        fp16_problem: why the family cannot train or predict in fp16; empty where it can.
        least_vocabulary: tokens from which on a `model_type` that two families share means this one.
        settings: values set in the configuration before the model is made.
        adapted: names of the linear layers in a block that get low-rank adapters (`add_lora`): all of them, those of
            the attention and of the feed-forward part. Empty: the family cannot have adapters.
    """

    model_type: str
    name: str
    max_tokens: Callable[[Any], int | None] = _positions
    add_pooling_layer: bool = False
    embeddings: str = "embeddings"
    layers: str = "encoder.layer"
    fp16_problem: str = ""
    least_vocabulary: int = 0
    settings: tuple[tuple[str, Any], ...] = ()
    adapted: tuple[str, ...] = ("query", "key", "value", "dense")


# The last two are only there where `share_att_key` is off.
_DEBERTA_ADAPTED = ("query_proj", "key_proj", "value_proj", "dense", "pos_key_proj", "pos_query_proj")


FAMILIES: dict[str, Family] = {
    "deberta": Family("deberta-v2", "DeBERTa-v2/v3", _relative_positions, adapted=_DEBERTA_ADAPTED),
    # The same architecture as DeBERTa-v3 with a vocabulary of 250,000 tokens instead of 128,000.
    "mdeberta": Family(
        "deberta-v2",
        "mDeBERTa",
        _relative_positions,
        fp16_problem="mDeBERTa overflows in fp16 and its loss becomes NaN (microsoft/DeBERTa#77)",
        least_vocabulary=200_000,
        adapted=_DEBERTA_ADAPTED,
    ),
    "bert": Family("bert", "BERT", add_pooling_layer=True),
    "roberta": Family("roberta", "RoBERTa", _positions_after_padding, add_pooling_layer=True),
    "xlm-roberta": Family("xlm-roberta", "XLM-R", _positions_after_padding, add_pooling_layer=True),
    "electra": Family("electra", "ELECTRA"),
    # transformers 5.0 compiles parts of it where it finds Triton: minutes for every new sequence length.
    "modernbert": Family(
        "modernbert",
        "ModernBERT",
        layers="layers",
        settings=(("reference_compile", False),),
        adapted=("Wqkv", "Wo", "Wi"),
    ),
}

NAMES = ", ".join(family.name for family in FAMILIES.values())


class Problem(NamedTuple):
    """Why a folder cannot be used: what it is ("a gpt2 model, which is a decoder"), and what to do instead."""

    what: str
    advice: str


def read_config(folder: str | Path):
    """The configuration of a model folder. Code in the folder is never run.

    Raises:
        InputError: `config.json` is missing or cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers, json and huggingface_hub each raise their own
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"{folder}/config.json cannot be read ({line}); attach a Hugging Face model folder."
        ) from error


def family_of(config) -> Family | None:
    """The family of a configuration (or of its dict); None when it is not one of `FAMILIES`."""
    kind, vocabulary = _get(config, "model_type"), _get(config, "vocab_size") or 0
    fitting = [
        family
        for family in FAMILIES.values()
        if family.model_type == kind and isinstance(vocabulary, int) and vocabulary >= family.least_vocabulary
    ]
    return max(fitting, key=lambda family: family.least_vocabulary, default=None)


def architecture_problem(config) -> Problem | None:
    """Why a model with this configuration (or dict) cannot serve as an encoder; None when it can."""
    kind = _get(config, "model_type")
    if not isinstance(kind, str) or not kind:
        return Problem("a config.json without model_type", "attach a Hugging Face model folder")
    advice = f"attach an encoder instead, for example deberta-v3-base (known: {NAMES})"
    if _get(config, "is_encoder_decoder") or kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return Problem(f"a {kind} model, which is an encoder-decoder", advice)
    if _get(config, "is_decoder"):
        return Problem(f"a {kind} model that is set up as a decoder (is_decoder in config.json)", advice)
    if family_of(config):
        return None
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return Problem(f"a {kind} model, which is an encoder of a family that is not supported", advice)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return Problem(f"a {kind} model, which is a decoder", advice)
    return Problem(f"a {kind} model, which is not an encoder that this notebook knows", advice)


def known_family(config, where: str | Path) -> Family:
    """The family of the configuration of the folder `where`.

    Raises:
        InputError: it is not one of `FAMILIES`.
    """
    problem, family = architecture_problem(config), family_of(config)
    if problem or family is None:
        what, advice = problem or Problem("an unknown model", f"attach one of {NAMES}")
        raise InputError(f"{where} holds {what}; {advice}.")
    return family


def max_tokens(config_or_folder) -> int | None:
    """Longest sequence that the encoder reads, special tokens included; None where there is no limit.

    A model outside `FAMILIES` (the doctor checks any) counts by `max_position_embeddings`, if it has that.
    """
    config = _config(config_or_folder)
    family = family_of(config)
    return family.max_tokens(config) if family else getattr(config, "max_position_embeddings", None)


def check_max_length(config_or_folder, max_length: int, field: str = "max_length") -> None:
    """Raise `InputError` when sequences of `max_length` tokens are longer than the encoder reads; `field` of CFG."""
    config = _config(config_or_folder)
    limit = max_tokens(config)
    if limit is not None and max_length > limit:
        family = family_of(config)
        raise InputError(
            f"CFG.{field} is {max_length}, but this {family.name if family else config.model_type} model reads "
            f"{limit} tokens at most; set CFG.{field} to {limit} or less."
        )


def check_precision(config_or_folder, precision: str) -> None:
    """Raise `InputError` when the family cannot compute in `precision` ("fp16", "bf16" or "fp32")."""
    family = family_of(_config(config_or_folder))
    if precision == "fp16" and family and family.fp16_problem:
        raise InputError(
            f"CFG.precision is 'fp16', but {family.fp16_problem}; set CFG.precision to 'fp32', "
            "or to 'bf16' where the GPU has it."
        )


def _config(config_or_folder):
    return read_config(config_or_folder) if isinstance(config_or_folder, (str, Path)) else config_or_folder


def _get(config, key: str):
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
