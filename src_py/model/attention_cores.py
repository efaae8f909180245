"""The cores of disentangled attention: from queries, keys, values and position rows to what a layer passes on.

Every core takes queries, keys and values (batch, L, heads, d), position rows for queries `to_key` and for keys
`to_query` (heads, rows, d) or None, `positions` (which row belongs to query i and key j), a `Mask` or None, the scale
of the scores, and the dropout probability. It returns (batch, L, heads, d):

    softmax(scale (q[i] k[j] + q[i] to_key[index[i, j]] + k[j] to_query[index[i, j]])) v[j]

Scores are scaled before the product: one of fp16 numbers must not pass 65,504 on its way.

A sequence of nothing but padding gets the mean of its values at every place, as in the stock code.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from src_py.model.attention_chunked import ChunkedCore

# The score of a key that is padding, so large that other scores added to it vanish in rounding; fp16 ends at 65,504.
_LEAST = {torch.float16: -6e4}
_LEAST_WIDE = -1e32
_ALIGNED = 8  # numbers added to a head's size, so that its rows still start at multiples of 16 bytes


class Mask(NamedTuple):
    """Padding in the forms that the cores want.

    `padding` bool (batch, L); `alive` (batch, 1, 1, 1): 0 for a sequence of nothing but padding, else 1; `least`
    (batch, L, 1, 8): in its first column the least score where padding is.
    """

    padding: torch.Tensor
    alive: torch.Tensor
    least: torch.Tensor


def make_mask(padding: torch.Tensor, dtype: torch.dtype) -> Mask:
    """The mask for padding (batch, L), for scores of `dtype`."""
    alive = (~padding).any(1)[:, None, None, None].to(dtype)
    least = functional.pad((padding.to(dtype) * _LEAST.get(dtype, _LEAST_WIDE))[:, :, None, None], (0, _ALIGNED - 1))
    return Mask(padding, alive, least)


def sdpa(query, key, value, to_key, to_query, positions, mask, scale, dropout):
    """Position scores as the bias of `scaled_dot_product_attention`, whose memory-efficient kernel keeps no others."""

    def core(query, key, value, to_key, to_query):
        query, bias = _position_scores(query, key, to_key, to_query, positions.index, mask, scale)
        found = functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (query, key, value)),
            None if bias is None else bias.transpose(0, 1),
            dropout,
            scale=scale,
        )
        return found.transpose(1, 2)

    return _run(core, positions.recompute, query, key, value, to_key, to_query)


def lean(query, key, value, to_key, to_query, positions, mask, scale, dropout):
    """Scores in the inputs' 16 bits up to the softmax, which computes in 32, and one kernel for dropout."""

    def core(query, key, value, to_key, to_query):
        query, bias = _position_scores(query, key, to_key, to_query, positions.index, mask, scale)
        with torch.autocast(query.device.type, enabled=False):
            # Heads first, as the position scores are.
            query, key, value = (x.permute(2, 0, 1, 3).flatten(0, 1) for x in (query, key, value))
            query, key = query * scale, key.transpose(1, 2)
            if bias is None:
                scores = torch.bmm(query, key)
            else:
                scores = torch.baddbmm(bias.flatten(0, 1).to(query.dtype), query, key)
            probabilities = functional.dropout(torch.softmax(scores, -1), dropout)
            return torch.bmm(probabilities, value).unflatten(0, (heads, -1)).permute(1, 2, 0, 3)

    heads = query.shape[2]
    return _run(core, positions.recompute, query, key, value, to_key, to_query)


def chunked(query, key, value, to_key, to_query, positions, mask, scale, dropout):
    """A few heads at a time, in a processor's cache: see `ChunkedCore`."""
    heads = query.shape[2]
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    found = ChunkedCore.apply(
        query * scale,
        key,
        value,
        to_key,
        None if to_query is None else to_query * scale,
        positions.index,
        None if mask is None else mask.padding,
        dropout,
        positions.recompute,
    )
    return found.unflatten(0, (-1, heads)).transpose(1, 2)


CORES: dict[str, Callable] = {"chunked": chunked, "lean": lean, "sdpa": sdpa}


def _position_scores(query, key, to_key, to_query, index, mask, scale):
    """Queries without those of dead sequences, and the position scores (heads, batch, L, L) or None."""
    if mask is not None:
        query = query * mask.alive
    batch, length = query.shape[:2]
    scores = None
    if to_key is not None:
        # One product a head for the whole batch: position rows need no copy a sequence.
        found = torch.bmm(_by_head(query), (to_key * scale).transpose(1, 2)).unflatten(1, (batch, length))
        scores = found.gather(3, index.expand(*found.shape[:2], length, length))
    if to_query is not None:
        if mask is not None:  # one more number a key, which the product adds to all of its scores
            key_and_mask = torch.cat([key, mask.least.expand(-1, -1, key.shape[2], -1)], -1)
            to_query = functional.pad(to_query * scale, (0, _ALIGNED), value=1.0)
        else:
            key_and_mask, to_query = key, to_query * scale
        found = torch.bmm(to_query, _by_head(key_and_mask).transpose(1, 2)).unflatten(2, (batch, length))
        found = found.gather(1, index[:, None].expand(len(found), length, batch, length)).transpose(1, 2)
        scores = found if scores is None else scores.add_(found)
    elif mask is not None:
        least = mask.least[None, :, None, :, 0, 0]
        scores = least.expand(query.shape[2], -1, length, -1) if scores is None else scores + least
    return query, scores


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """(batch, L, heads, d) to (heads, batch x L, d), without a copy."""
    return x.flatten(0, 1).transpose(0, 1)


def _run(core: Callable, recompute: bool, *tensors):
    return checkpoint(core, *tensors, use_reentrant=False) if recompute else core(*tensors)
