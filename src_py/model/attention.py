"""Faster kinds of DeBERTa-v2/v3's disentangled attention: what they share, and how an encoder gets one."""

import importlib
import importlib.util
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.models.deberta_v2 import modeling_deberta_v2 as stock

from src_py.errors import InputError
from src_py.kaggle.session import to_device
from src_py.model.attention_cores import CORES, Mask, make_mask

FLASH = "disentangled_flash"  # a package with Triton kernels: used where somebody attached it, never required
KINDS = ("stock", *CORES, "flash")
ATTENTIONS = ("auto", *KINDS)
_KEPT_INDICES = 2**24  # numbers in the indices that are kept, 8 bytes each: those of all lengths up to 512, for example
# What a layer keeps for the backward pass, counted with `make trace`: bytes a score, and bytes a number of a token's
# hidden state. A trained weight takes 22 bytes: itself, its fp16 copy, two Adam moments, the gradient, and the copy of
# that for other GPUs; a frozen one 6 at most.
_SCORE_BYTES = {"chunked": 3, "lean": 5, "sdpa": 2}
_HIDDEN_BYTES, _TRAINED_BYTES, _FROZEN_BYTES = 84, 22, 6
_FRAGMENTS, _CONTEXT = 1.2, 1e9  # what the allocator cannot use, and what CUDA takes for itself


def default_attention() -> str:
    """The kind that "auto" means where nothing was measured: on a GPU the one that moves the fewest bytes."""
    return "sdpa" if torch.cuda.is_available() else "chunked"


def use_attention(encoder: nn.Module, kind: str = "auto", recompute: bool | None = None) -> bool:
    """Give a loaded DeBERTa-v2/v3 another kind of attention in place; weights, outputs and gradients stay the same.

    Per layer the stock code (modeling_deberta_v2.py) repeats position projections over the batch, gathers and clamps
    with an index of its own, and makes a new (batch x heads, L, L) array for every step from score to probability.
    The kinds of `attention_cores.CORES` share one index, which is made on the device, and one cast of the hidden
    states. Outputs at padding are not those of the stock code: nothing reads them. Frozen layers give the position
    embeddings no gradient, so that the backward pass ends above them.

    Args:
        kind: one of `ATTENTIONS`: "stock" undoes any other; "auto" is `default_attention`.
        recompute: compute the scores again in the backward pass instead of storing them: less memory, more time. By
            default this is done where a training step would not fit a GPU otherwise.

    Returns:
        False, and nothing is changed, for another architecture (BERT and its kin have a fused attention already).

    Raises:
        InputError: an unknown kind, a DeBERTa without relative attention, or "flash" where it cannot be used.
    """
    if kind not in ATTENTIONS:
        raise InputError(f"There is no attention {kind!r}; CFG.attention can be {', '.join(ATTENTIONS)}.")
    kind = default_attention() if kind == "auto" else kind
    _undo(encoder)
    found = [module for module in encoder.modules() if type(module) in _FAST]
    if not any(isinstance(module, stock.DebertaV2Encoder) for module in found):
        return False
    if kind == "stock":
        return True
    if not all(getattr(module, "relative_attention", True) for module in found):
        raise InputError("This DeBERTa has no relative attention; set CFG.attention to 'stock'.")
    if kind == "flash":
        _use_flash(encoder)
        return True
    for module in found:
        module.__class__ = _FAST[type(module)]
        if isinstance(module, FastEncoder):
            module.prepare(kind, recompute, sum(p.numel() for p in encoder.parameters()))
    return True


def attention_of(encoder: nn.Module) -> str:
    """The kind of attention that an encoder has: one of `KINDS`."""
    if hasattr(encoder, "before_flash"):
        return "flash"
    return next((module.kind for module in encoder.modules() if isinstance(module, FastEncoder)), "stock")


def flash_problem() -> str | None:
    """Why the kind "flash" cannot be used here; None where it can."""
    if importlib.util.find_spec(FLASH) is None:
        return f"the package {FLASH} is not attached"
    return None if torch.cuda.is_available() else "it needs a GPU"


