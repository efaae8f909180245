"""Checks of a model's weights, embeddings, range and memory."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.settings import CODE
from src_py.doctor.untouched import recomputes
from src_py.model.families import max_tokens

FP16_MAX = 65504.0
PIECE = 2**22  # values that are looked at together: 16 MB in float32


def check_weights_dtype(setup: Setup) -> Finding:
    """transformers 5 loads the public fp16 checkpoints as fp16: GradScaler refuses, or AdamW's updates round away."""
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in setup.model.parameters() if p.requires_grad})
    wrong = kinds not in ([], ["float32"])
    if not wrong:
        return Finding("weights", PASS, ", ".join(kinds), "float32")
    advice = "Load the encoder with from_pretrained(..., dtype=torch.float32); autocast does the half precision."
    return Finding("weights", FAIL, ", ".join(kinds), "float32", advice, {"dtype": torch.float32})


def check_sequence_length(setup: Setup) -> Finding:
    """BERT and RoBERTa have a fixed number of positions; DeBERTa-v3's relative ones have no limit."""
    name, config = "sequence length", getattr(encoder_of(setup.model), "config", None)
    limit = None if config is None else max_tokens(config)
    if not setup.reads_tokens:
        return Finding(name, SKIP, "the batches have no input_ids: no text")
    if limit is None or limit < 1:
        return Finding(name, PASS, f"{setup.longest} tokens", "no limit")
    advice = f"This model reads {limit} tokens at most: set {setup.setting('max_length')} to {limit} or less."
    change = {"max_length": limit}
    return judge(name, setup.longest, advice, fail=(None, limit), form="{:.0f} tokens", change=change)


def check_embedding_rows(setup: Setup) -> Finding:
    """Tokens without a row crash or read another token's row; resizing to the tokenizer's length shrinks DeBERTa-v3."""
    name, limit = "embedding rows", "at least the tokenizer's tokens"
    if setup.tokenizer is None:
        return Finding(name, SKIP, "no tokenizer given", limit)
    encoder = encoder_of(setup.model)
    rows, tokens = encoder.get_input_embeddings().num_embeddings, len(setup.tokenizer)
    measured = f"{rows:,} rows, {tokens:,} tokens"
    if rows < tokens:
        how = "fit_embeddings(encoder, tokenizer)" if setup.ours else "model.resize_token_embeddings(len(tokenizer))"
        return Finding(name, FAIL, measured, limit, f"Enlarge the matrix: {_enlarge(setup)}.", {CODE: ("", how)})
    original = _original_rows(encoder)
    if original and rows < original:
        advice = (
            f"resize_token_embeddings cut {original - rows} pretrained rows: only ever enlarge ({_enlarge(setup)})."
        )
        return Finding(name, WARN, measured, f"{original:,} pretrained", advice)
    return Finding(name, PASS, measured, limit)


def check_added_tokens(setup: Setup) -> Finding:
    """Mean-resizing gives new tokens near-zero rows; frozen embeddings keep them so."""
    name = "added tokens' norms"
    if setup.tokenizer is None:
        return Finding(name, SKIP, "no tokenizer given")
    special = set(setup.tokenizer.all_special_ids)
    norms = encoder_of(setup.model).get_input_embeddings().weight.detach().float().norm(dim=1).cpu()
    added = [i for i in setup.tokenizer.get_added_vocab().values() if i not in special and i < len(norms)]
    if not added:
        return Finding(name, PASS, "none added")
    ratios = norms[added] / norms[: len(setup.tokenizer)].median()
    worst = ratios[ratios.log().abs().argmax()].item()
    copy = "fit_embeddings" if setup.ours else "embeddings.weight[new] = embeddings.weight[old]"
    # Pretrained rows lie within a factor of two of their median; mean-resizing gives 0.02 of it.
    return judge(
        name, worst, f"Copy the row of a related pretrained token ({copy}).", warn=(0.25, 4),
        form="{:.2f} of the median", note=f" ({len(added)} tokens)",
    )  # fmt: skip


def check_fp16_headroom(setup: Setup) -> Finding:
    """The largest value of any product and the largest attention logit, against fp16's 65,504.

    Measured in float32: in fp16 what overflows is infinite, and masked entries are too. Nothing is kept for a backward
    pass, and values are looked at in pieces, so that this takes less memory than a training step in fp16.
    """
    setup.model.eval()
    rows = setup.batch(setup.sample[: min(8, setup.micro_batch)])
    with torch.no_grad(), _LargestValue() as largest:
        setup.trainer.compute_loss(setup.model, setup.again(rows))
    used = setup.scaler().is_enabled()
    verb, change = ("set", _more_range()) if used else ("keep", {})
    advice = f"{largest.where} overflows in fp16: {verb} {setup.setting('fp32')}"
    advice += f", or {setup.setting('bf16')} where it is native."
    # Training lets activations grow; a quarter leaves room for a factor of four.
    return judge(
        "fp16 head-room", largest.value, advice, warn=(None, FP16_MAX / 4),
        fail=(None, FP16_MAX if used else None), form="{:,.0f}", note=f" ({largest.where})", change=change,
    )  # fmt: skip


