"""DeBERTa-v3 and its relatives with random weights on the traced device, and batches for them."""

import tempfile

import torch
from transformers import AutoConfig
from transformers.initialization import no_init_weights

from src_py.model.attention import use_attention
from src_py.model.attention_cores import CORES
from src_py.model.encoder import fresh_encoder
from src_py.model.families import FAMILIES
from src_py.model.preference import Architecture, ModelSettings, PreferenceModel, _choose_trained
from src_py.pairs.encode import PairCollator

_V3 = {
    "relative_attention": True,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "max_position_embeddings": 512,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "layer_norm_eps": 1e-7,
    "type_vocab_size": 0,
}
# As in the public folders' config.json.
SIZES = {
    "small": {"num_hidden_layers": 6, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
}
KINDS = ("stock", *CORES)
BEST = "sdpa"  # what "auto" means on a card where nothing was measured


def v3(size: str):
    """The configuration of deberta-v3-small, -base or -large."""
    return AutoConfig.for_model("deberta-v2", vocab_size=128_100, **_V3, **SIZES[size])


def tiny(name: str):
    """A configuration of the family of this name (a key of `FAMILIES`) with two narrow layers."""
    family = FAMILIES[name]
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    settings |= _V3 if family.model_type == "deberta-v2" else {"max_position_embeddings": 514, "pad_token_id": 1}
    settings |= dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)
    return AutoConfig.for_model(family.model_type, vocab_size=max(1000, family.least_vocabulary), **settings)


def make_model(
    config, attention: str = BEST, style: str = "pairwise", recompute: bool | None = None, **settings
) -> PreferenceModel:
    """A `PreferenceModel` in training mode on the traced device; call it inside `tracing`.

    Args:
        attention: one of `KINDS`; other architectures than DeBERTa keep their own.
        recompute: as in `use_attention`.
        settings: of `ModelSettings`.
    """
    chosen = ModelSettings(**settings)
    # Made on the CPU and moved, as the Trainer does, so that a tensor that stays behind is found. The weights are never
    # written to, so that they take no memory.
    with tempfile.TemporaryDirectory() as folder, no_init_weights():
        config.save_pretrained(folder)
        encoder = fresh_encoder(folder, "stock")
    use_attention(encoder, attention, recompute)
    model = PreferenceModel(encoder, Architecture(style, 3, chosen))
    _choose_trained(model)
    return model.to("cuda").train()


def make_batch(lengths: list[list[int]]) -> dict:
    """A batch as the Trainer gives it to the model on a card.

    Args:
        lengths: tokens of every sequence of every pair: two a pair for the pairwise reading, one for the joint one.
    """
    rows = [{"sequences": [[7] * tokens for tokens in pair], "labels": 0} for pair in lengths]
    batch = PairCollator(0)(rows)
    return {name: value.to("cuda") if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