def _use_flash(encoder: Any) -> None:
    if problem := flash_problem():
        raise InputError(f"CFG.attention is 'flash', but {problem}; set CFG.attention to 'auto'.")
    before = encoder.encoder, [layer.attention.self for layer in encoder.encoder.layer]
    importlib.import_module(FLASH).enable_deberta_training(encoder)
    if encoder.encoder is before[0]:
        raise InputError(f"{FLASH} does not support this model here; set CFG.attention to 'auto'.")
    encoder.before_flash = before  # a tuple: not registered as a part of the model


def _undo(encoder: Any) -> None:
    if hasattr(encoder, "before_flash"):
        encoder.encoder, attentions = encoder.before_flash
        for layer, attention in zip(encoder.encoder.layer, attentions, strict=True):
            layer.attention.self = attention
        del encoder.before_flash
    back = {fast: kind for kind, fast in _FAST.items()}
    for module in encoder.modules():
        if isinstance(module, FastEncoder):
            module.forget()
        if type(module) in back:
            module.__class__ = back[type(module)]


def distance_table(reach: int, buckets: int, max_distance: int, span: int) -> np.ndarray:
    """Row of the position embeddings for every distance from -reach to reach: int64 (2 reach + 1,).

    `make_log_bucket_position` of transformers in numpy: in torch it would copy between the devices in every call.
    """
    distance = np.arange(-reach, reach + 1)
    if buckets > 0 and max_distance > 0:
        middle = buckets // 2
        far = np.maximum(np.abs(distance), middle).astype(np.float32)
        scale = np.log(np.float32((max_distance - 1) / middle))
        log = np.ceil(np.log(far / np.float32(middle)) / scale * np.float32(middle - 1)) + middle
        distance = np.where(np.abs(distance) <= middle, distance, log * np.sign(distance)).astype(np.int64)
    return (distance + span).clip(0, 2 * span - 1)


class Positions(NamedTuple):
    """Which of the position embeddings low:high belongs to query i and key j: `index` (L, L), counted from low."""

    index: torch.Tensor
    low: int
    high: int
    kind: str
    recompute: bool


class FastEncoder(stock.DebertaV2Encoder):
    """Makes positions and mask once for all layers, without a copy between the devices that the host waits for."""

    def prepare(self, kind: str, recompute: bool | None, size: int) -> None:
        """What the stock class does not have; `forget` takes it away again. `size`: parameters of the whole model."""
        self.outside = size - sum(p.numel() for p in self.parameters())
        self.kind, self.recompute, self.dtype = kind, recompute, torch.float32
        self.indices: dict[tuple, Positions] = {}

    def forget(self) -> None:
        for name in ("kind", "recompute", "dtype", "indices", "outside"):
            delattr(self, name)

    def forward(self, hidden_states, attention_mask, *args, **kwargs):
        self.dtype = compute_dtype(hidden_states)
        return super().forward(hidden_states, attention_mask, *args, **kwargs)

    def get_attention_mask(self, attention_mask) -> Mask | None:
        """Where padding is; None where there is none."""
        if attention_mask.dim() > 2:
            raise InputError("The fast attention wants a mask (batch, tokens); set CFG.attention to 'stock'.")
        padding = ~attention_mask.bool()
        # To look would make the host wait for a GPU; an unneeded mask costs less.
        return make_mask(padding, self.dtype) if padding.is_cuda or padding.any() else None

    def get_rel_embedding(self) -> torch.Tensor:
        """Cast once, rather than by every layer."""
        return super().get_rel_embedding().to(self.dtype)

    def get_rel_pos(self, hidden_states, query_states=None, relative_pos=None) -> Positions:
        if query_states is not None or relative_pos is not None:
            raise InputError("The fast attention makes its own positions; set CFG.attention to 'stock'.")
        found = self._positions(hidden_states.shape[1], hidden_states.device)
        recompute = self.recompute
        if recompute is None:
            recompute = self._needed(hidden_states) > _memory(hidden_states.device)
        return found._replace(recompute=recompute)

    def _needed(self, hidden_states: torch.Tensor) -> float:
        """Bytes that a training step takes when the scores are stored, about."""
        batch, length, _ = hidden_states.shape
        trained = [layer for layer in self.layer if _is_trained(layer)]
        attention = self.layer[0].attention.self
        token = _HIDDEN_BYTES * attention.all_head_size
        token += _SCORE_BYTES[self.kind] * attention.num_attention_heads * length
        weights = sum(p.numel() * (_TRAINED_BYTES if p.requires_grad else _FROZEN_BYTES) for p in self.parameters())
        weights += self.outside * (_TRAINED_BYTES if hidden_states.requires_grad else _FROZEN_BYTES)
        return _FRAGMENTS * (weights + len(trained) * batch * length * token) + _CONTEXT

    def _positions(self, length: int, device: torch.device) -> Positions:
        """Made once for a length and device; the oldest are dropped when they take too much memory."""
        key = length, device
        found = self.indices.pop(key, None) or self._make_positions(length, device)
        self.indices[key] = found  # the newest
        while len(self.indices) > 1 and sum(one.index.numel() for one in self.indices.values()) > _KEPT_INDICES:
            del self.indices[next(iter(self.indices))]
        return found

    def _make_positions(self, length: int, device: torch.device) -> Positions:
        span = self._span()
        table = distance_table(length - 1, self.position_buckets, self.max_relative_positions, span)
        low, high = aligned(int(table.min()), int(table.max()) + 1, 2 * span)
        with torch.inference_mode(False):  # a training may need it after a prediction
            rows = to_device(torch.from_numpy(table - low), device)
            place = torch.arange(length, device=device)
            index = rows[place[:, None] - place + length - 1]
        return Positions(index, low, high, self.kind, False)

    def _span(self) -> int:
        return self.position_buckets if self.position_buckets > 0 else self.max_relative_positions