def check_memory(setup: Setup) -> Finding:
    """Weights, gradients, Adam state and what one forward pass keeps for the backward, against the card.

    The activations are counted on the longest rows of the sample, two of them, and scaled to a micro-batch.
    """
    model = setup.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    order = sorted(range(len(setup.sample)), key=lambda i: -setup.lengths[i])
    rows = [setup.sample[i] for i in order[: min(2, setup.micro_batch)]]
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = setup.loss(setup.batch(rows))
    stored = sum(size for pointer, size in kept.items() if pointer not in own)
    activations = stored * setup.micro_batch / len(rows)
    del loss
    # For each trained float32 weight: 4 bytes of gradient and 8 of Adam's two moments.
    needed = weights + (4 + 8) * trainable + activations
    recomputed = recomputes(setup.args)
    note = ", without activations" if recomputed else f", of it activations {activations / 1e9:.1f}"
    card = setup.card_bytes or (torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None)
    if card is None:
        return Finding("memory", SKIP, f"no GPU to hold {needed / 1e9:.1f} GB{note}")
    advice = f"Halve {setup.setting('micro_batch')} (accumulation makes up for it), or lower "
    # Context, buckets and fragmentation take the rest (facts: 1 GB and 10 to 20 %). Other optimizers need less than is
    # counted here, and activations that are computed again are not counted: then only a warning.
    rough = recomputed or not adam(setup)
    return judge(
        "memory", needed / 1e9, f"{advice}{setup.setting('max_length')}.", warn=(None, 0.85 * card / 1e9),
        fail=(None, None if rough else card / 1e9), form="{:.1f} GB", note=note,
        change=_fewer_at_once(setup.micro_batch, activations, 0.85 * card - (needed - activations)),
    )  # fmt: skip


# In the order of their effect in the posted notebook, after those of `checks_learning`.
MODEL_CHECKS = (check_fp16_headroom, check_added_tokens, check_memory)


class _LargestValue(TorchFunctionMode):
    """Watches matrix products, linear layers and softmax inputs; masked entries (below -1e30) do not count."""

    NAMES = ("matmul", "bmm", "linear", "baddbmm", "__matmul__", "addmm")

    def __init__(self):
        super().__init__()
        self.value, self.where = 0.0, "nothing"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "softmax":  # before, since it may write its result over them
            self._look(args[0], "attention logit")
        out = function(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            given = dict(zip(("query", "key", "value", "attn_mask"), args)) | kwargs
            self._look_at_logits(given["query"], given["key"], given.get("attn_mask"), given.get("scale"))
        elif name in self.NAMES:
            self._look(out, "matrix product")
        return out

    def _look_at_logits(self, query, key, attn_mask, scale) -> None:
        """Fused attention never holds all logits at once, and neither does this: one sequence, one head at a time."""
        heads, rows, columns = query.shape[:-2], query.shape[-2], key.shape[-2]
        key = key.expand(*heads, columns, key.shape[-1])
        has_bias = attn_mask is not None and attn_mask.is_floating_point()
        bias = attn_mask.expand(*heads, rows, columns) if has_bias else None
        for head in np.ndindex(*heads):
            logits = query[head].float() @ key[head].float().T * (scale or query.shape[-1] ** -0.5)
            self._look(logits if bias is None else logits + bias[head], "attention logit")

    def _look(self, tensor: torch.Tensor, where: str) -> None:
        if tensor.is_floating_point() and tensor.numel():
            largest = max(map(_largest, tensor.detach().reshape(-1).split(PIECE)))
            if largest > self.value:
                self.value, self.where = largest, where


def _largest(values: torch.Tensor) -> float:
    magnitudes = values.float().abs()
    return torch.where(magnitudes > 1e30, 0.0, magnitudes).max().item()


def encoder_of(model):
    """The pretrained part of a model, without its head; the model itself where that is not known."""
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model  # of one with adapters (peft)
    if isinstance(inside, PreTrainedModel):
        return inside.base_model
    if hasattr(inside, "encoder") and hasattr(inside.encoder, "get_input_embeddings"):
        return inside.encoder
    held = next((module for module in inside.modules() if isinstance(module, PreTrainedModel)), inside)
    return getattr(held, "base_model", held)


def pretrained(model) -> bool:
    """Whether the model has an encoder of transformers, for which rates of fine-tuning are known."""
    return isinstance(encoder_of(model), PreTrainedModel)


def adam(setup: Setup) -> bool:
    """Whether training uses an Adam with two float32 moments."""
    optimizer = setup.trainer.optimizer
    if optimizer is not None:
        return "adam" in type(optimizer).__name__.lower()
    return str(getattr(setup.args.optim, "value", setup.args.optim)).startswith("adamw_torch")


def _more_range() -> dict:
    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"precision": "bf16" if native else "fp32"}


def _fewer_at_once(rows: int, activations: float, room: float) -> dict:
    """As many rows of a pass of `rows` as there is room for the activations of; nothing where not even one has it."""
    fewer = int(rows * room / activations) if activations > 0 else 0
    return {"micro_batch": fewer} if fewer >= 1 else {}


def _original_rows(encoder) -> int | None:
    path = Path(getattr(encoder.config, "_name_or_path", "") or "") / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError):
        return None


def _enlarge(setup: Setup) -> str:
    return "fit_embeddings" if setup.ours else "resize_token_embeddings where the tokenizer has more tokens than rows"
