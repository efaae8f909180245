"""Does every way to compute the attention give what the stock one gives, and what exact arithmetic gives?"""

import copy
from collections.abc import Iterator

import torch

from benchmarks.gpu import candidates
from benchmarks.gpu.rows import Row, judged, skipped
from benchmarks.gpu.scale import LOSS_SCALE, Scale

LENGTHS = (512, 333)
# Rounding of fp32 over a few layers; a fault of 1 % in one layer is far above it.
LEAST_NOISE = {"fp32": 1e-5, "fp16": 1e-3}
TIMES_STOCK = 2.0  # another order of the same fp16 operations may round twice as badly as the stock one
SMALL = 0.01  # gradients of less than this share of the largest one are judged by that share


def equal(scale: Scale) -> Iterator[Row]:
    """Outputs and gradients in fp32 and fp16, against fp64; with padding, an odd length and a row of padding alone.

    A way is right if it is no further from fp64 than twice the stock one, and from the stock one no further than the
    two distances from fp64 together.
    """
    usable, missing = candidates.usable(scale.device)
    for kind, why in missing.items():
        yield skipped(f"attention {kind} equals stock", why)
    encoder = scale.encoder("base", layers=2, vocabulary=1000, dropout=0.0)
    for tokens in LENGTHS:
        ids, mask = _batch(scale.tokens(tokens), scale.device)
        candidates.switch(encoder, candidates.STOCK)
        truth = _run(copy.deepcopy(encoder).double(), ids, mask, None)
        for precision in ("fp32", "fp16"):
            dtype = torch.float16 if precision == "fp16" else None
            found = {}
            for kind in usable:
                candidates.switch(encoder, kind)
                found[kind] = _run(encoder, ids, mask, dtype)
            yield from judge(f"{precision}, {ids.shape[1]} tokens", precision, truth, found)


def judge(where: str, precision: str, truth: dict, found: dict[str, dict]) -> Iterator[Row]:
    """A row for each kind but the stock one.

    Args:
        truth: tensors by name: the output and every gradient.
        found: the same of every kind, with "stock".
    """
    stock = distance(found[candidates.STOCK], truth)
    limit = max(TIMES_STOCK * stock, LEAST_NOISE[precision])
    for kind, tensors in found.items():
        if kind == candidates.STOCK:
            continue
        error, apart = distance(tensors, truth), distance(tensors, found[candidates.STOCK])
        yield judged(
            f"attention {kind} equals stock, {where}",
            f"at most {limit:.1e} from fp64 (stock {stock:.1e})",
            f"{error:.1e} from fp64, {apart:.1e} from stock",
            error <= limit and apart <= limit + stock,
        )


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The greatest distance of a tensor from what it should be, as a share of its size; inf for NaN.

    Gradients that are small beside the largest one (a key's bias has none but rounding) count as a share of that.
    """
    sizes = {name: float(value.norm()) for name, value in expected.items()}
    floor = SMALL * max((size for name, size in sizes.items() if name != OUTPUT), default=0.0)
    errors = []
    for name, value in expected.items():
        error = float((found[name] - value).norm()) / max(sizes[name], 0.0 if name == OUTPUT else floor)
        errors.append(error if error == error else float("inf"))
    return max(errors)


OUTPUT = "output"


def _batch(tokens: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A full row, one with padding, and one that is nothing but padding."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 600, (3, tokens), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, 2 * tokens // 3 :] = 0
    mask[2] = 0
    return ids.to(device), mask.to(device)


def _run(encoder, ids, mask, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Hidden states of all tokens but padding, whether padding is finite, and the gradients, in float64."""
    encoder.zero_grad(set_to_none=True)
    with torch.autocast(ids.device.type, dtype or torch.float16, enabled=dtype is not None):
        hidden = encoder(input_ids=ids, attention_mask=mask)[0]
    kept = hidden[mask.bool()].double()
    weights = torch.randn(kept.shape, generator=torch.Generator().manual_seed(1)).to(kept)
    ((kept * weights).sum() / weights.numel() ** 0.5 * LOSS_SCALE).backward()
    gradients = {name: p.grad.double() / LOSS_SCALE for name, p in encoder.named_parameters() if p.grad is not None}
    finite = kept if bool(torch.isfinite(hidden).all()) else torch.full_like(kept, torch.nan)
    return {OUTPUT: finite.detach()} | gradients