class FastSelfAttention(stock.DisentangledSelfAttention):
    """The same projections as the stock module's; the rest is done by one of `CORES`."""

    def forward(
        self,
        hidden_states,
        attention_mask,
        output_attentions=False,
        query_states=None,
        relative_pos=None,
        rel_embeddings=None,
    ):
        if output_attentions:
            raise InputError("The fast attention keeps no probabilities to show; set CFG.attention to 'stock'.")
        kinds = [kind for kind in ("c2p", "p2c") if kind in self.pos_att_type]
        scale = 1 / math.sqrt(self.attention_head_size * (1 + len(kinds)))
        tokens = hidden_states.to(compute_dtype(hidden_states))  # once, rather than by each of three projections
        query, key, value = (
            self._heads(project(tokens)) for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        if not _is_trained(self):
            # The backward pass would cross all frozen layers only to reach the position embeddings.
            rel_embeddings = rel_embeddings.detach()
        # Only the rows that this length can reach.
        positions = self.pos_dropout(rel_embeddings[None, relative_pos.low : relative_pos.high])
        to_key = to_query = None
        if "c2p" in kinds:
            to_key = self._rows((self.key_proj if self.share_att_key else self.pos_key_proj)(positions))
        if "p2c" in kinds:
            to_query = self._rows((self.query_proj if self.share_att_key else self.pos_query_proj)(positions))
        dropout = self.dropout.p if self.training else 0.0
        core = CORES[relative_pos.kind]
        found = core(query, key, value, to_key, to_query, relative_pos, attention_mask, scale, dropout)
        return found.reshape(*hidden_states.shape[:2], -1), None

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden) to (batch, tokens, heads, head size)."""
        return x.unflatten(-1, (self.num_attention_heads, -1))

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """(1, rows, hidden) to (heads, rows, head size)."""
        return self._heads(x)[0].transpose(0, 1)


_FAST: dict[type, type] = {
    stock.DebertaV2Encoder: FastEncoder,
    stock.DisentangledSelfAttention: FastSelfAttention,
}


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What autocast computes products of `x` in; its own type where autocast is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def aligned(low: int, high: int, rows: int) -> tuple[int, int]:
    """The range low:high of `rows` rows, widened to a multiple of 8 where there is room: tensor cores want that."""
    width = min(rows, -(-(high - low) // 8) * 8)
    low = min(low, rows - width)
    return low, low + width


def _memory(device: torch.device) -> float:
    """Bytes of a GPU that this process may use; a CPU's memory is treated as unlimited."""
    if device.type != "cuda":
        return math.inf
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)  # not in every torch
    return share * torch.cuda.get_device_properties(device).total_memory
