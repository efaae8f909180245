"""An encoder with a preference head: build it and choose what is trained."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from src_py.config import Settings, check_choice, setting
from src_py.errors import InputError
from src_py.kaggle.session import to_device
from src_py.model.attention import ATTENTIONS, attention_of
from src_py.model.encoder import encoder_embeddings, encoder_layers, fit_embeddings, fresh_encoder, load_encoder
from src_py.model.families import max_tokens
from src_py.model.heads import DavidsonHead, JointHead
from src_py.pairs.encode import STYLES, round_up

POOLINGS = ("cls", "mean")


class PreferenceModel(nn.Module):
    """Encoder, pooling and head.

    forward takes `input_ids` and `attention_mask` of shape (batch, sequences, tokens), where sequences is 2 for
    pairwise and 1 for joint, and optionally `labels` (batch,) and `lengths`, tokens of every sequence, padded on the
    right, as lists: then short and long ones go through the encoder apart, with less padding. It returns `loss` (a
    mean over rows) and `logits` (batch, classes).
    """

    # transformers >= 5 otherwise takes DeBERTa's forward(**kwargs) to mean that the model divides the loss
    # itself: the logged loss grows with accumulation steps and doubles under DataParallel (#47688).
    accepts_loss_kwargs = False

    def __init__(self, encoder: nn.Module, head: nn.Module, pooling: str, label_smoothing: float = 0.0):
        super().__init__()
        check_choice("pooling", pooling, POOLINGS)
        self.encoder, self.head, self.pooling, self.label_smoothing = encoder, head, pooling, label_smoothing
        self.most_tokens = max_tokens(encoder.config) or sys.maxsize

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, lengths=None) -> torch.Tensor:
        """One float32 vector a sequence: (batch, sequences, hidden)."""
        batch, sequences, tokens = input_ids.shape
        ids, mask = (x.flatten(0, 1) for x in (input_ids, attention_mask))
        if lengths is None:
            return self._pooled(ids, mask).view(batch, sequences, -1)
        call = CALL.get(ids.device.type, CALL["cpu"])
        groups = length_groups([length for row in lengths for length in row], call)
        order = None
        if len(groups) > 1:
            order = to_device(torch.tensor([row for rows, _ in groups for row in rows]), ids.device)
            ids, mask = ids[order], mask[order]
        parts, start = [], 0
        for rows, longest in groups:
            # Half-precision products want multiples of 8 tokens; the collator has padded to one.
            part = slice(start, start := start + len(rows)), slice(min(round_up(longest), tokens, self.most_tokens))
            parts.append(self._pooled(ids[part], mask[part]))
        vectors = torch.cat(parts)
        if order is not None:
            vectors = torch.empty_like(vectors).index_copy(0, order, vectors)
        return vectors.view(batch, sequences, -1)

    def _pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0].float()
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def forward(self, input_ids, attention_mask, labels=None, lengths=None) -> dict[str, torch.Tensor]:
        logits = self.head(self.encode(input_ids, attention_mask, lengths)).float()
        if labels is None:
            return {"logits": logits}
        smoothing = self.label_smoothing if self.training else 0.0
        return {"loss": nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing), "logits": logits}


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What is built on the encoder, and which of its parts are trained.

    Args:
        pooling: of the tokens' vectors, "mean" or "cls".
        dropout: in the head.
        side_bias: let a pairwise model learn that people favour one side.
        label_smoothing: share of the label that is spread over all classes.
        attention: of a DeBERTa; "auto" is what `choose_attention` found to be the fastest.
        freeze_embeddings: train no embeddings: in deberta-v3-base they are 53 % of all parameters, so that many
            gradients and Adam states are saved.
        freeze_layers: lowest layers that are not trained. The position embeddings of a DeBERTa are trained by the
            other layers alone, so that the backward pass ends above the frozen ones.
        reinit_layers: top layers that start from random weights (Zhang et al., arXiv 2006.05987).
    """

    pooling: str = setting("mean", choices=POOLINGS)
    dropout: float = setting(0.1, least=0, below=1)
    attention: str = setting("auto", choices=ATTENTIONS)
    freeze_embeddings: bool = setting(True)
    freeze_layers: int = setting(0, least=0)
    reinit_layers: int = setting(0, least=0)
    side_bias: bool = setting(False)
    label_smoothing: float = setting(0.0, least=0, below=1)


