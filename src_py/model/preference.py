"""An encoder with a preference head: build it and choose what is trained."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.kaggle.session import to_device
from src_py.model.attention import ATTENTIONS, attention_of
from src_py.model.counted import CountsHead
from src_py.model.encoder import encoder_embeddings, encoder_layers, fit_embeddings, fresh_encoder, load_encoder
from src_py.model.families import max_tokens
from src_py.model.heads import HEADS, AttentionPooling, make_head
from src_py.model.length_groups import CALL, length_groups
from src_py.model.lora import add_lora
from src_py.model.losses import names_loss, preference_loss
from src_py.pairs.encode import UNKNOWN, round_up

POOLINGS = ("cls", "mean", "attention", "last4")
OWN_DROPOUT = -1.0  # the encoder's, as its config.json has it


@dataclass(frozen=True)
class ModelSettings(Settings):
    """What is built on the encoder, and which of its parts are trained.

    Args:
        pooling: of the tokens' vectors: "mean", "cls", "attention" (weights are learned), or "last4", the mean over
            the last four layers as well.
        head: of a pairwise reading: "bradley_terry", or "network" on both vectors, their difference and product.
        dropout: in the head.
        encoder_dropout: in the encoder; `OWN_DROPOUT` leaves it as it is.
        side_bias: let a pairwise model learn that people favour one side.
        label_smoothing: share of the label that is spread over all classes.
        soft_temperature: at which a teacher's probabilities are compared with the model's.
        names_loss: weight of a second task, to name the chatbot that wrote an answer, where the file has their names.
        lora_rank: of low-rank adapters, which are then trained in place of the encoder's weights; 0 trains the weights.
        attention: of a DeBERTa; "auto" is what `choose_attention` found to be the fastest.
        freeze_embeddings: train no embeddings: in deberta-v3-base they are 53 % of all parameters, so that many
            gradients and Adam states are saved.
        freeze_layers: lowest layers that are not trained. The position embeddings of a DeBERTa are trained by the
            other layers alone, so that the backward pass ends above the frozen ones.
        reinit_layers: top layers that start from random weights (Zhang et al., arXiv 2006.05987).
    """

    pooling: str = setting("mean", choices=POOLINGS)
    head: str = setting(HEADS[0], choices=HEADS)
    dropout: float = setting(0.1, least=0, below=1)
    encoder_dropout: float = setting(OWN_DROPOUT, least=OWN_DROPOUT, below=1)
    side_bias: bool = setting(False)
    label_smoothing: float = setting(0.0, least=0, below=1)
    soft_temperature: float = setting(1.0, above=0, most=100)
    names_loss: float = setting(0.0, least=0, most=100)
    lora_rank: int = setting(0, least=0, most=1024)
    attention: str = setting("auto", choices=ATTENTIONS)
    freeze_embeddings: bool = setting(True)
    freeze_layers: int = setting(0, least=0)
    reinit_layers: int = setting(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if OWN_DROPOUT < self.encoder_dropout < 0:
            raise InputError(f"CFG.encoder_dropout is {self.encoder_dropout}; use a share from 0, or -1 to leave it.")
        asked = {
            "CFG.reinit_layers": (self.reinit_layers > 0, "0"),
            "CFG.freeze_embeddings": (not self.freeze_embeddings, "True"),
        }
        for name, (trained, wanted) in asked.items():
            if self.lora_rank and trained:
                raise InputError(
                    f"CFG.lora_rank is {self.lora_rank}, which trains adapters alone: set {name} to {wanted}, or "
                    "CFG.lora_rank to 0."
                )


def check_options(style: str, features: str, settings: ModelSettings) -> None:
    """Raise `InputError` for a head, a loss or a bias that the reading does not have, or of a text not read.

    Args:
        style, features: as in `Reading`.
    """
    pairwise = style == "pairwise"
    if not pairwise and (settings.head != HEADS[0] or settings.names_loss):
        field = "head" if settings.head != HEADS[0] else "names_loss"
        raise InputError(f"CFG.{field} needs CFG.style = 'pairwise', which reads each answer alone.")
    if pairwise and settings.head != HEADS[0] and settings.side_bias:
        raise InputError(f"CFG.side_bias needs CFG.head = {HEADS[0]!r}: {settings.head!r} has no such bias.")
    if features != "alone":
        return
    usual = ModelSettings()
    for field in ("lora_rank", "names_loss"):
        if getattr(settings, field):
            raise InputError(f"CFG.{field} trains the encoder, which CFG.features = 'alone' does not use; set it to 0.")
    for field in ("pooling", "head", "encoder_dropout", "side_bias", "reinit_layers"):
        if getattr(settings, field) != getattr(usual, field):
            raise InputError(
                f"CFG.{field} changes how the text is read, and CFG.features = 'alone' reads none; leave it at "
                f"{getattr(usual, field)!r}."
            )


@dataclass(frozen=True)
class Architecture:
    """What has to be known beside the encoder to build a model.

    Args:
        style, features: as in `Reading`.
        n_classes: 2, or 3 with ties.
        settings: of the model.
        names: chatbots that it learns to name; 0: none.

    Raises:
        InputError: a head or a bias that the reading has not, or something to train in an encoder that is not used.
    """

    style: str
    n_classes: int
    settings: ModelSettings
    features: str = "off"
    names: int = 0

    def __post_init__(self) -> None:
        check_options(self.style, self.features, self.settings)

    @classmethod
    def from_dict(cls, values: dict) -> "Architecture":
        """What `dataclasses.asdict` has made of one."""
        return cls(**values | {"settings": ModelSettings(**values["settings"])})


class PreferenceModel(nn.Module):
    """Encoder, pooling and head; and, where they are wanted, a network on counts and a head that names the chatbots.

    `forward` returns `loss` (a mean over rows, if there are labels) and `logits` (batch, classes).
    """

    # transformers >= 5 otherwise takes DeBERTa's forward(**kwargs) to mean that the model divides the loss
    # itself: the logged loss grows with accumulation steps and doubles under DataParallel (#47688).
    accepts_loss_kwargs = False

    def __init__(self, encoder: nn.Module, architecture: Architecture):
        super().__init__()
        settings, hidden = architecture.settings, encoder.config.hidden_size
        self.architecture, self.encoder = architecture, encoder
        self.head = make_head(
            architecture.style, hidden, architecture.n_classes, settings.dropout, settings.side_bias, settings.head
        )
        self.pool = AttentionPooling(hidden) if settings.pooling == "attention" else None
        self.counts = CountsHead(architecture.n_classes, settings.dropout) if architecture.features != "off" else None
        self.names = nn.Linear(hidden, architecture.names) if architecture.names else None
        self.most_tokens = max_tokens(encoder.config) or sys.maxsize
        if settings.encoder_dropout != OWN_DROPOUT:
            set_dropout(encoder, settings.encoder_dropout)

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, lengths=None) -> torch.Tensor:
        """One float32 vector a sequence: (batch, sequences, hidden).

        Args:
            input_ids, attention_mask: (batch, sequences, tokens); sequences is 2 for pairwise and 1 for joint.
            lengths: tokens of every sequence, padded on the right, as lists: then short and long ones go through the
                encoder apart, with less padding.
        """
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
        pooling = self.architecture.settings.pooling
        if pooling == "last4":
            out = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
            hidden = torch.stack(out.hidden_states[-4:]).float().mean(0)
        else:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0].float()
        if pooling == "cls":
            return hidden[:, 0]
        if self.pool is not None:
            return self.pool(hidden, attention_mask)
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        lengths: list[list[int]] | None = None,
        features: torch.Tensor | None = None,
        soft_labels: torch.Tensor | None = None,
        soft_weight: torch.Tensor | None = None,
        names: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Args as in `encode`, `CountsHead.forward`, `preference_loss` and `names_loss`. The loss in evaluation mode is
        the cross-entropy with the labels alone."""
        logits, vectors = 0.0, None
        if self.architecture.features != "alone":
            vectors = self.encode(input_ids, attention_mask, lengths)
            logits = self.head(vectors).float()
        if self.counts is not None:
            logits = logits + self.counts(features).float()
        if labels is None:
            return {"logits": logits}
        if not self.training:
            return {"loss": preference_loss(logits, labels), "logits": logits}
        settings = self.architecture.settings
        smoothing, temperature = settings.label_smoothing, settings.soft_temperature
        loss = preference_loss(logits, labels, smoothing, soft_labels, soft_weight, temperature)
        if self.names is not None and vectors is not None:
            loss = loss + settings.names_loss * names_loss(self.names(vectors).float(), names)
        return {"loss": loss, "logits": logits}


