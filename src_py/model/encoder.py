"""Pretrained encoders: load one in fp32, fit its embeddings to a tokenizer, find its layers and its learning rate."""

import re
from functools import cache
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from src_py.errors import InputError
from src_py.model.attention import use_attention
from src_py.model.families import known_family, read_config
from src_py.pairs.tokenizer import newline_added, newline_id, single_token_id

_NAMED = 3  # tensors that an error names
# Endings of the classes whose head somebody trained for a task. Others have the heads of their pretraining.
_TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")


def load_encoder(folder: str | Path, attention: str = "auto") -> PreTrainedModel:
    """`AutoModel` from a local folder with float32 weights: checkpoints stored in fp16 cannot be trained as such.

    Every weight of the encoder must come from the file: transformers would fill what is missing with random numbers
    and only log it. What the file has beyond the encoder (the heads of its pretraining) is left out; if that is the
    head of a classifier or of a reward model, a line says so, once for a folder.

    Args:
        attention: of a DeBERTa, as in `use_attention`.

    Raises:
        InputError: the folder does not hold an encoder of a known family, or its weights cannot be read, or they are
            not those of its config.json: tensors missing, of another shape, under other names, or of more layers.
    """
    folder = Path(folder)
    config = read_config(folder)
    options = _options(config, folder)
    try:
        encoder, loaded = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name and shape
            **options,
        )
    except Exception as error:  # safetensors, torch and transformers each raise their own
        line = (str(error).strip().splitlines() or [""])[0][:150]
        raise InputError(
            f"The weights in {folder} cannot be read ({type(error).__name__}: {line}); "
            "the file may be cut short: attach the model folder again."
        ) from error
    _check_loaded(folder, encoder, loaded)
    if head := _trained_head(folder, config):
        _say_once(head)
    use_attention(encoder, attention)
    return encoder


def fresh_encoder(folder: str | Path, attention: str = "auto") -> PreTrainedModel:
    """The architecture that the folder's `config.json` describes, with random float32 weights."""
    config = read_config(folder)
    options = _options(config, Path(folder))
    encoder = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False, **options)
    use_attention(encoder, attention)
    return encoder


def fit_embeddings(encoder: PreTrainedModel, tokenizer) -> None:
    """Give the tokenizer's line-break token a sensible vector; never shrink the matrix.

    DeBERTa-v3 has more rows (128,100) than its tokenizer has tokens, so `resize_token_embeddings(len(tokenizer))`
    would cut it. A new row starts as a copy of the pretrained "|", a separator the model knows; a random or
    mean-initialised row would stay so while the embeddings are frozen. A line break that the vocabulary had before
    `load_tokenizer` (RoBERTa, ModernBERT, a folder that was saved after training) keeps its own row.
    """
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))  # ids may have gaps
    if tokens > encoder.get_input_embeddings().num_embeddings:
        encoder.resize_token_embeddings(tokens, mean_resizing=False)
    source = single_token_id(tokenizer, ("|", ";", "."))
    if source is not None and newline_added(tokenizer):
        weight = encoder.get_input_embeddings().get_parameter("weight")
        with torch.no_grad():
            weight[newline_id(tokenizer)] = weight[source]


def encoder_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks, lowest first."""
    layers = encoder.get_submodule(known_family(encoder.config, type(encoder).__name__).layers)
    assert isinstance(layers, nn.ModuleList), f"{type(layers).__name__} instead of a list of layers"
    return layers


def encoder_embeddings(encoder: PreTrainedModel) -> nn.Module:
    """What turns token ids into the vectors that the first layer reads."""
    return encoder.get_submodule(known_family(encoder.config, type(encoder).__name__).embeddings)


def _options(config, folder: Path) -> dict:
    """Arguments of `AutoModel` for this family, whose settings are put into `config`."""
    family = known_family(config, folder)
    for name, value in family.settings:
        setattr(config, name, value)
    return {"add_pooling_layer": False} if family.add_pooling_layer else {}


def _check_loaded(folder: Path, encoder: PreTrainedModel, loaded: dict) -> None:
    """Raise `InputError` unless the file had every weight; `loaded` is what `output_loading_info` returns."""
    wanted = encoder.state_dict()
    if loaded["mismatched_keys"]:
        name, stored, shape = sorted(loaded["mismatched_keys"])[0]
        count = len(loaded["mismatched_keys"])
        raise InputError(
            f"{count} tensors in {folder} do not have the shape that its config.json says (first: {name} is "
            f"{tuple(stored)} in the weights, {tuple(shape)} in the config); attach weights and config of one model."
        )
    missing, unexpected = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} tensors are missing from the weights in {folder} "
            f"({_some(missing)}); {_other_names(missing, unexpected)}."
        )
    path = known_family(encoder.config, folder).layers
    pattern = re.compile(rf"(?:{encoder.base_model_prefix}\.)?{re.escape(path)}\.\d+\.")
    surplus = [name for name in unexpected if pattern.match(name)]
    if surplus:
        raise InputError(
            f"The weights in {folder} have more layers than the {encoder.config.num_hidden_layers} of its config.json "
            f"({_some(surplus)}); set num_hidden_layers to what the weights hold, or attach the model folder again."
        )


def _trained_head(folder: Path, config) -> str:
    """What to say of a folder whose head was trained for a task; "" when it was not."""
    names = [name for name in getattr(config, "architectures", None) or () if name.endswith(_TASKS)]
    if not names:
        return ""
    said = f"{folder}: the encoder of this {names[0]} is used, and its head is left out."
    if config.num_labels == 1:
        said += (
            " With a single output it is probably a reward model: some were trained on arena conversations, which may "
            "overlap the contest's rows, so that a validation score may flatter."
        )
    return said


@cache
def _say_once(text: str) -> None:
    """Every fold, and every look at the model before training, loads the encoder again."""
    print(text)


def _other_names(missing: list[str], unexpected: list[str]) -> str:
    """What to do about missing tensors: are they there under a longer name?"""
    for name in unexpected:
        found = next((key for key in missing if name.endswith(f".{key}")), None)
        if found:
            prefix = name.removesuffix(found)
            count = sum(f"{prefix}{key}" in set(unexpected) for key in missing)
            return (
                f"{count} of them are there with {prefix!r} before their name ({name}): take {prefix!r} off all "
                "names, or save the encoder inside that model with save_pretrained, and attach the result"
            )
    there = f"; the file has {_some(unexpected)} instead" if unexpected else ""
    return f"they would stay random{there}: attach the complete model folder again"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


# Peak learning rates of Microsoft's own fine-tuning recipe (DeBERTa, experiments/glue/mnli.sh), by the number of
# parameters in the encoder's layers: small, base, large. The first is for random models of a few layers (demo).
_LEARNING_RATES = ((2e6, 1e-3), (60e6, 4.5e-5), (200e6, 1.5e-5), (float("inf"), 7e-6))
# Of low-rank adapters, whatever the size: the best of the three rates, and the highest, that a public study of the LMSYS
# contest tried with deberta-v3-base (rank 16, scale 2; kujifined/PMLDL-llm-classification-finetuning).
_LORA_RATE = 2.8e-4


def reference_lr(model: torch.nn.Module) -> float:
    """Peak learning rate for a model of this size, embeddings not counted; for one with adapters (LoRA), theirs."""
    sizes = {name: p.numel() for name, p in model.named_parameters() if "embeddings" not in name}
    adapters = sum(size for name, size in sizes.items() if "lora_" in name)
    size = sum(sizes.values()) - adapters
    rate = next(rate for limit, rate in _LEARNING_RATES if size < limit)
    return max(rate, _LORA_RATE) if adapters else rate
