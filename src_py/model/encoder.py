"""Pretrained encoders: load one in fp32, fit its embeddings to a tokenizer, find its layers and its learning rate."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from src_py.errors import InputError
from src_py.model.attention import use_fast_attention
from src_py.pairs.tokenizer import newline_id, single_token_id


def load_encoder(folder: str | Path, fast_attention: bool = True) -> nn.Module:
    """`AutoModel` from a local folder with float32 weights: checkpoints stored in fp16 cannot be trained as such.

    Args:
        fast_attention: `use_fast_attention` where the encoder is a DeBERTa.
    """
    folder = Path(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise InputError(
            f"{folder}/config.json cannot be read ({error}); attach a Hugging Face model folder."
        ) from error
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise InputError(
            f"{folder} holds a {config.model_type} model, which is no bidirectional encoder; "
            "attach DeBERTa-v3 (or BERT, RoBERTa, ELECTRA) instead."
        )
    try:
        encoder = AutoModel.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, weights_only=True, **no_pooler(config)
        )
    except Exception as error:  # safetensors, torch and transformers each raise their own
        raise InputError(
            f"The weights in {folder} cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:150]}); "
            "the file may be cut short: attach the model folder again."
        ) from error
    if fast_attention:
        use_fast_attention(encoder)
    return encoder


def fit_embeddings(encoder: nn.Module, tokenizer) -> None:
    """Give the tokenizer's line-break token a sensible vector; never shrink the matrix.

    DeBERTa-v3 has more rows (128,100) than its tokenizer has tokens, so `resize_token_embeddings(len(tokenizer))`
    would cut it. A new row starts as a copy of the pretrained "|", a separator the model knows; a random or
    mean-initialised row would stay so while the embeddings are frozen.
    """
    embeddings = encoder.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embeddings = encoder.get_input_embeddings()
    source = single_token_id(tokenizer, ("|", ";", "."))
    if source is not None:
        with torch.no_grad():
            embeddings.weight[newline_id(tokenizer)] = embeddings.weight[source]


def encoder_layers(encoder: nn.Module) -> nn.ModuleList:
    """The transformer blocks, lowest first."""
    wanted = encoder.config.num_hidden_layers
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise InputError(f"No list of {wanted} layers found in {type(encoder).__name__}; use a DeBERTa or BERT model.")


def no_pooler(config) -> dict:
    """BERT's own pooler would be a randomly used extra; a config without one takes it silently."""
    return {"add_pooling_layer": False} if config.model_type in ("bert", "roberta", "xlm-roberta") else {}


# Peak learning rates of Microsoft's own fine-tuning recipe (DeBERTa, experiments/glue/mnli.sh), by the number of
# parameters in the encoder's layers: small, base, large. The first is for random models of a few layers (demo).
_LEARNING_RATES = ((2e6, 1e-3), (60e6, 4.5e-5), (200e6, 1.5e-5), (float("inf"), 7e-6))


def reference_lr(model: torch.nn.Module) -> float:
    """Peak learning rate for a model of this size, embeddings not counted."""
    size = sum(p.numel() for name, p in model.named_parameters() if "embeddings" not in name)
    return next(rate for limit, rate in _LEARNING_RATES if size < limit)