def build_model(
    folder: str | Path,
    tokenizer,
    style: str,
    class_shares: list[float],
    settings: ModelSettings | None = None,
    fit=None,
    features: str = "off",
    train: Dataset | None = None,
    seed: int = 0,
) -> PreferenceModel:
    """A pretrained encoder with a fresh head that starts at the constant predictor.

    Args:
        folder: Hugging Face model folder (safetensors, or a `.bin` read with weights_only).
        class_shares: share of each class among the training labels; their number is the number of classes.
        settings: the defaults of `ModelSettings` unless given.
        fit: called with encoder and tokenizer to make room for added tokens; `fit_embeddings` unless given.
        features: as in `Reading`. The network on counts is fitted here, so that the model starts where counts end.
        train: training rows from `encode_pairs`; needed for `features` and for `names_loss`.
        seed: of that fitting.

    Raises:
        InputError: unreadable weights, an architecture that is not an encoder of a known family, settings that exclude
            each other, or `names_loss` for rows without the chatbots' names.
    """
    settings = settings or ModelSettings()
    encoder = load_encoder(folder, settings.attention)
    (fit or fit_embeddings)(encoder, tokenizer)
    names = _chatbots(train) if settings.names_loss and features != "alone" else 0  # `Architecture` refuses "alone"
    model = PreferenceModel(encoder, Architecture(style, len(class_shares), settings, features, names))
    shares = list(class_shares)
    if model.counts is not None:
        if train is None:
            raise ValueError("Features need `train`, to be fitted on.")
        model.counts.fit(np.asarray(train["features"]), np.asarray(train["labels"]), shares, seed)
        shares = [1 / len(shares)] * len(shares)  # the counts know them; the text's logits start at 0
    model.head.set_prior(shares)
    _choose_trained(model)
    return model


