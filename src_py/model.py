"""An encoder with a preference head: build it, adapt it, save it, load it."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from src_py.config import check_choice
from src_py.env import TRAINED_MARKER
from src_py.errors import InputError
from src_py.fast_attention import FastEncoder, use_fast_attention
from src_py.heads import DavidsonHead, JointHead
from src_py.length_groups import length_groups
from src_py.text import STYLES
from src_py.tokenizer import newline_id, single_token_id

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

    def encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, lengths=None) -> torch.Tensor:
        """One float32 vector a sequence: (batch, sequences, hidden)."""
        batch, sequences, tokens = input_ids.shape
        ids, mask = (x.reshape(batch * sequences, tokens) for x in (input_ids, attention_mask))
        if lengths is None:
            return self._pooled(ids, mask).view(batch, sequences, -1)
        groups = length_groups([length for row in lengths for length in row])
        parts = [self._pooled(ids[rows, :longest], mask[rows, :longest]) for rows, longest in groups]
        places = torch.tensor([row for rows, _ in groups for row in rows]).argsort().to(ids.device, non_blocking=True)
        return torch.cat(parts)[places].view(batch, sequences, -1)

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


def build_model(
    folder: str | Path,
    tokenizer,
    style: str,
    class_shares: list[float],
    pooling: str = "mean",
    dropout: float = 0.1,
    side_bias: bool = False,
    label_smoothing: float = 0.0,
    fit=None,
    fast_attention: bool = True,
) -> PreferenceModel:
    """A pretrained encoder with a fresh head that starts at the constant predictor.

    Args:
        folder: Hugging Face model folder (safetensors, or a `.bin` read with weights_only).
        class_shares: share of each class among the training labels; their number is the number of classes.
        fit: called with encoder and tokenizer to make room for added tokens; `fit_embeddings` unless told otherwise.
        fast_attention: as in `load_encoder`.

    Raises:
        InputError: unreadable weights, or an architecture that is no bidirectional encoder.
    """
    check_choice("style", style, STYLES)
    encoder = load_encoder(folder, fast_attention)
    (fit or fit_embeddings)(encoder, tokenizer)
    head = _head(style, encoder.config.hidden_size, len(class_shares), dropout, side_bias)
    head.set_prior(list(class_shares))
    return PreferenceModel(encoder, head, pooling, label_smoothing)


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
            folder, config=config, dtype=torch.float32, local_files_only=True, weights_only=True, **_no_pooler(config)
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
        "fast_attention": any(isinstance(module, FastEncoder) for module in model.modules()),
    }


def model_from_settings(folder: str | Path, settings: dict) -> PreferenceModel:
    """The architecture of `model_settings` with fresh weights; `folder` holds the encoder's config.json."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_config(config, dtype=torch.float32, **_no_pooler(config))
    if settings["fast_attention"]:
        use_fast_attention(encoder)
    options = (settings["n_classes"], settings["dropout"], settings["side_bias"])
    head = _head(settings["style"], encoder.config.hidden_size, *options)
    return PreferenceModel(encoder, head, settings["pooling"], settings["label_smoothing"])


def adapt(model: PreferenceModel, freeze_embeddings: bool, freeze_layers: int, reinit_layers: int) -> None:
    """Freeze what shall not be trained and start the top layers afresh (Zhang et al., arXiv 2006.05987).

    Frozen embeddings keep no gradients and no Adam state: in deberta-v3-base they are 53 % of all parameters.
    """
    layers = encoder_layers(model.encoder)
    if freeze_layers + reinit_layers > len(layers) or min(freeze_layers, reinit_layers) < 0:
        raise InputError(
            f"CFG.freeze_layers ({freeze_layers}) and CFG.reinit_layers ({reinit_layers}) need "
            f"more than the model's {len(layers)} layers."
        )
    if freeze_embeddings:
        model.encoder.embeddings.requires_grad_(False)
    for layer in layers[:freeze_layers]:
        layer.requires_grad_(False)
    for layer in layers[len(layers) - reinit_layers :]:
        for module in layer.modules():
            _reset(module, getattr(model.encoder.config, "initializer_range", 0.02))


def save_trained(model: PreferenceModel, tokenizer, folder: str | Path, settings: dict) -> None:
    """Write encoder, tokenizer, head and settings as one folder, all weights as safetensors.

    The encoder alone can be read back with `AutoModel.from_pretrained(folder)`. The marker file comes last, so
    that a half-written folder is never taken for a trained one.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRAINED_MARKER).unlink(missing_ok=True)
        model.encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_file({k: v.contiguous().cpu() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")
        (folder / TRAINED_MARKER).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be written ({error}); free some space or set CFG.output_dir.") from error


def load_trained(folder: str | Path, fast_attention: bool = True) -> tuple[PreferenceModel, dict]:
    """Read a folder written by `save_trained`: the model in float32, eval mode, and its settings."""
    folder = Path(folder)
    try:
        settings = json.loads((folder / TRAINED_MARKER).read_text(encoding="utf-8"))
        encoder = load_encoder(folder, fast_attention)
        head = _head(settings["style"], encoder.config.hidden_size, settings["n_classes"], 0.0, settings["side_bias"])
        head.load_state_dict(load_file(folder / "head.safetensors"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The trained folder {folder} cannot be read ({type(error).__name__}: {error}); "
            "attach the complete output of a finished run."
        ) from error
    return PreferenceModel(encoder, head, settings["pooling"]).eval(), settings


def _no_pooler(config) -> dict:
    """BERT's own pooler would be a randomly used extra; a config without one takes it silently."""
    return {"add_pooling_layer": False} if config.model_type in ("bert", "roberta", "xlm-roberta") else {}


def _head(style: str, hidden_size: int, n_classes: int, dropout: float, side_bias: bool) -> nn.Module:
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
        nn.init.zeros_(module.bias)
