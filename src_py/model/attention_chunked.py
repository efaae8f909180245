"""The core of disentangled attention for a CPU: in place, a few heads at a time, with a backward pass of its own."""

import torch
from torch.autograd import Function

# Scores worked on at a time: on a CPU few enough to stay in its cache, on a GPU enough to fill it.
_CHUNK = {"cpu": 2**21, "cuda": 2**27}


class ChunkedCore(Function):
    """softmax(q k' + bias) v for (n, L, d) queries, keys and values, n = batch x heads.

    bias[i, j] = q[i] to_key[index[i, j]] + k[j] to_query[index[i, j]], both already scaled. A query that is padding
    itself gets the mean of all values, as in the stock code. Scores have at least 32 bits whatever comes in.
    """

    @staticmethod
    def forward(ctx, query, key, value, to_key, to_query, index, padding, dropout, recompute):
        n, length, _ = query.shape
        core = _Chunks(query, key, value, to_key, to_query, index, padding, dropout)
        keep = any(ctx.needs_input_grad) and not recompute
        probs = query.new_empty(n, length, length) if keep else None
        masks = query.new_empty(n, length, length, dtype=torch.bool) if keep and dropout else None
        out = torch.empty_like(query)
        for rows in core.chunks:
            p = core.probabilities(rows)
            if keep:
                probs[rows] = p
            if dropout:
                mask = core.dropout_mask(rows)
                if keep:
                    masks[rows] = mask
                p.mul_(mask)
            torch.bmm(p.to(value.dtype), value[rows], out=out[rows])
        out.mul_(core.upscale)
        ctx.save_for_backward(query, key, value, to_key, to_query, index, padding, out, probs, masks)
        ctx.dropout, ctx.seed = dropout, core.seed
        return out

    @staticmethod
    def backward(ctx, grad):
        query, key, value, to_key, to_query, index, padding, out, probs, masks = ctx.saved_tensors
        core = _Chunks(query, key, value, to_key, to_query, index, padding, ctx.dropout, ctx.seed)
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        d_positions = [None if x is None else torch.zeros_like(_wide(x)) for x in (to_key, to_query)]
        # Row sums of probability times its gradient; dropout leaves them what they are.
        sums = (_wide(grad) * _wide(out)).sum(-1, keepdim=True)
        grad = grad * core.upscale  # here rather than in every (L, L) array
        for rows in core.chunks:
            p = core.probabilities(rows) if probs is None else probs[rows]
            d_scores = _wide(torch.bmm(grad[rows], value[rows].transpose(1, 2)))
            if ctx.dropout:
                mask = core.dropout_mask(rows) if masks is None else masks[rows]
                dropped = p * mask
                d_scores.mul_(mask)
            else:
                dropped = p
            torch.bmm(dropped.to(grad.dtype).transpose(1, 2), grad[rows], out=d_value[rows])
            d_scores.sub_(sums[rows]).mul_(p)
            core.clear_padding(d_scores, rows)
            core.backward(d_scores, rows, d_query, d_key, d_positions)
        to = [None if d is None else d.to(x.dtype) for d, x in zip(d_positions, (to_key, to_query), strict=True)]
        return d_query, d_key, d_value, *to, None, None, None, None


def _wide(x: torch.Tensor) -> torch.Tensor:
    """At least 32 bits."""
    return x if x.dtype == torch.float64 else x.float()


class _Chunks:
    """The steps between projections and probabilities, for a slice of n = batch x heads at a time."""

    def __init__(self, query, key, value, to_key, to_query, index, padding, dropout, seed=None):
        n, length, _ = query.shape
        self.query, self.key, self.to_key, self.to_query, self.padding = query, key, to_key, to_query, padding
        self.heads = next((len(x) for x in (to_key, to_query) if x is not None), 1)
        size = max(1, _CHUNK.get(query.device.type, _CHUNK["cpu"]) // length**2)
        self.chunks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        self.index, self.seed = index, seed
        # Dropout in steps of 1 / 65,536: four elements for one random number of 64 bits, which is what takes the time.
        self.dropped = min(round(dropout * 2**16), 2**16 - 1)
        self.upscale = 2**16 / (2**16 - self.dropped)
        if dropout and seed is None:
            self.seed = int(torch.randint(2**62, (1,)))

    def probabilities(self, rows: slice) -> torch.Tensor:
        query, key = self.query[rows], self.key[rows]
        scores = _wide(torch.bmm(query, key.transpose(1, 2)))
        index = self.index.expand_as(scores)
        if self.to_key is not None:
            scores += torch.gather(torch.bmm(query, self._of(self.to_key, rows).transpose(1, 2)), 2, index)
        if self.to_query is not None:
            scores += torch.gather(torch.bmm(self._of(self.to_query, rows), key.transpose(1, 2)), 1, index)
        if self.padding is not None:
            padding, least = self._padding(rows), torch.finfo(scores.dtype).min
            scores.masked_fill_(padding[:, None, :], least).masked_fill_(padding[:, :, None], least)
        return torch.softmax(scores, -1, out=scores)

    def backward(self, d_scores, rows: slice, d_query, d_key, d_positions) -> None:
        """Gradients of queries, keys and position rows from those of the scores."""
        query, key = self.query[rows], self.key[rows]
        index, d = self.index.expand_as(d_scores), d_scores.to(query.dtype)
        torch.bmm(d, key, out=d_query[rows])
        torch.bmm(d.transpose(1, 2), query, out=d_key[rows])
        heads = self._head_numbers(rows)
        if self.to_key is not None:
            rows_of = self._of(self.to_key, rows)
            by_position = d_scores.new_zeros(len(d), d.shape[1], rows_of.shape[1]).scatter_add_(2, index, d_scores)
            by_position = by_position.to(query.dtype)
            d_query[rows] += torch.bmm(by_position, rows_of)
            d_positions[0].index_add_(0, heads, _wide(torch.bmm(by_position.transpose(1, 2), query)))
        if self.to_query is not None:
            rows_of = self._of(self.to_query, rows)
            by_position = d_scores.new_zeros(len(d), rows_of.shape[1], d.shape[1]).scatter_add_(1, index, d_scores)
            by_position = by_position.to(query.dtype)
            d_key[rows] += torch.bmm(by_position.transpose(1, 2), rows_of)
            d_positions[1].index_add_(0, heads, _wide(torch.bmm(by_position, key)))

    def dropout_mask(self, rows: slice) -> torch.Tensor:
        """What stays, the same for the same rows in forward and backward pass."""
        length, device = self.query.shape[1], self.query.device
        size = (rows.stop - rows.start) * length**2
        source = torch.Generator(device).manual_seed(self.seed + rows.start)
        random = torch.empty(-(-size // 4), dtype=torch.int64, device=device).random_(-(2**63), None, generator=source)
        kept = random.view(torch.int16)[:size] >= self.dropped - 2**15
        return kept.view(-1, length, length)

    def clear_padding(self, d_scores: torch.Tensor, rows: slice) -> None:
        if self.padding is not None:
            d_scores.masked_fill_(self._padding(rows)[:, :, None], 0)

    def _head_numbers(self, rows: slice) -> torch.Tensor:
        return torch.arange(rows.start, rows.stop, device=self.query.device) % self.heads

    def _of(self, positions: torch.Tensor, rows: slice) -> torch.Tensor:
        return positions[self._head_numbers(rows)]

    def _padding(self, rows: slice) -> torch.Tensor:
        of_head = len(self.query) // len(self.padding)
        return self.padding[torch.arange(rows.start, rows.stop, device=self.query.device) // of_head]