def build_model(
    folder: str | Path,
    tokenizer,
    style: str,
    class_shares: list[float],
    settings: ModelSettings | None = None,
    fit=None,
) -> PreferenceModel:
    """A pretrained encoder with a fresh head that starts at the constant predictor.

    Args:
        folder: Hugging Face model folder (safetensors, or a `.bin` read with weights_only).
        class_shares: share of each class among the training labels; their number is the number of classes.
        settings: the defaults of `ModelSettings` unless given.
        fit: called with encoder and tokenizer to make room for added tokens; `fit_embeddings` unless given.

    Raises:
        InputError: unreadable weights, or an architecture that is not an encoder of a known family.
    """
    check_choice("style", style, STYLES)
    settings = settings or ModelSettings()
    encoder = load_encoder(folder, settings.attention)
    (fit or fit_embeddings)(encoder, tokenizer)
    head = make_head(style, encoder.config.hidden_size, len(class_shares), settings.dropout, settings.side_bias)
    head.set_prior(list(class_shares))
    model = PreferenceModel(encoder, head, settings.pooling, settings.label_smoothing)
    _choose_trained(model, settings)
    return model


def model_settings(model: PreferenceModel) -> dict:
    """What `model_from_settings` needs beside the encoder's config to build the same architecture."""
    head = model.head
    pairwise = isinstance(head, DavidsonHead)
    return {
        "style": "pairwise" if pairwise else "joint",
        "n_classes": head.n_classes if pairwise else head.classifier.out_features,
        "dropout": head.dropout.p,
        "side_bias": pairwise and head.bias is not None,
        "pooling": model.pooling,
        "label_smoothing": model.label_smoothing,
        "attention": attention_of(model.encoder),
    }


def model_from_settings(folder: str | Path, settings: dict) -> PreferenceModel:
    """The architecture of `model_settings` with fresh weights; `folder` holds the encoder's config.json."""
    encoder = fresh_encoder(folder, settings["attention"])
    options = (settings["n_classes"], settings["dropout"], settings["side_bias"])
    head = make_head(settings["style"], encoder.config.hidden_size, *options)
    return PreferenceModel(encoder, head, settings["pooling"], settings["label_smoothing"])


def _choose_trained(model: PreferenceModel, settings: ModelSettings) -> None:
    """Freeze what is not trained, and start the top layers from random weights."""
    layers = encoder_layers(model.encoder)
    if settings.freeze_layers + settings.reinit_layers > len(layers):
        raise InputError(
            f"CFG.freeze_layers ({settings.freeze_layers}) and CFG.reinit_layers ({settings.reinit_layers}) need "
            f"more than the model's {len(layers)} layers."
        )
    embeddings = encoder_embeddings(model.encoder)
    if settings.freeze_layers == len(layers):
        inner = getattr(model.encoder, "encoder", None)
        if inner is not None and hasattr(inner, "rel_embeddings"):
            inner.requires_grad_(False)  # position embeddings too: frozen layers give them no gradient
    if settings.freeze_embeddings:
        embeddings.requires_grad_(False)
    for layer in layers[: settings.freeze_layers]:
        layer.requires_grad_(False)
    for layer in layers[len(layers) - settings.reinit_layers :]:
        for module in layer.modules():
            _reset(module, getattr(model.encoder.config, "initializer_range", 0.02))


def make_head(style: str, hidden_size: int, n_classes: int, dropout: float, side_bias: bool) -> nn.Module:
    if style == "pairwise":
        return DavidsonHead(hidden_size, n_classes, dropout, side_bias)
    return JointHead(hidden_size, n_classes, dropout)


def _reset(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        if module.bias is not None:  # ModernBERT has none
            nn.init.zeros_(module.bias)


# Tokens of padding for which another call of the encoder is worthwhile. Measured on 2,838 real pairs: 128 leaves 4 %
# padding at 2.2 calls a batch of 4,096 tokens, 512 leaves 12 % at 1.2. On a GPU the host launches 1,500 kernels a call:
# an estimate for a T4, from 17 to 35 ms a call against what 4,096 tokens cost there, is least between 128 and 256.
CALL = {"cpu": 128, "cuda": 192}


def length_groups(lengths: list[int], call: int = CALL["cpu"]) -> list[tuple[list[int], int]]:
    """Groups (positions in `lengths`, their greatest length) with the least padding and calls, longest first.

    The cheapest of all cuts of the sorted lengths, by dynamic programming; a group costs its tokens, padding included,
    and `call`.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    widths = [round_up(lengths[i]) for i in order]
    # A cut between sequences of the same width saves nothing.
    cuts = [0, *(i for i in range(1, len(order)) if widths[i] != widths[i - 1]), len(order)]
    least, begins = [0.0], [0]
    for end in range(1, len(cuts)):
        costs = [least[k] + (cuts[end] - cuts[k]) * widths[cuts[k]] + call for k in range(end)]
        begins.append(min(range(end), key=costs.__getitem__))
        least.append(costs[begins[-1]])
    groups, end = [], len(cuts) - 1
    while end:
        start = cuts[begins[end]]
        groups.append((order[start : cuts[end]], lengths[order[start]]))
        end = begins[end]
    return groups[::-1]