def rebuild(folder: str | Path, architecture: Architecture) -> PreferenceModel:
    """The same architecture with fresh weights; `folder` holds the encoder's config.json."""
    encoder = fresh_encoder(folder, architecture.settings.attention)
    model = PreferenceModel(encoder, architecture)
    if architecture.settings.lora_rank:
        add_lora(encoder, architecture.settings.lora_rank, architecture.settings.freeze_layers)
    return model


def architecture_of(model: PreferenceModel) -> Architecture:
    """For `rebuild`: with the kind of attention that the encoder has now."""
    found = model.architecture
    return replace(found, settings=replace(found.settings, attention=attention_of(model.encoder)))


def set_dropout(encoder: nn.Module, share: float) -> None:
    """Another dropout everywhere in the encoder, attention included; its configuration stays what it was."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        if isinstance(getattr(module, "attention_dropout", None), float):  # ModernBERT's
            module.attention_dropout = share


def _chatbots(train: Dataset | None) -> int:
    """How many chatbots the rows name."""
    if train is None or "names" not in train.column_names:
        raise InputError("CFG.names_loss needs the columns model_a and model_b in the training file; set it to 0.")
    most = int(np.max(train["names"], initial=UNKNOWN))
    if most < 1:
        raise InputError("CFG.names_loss needs two chatbots with enough rows, but the training file names fewer.")
    return most + 1


def _choose_trained(model: PreferenceModel) -> None:
    """Freeze what is not trained, and start the top layers from random weights."""
    settings, encoder = model.architecture.settings, model.encoder
    layers = encoder_layers(encoder)
    if settings.freeze_layers + settings.reinit_layers > len(layers):
        raise InputError(
            f"CFG.freeze_layers ({settings.freeze_layers}) and CFG.reinit_layers ({settings.reinit_layers}) need "
            f"more than the model's {len(layers)} layers."
        )
    if model.architecture.features == "alone":
        encoder.requires_grad_(False)
        for part in (model.head, model.pool):
            if part is not None:
                part.requires_grad_(False)
        return
    embeddings = encoder_embeddings(encoder)
    if settings.freeze_layers == len(layers):
        inner = getattr(encoder, "encoder", None)
        if inner is not None and hasattr(inner, "rel_embeddings"):
            inner.requires_grad_(False)  # position embeddings too: frozen layers give them no gradient
    if settings.freeze_embeddings:
        embeddings.requires_grad_(False)
    for layer in layers[: settings.freeze_layers]:
        layer.requires_grad_(False)
    for layer in layers[len(layers) - settings.reinit_layers :]:
        for module in layer.modules():
            _reset(module, getattr(encoder.config, "initializer_range", 0.02))
    if settings.lora_rank:
        add_lora(encoder, settings.lora_rank, settings.freeze_layers)


def _reset(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        if module.bias is not None:  # ModernBERT has none
            nn.init.zeros_(module.bias)
