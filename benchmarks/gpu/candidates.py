"""The ways to compute DeBERTa's attention, and which of them run here."""

import torch
from torch import nn
from transformers import DebertaV2Model

from benchmarks.bench_training import v3_config
from src_py.errors import InputError
from src_py.model.attention import use_fast_attention, use_stock_attention

STOCK, OWN = "stock", ("lean", "sdpa")
KINDS = ("stock", "chunked")


def switch(encoder: nn.Module, kind: str) -> None:
    """Let `encoder` compute its attention in the way `kind`; weights stay."""
    use_stock_attention(encoder)
    if kind != STOCK:
        use_fast_attention(encoder)


def usable(device: str, kinds: tuple[str, ...] = KINDS) -> tuple[list[str], dict[str, str]]:
    """The kinds that run on `device`, and for each other one why not."""
    found, missing = [], {}
    ids = torch.ones(1, 16, dtype=torch.long, device=device)
    for kind in kinds:
        encoder = DebertaV2Model(v3_config(1, 128)).to(device)
        try:
            switch(encoder, kind)
        except (InputError, ImportError) as error:
            missing[kind] = str(error).splitlines()[0]
            continue
        with torch.autocast(device, torch.float16), torch.no_grad():
            encoder(input_ids=ids)
        found.append(kind)
    return found, missing


def preferred(device: str) -> str:
    """The last of ours for a GPU that runs here, or the last of all: what checks of other things use."""
    found, _ = usable(device)
    return next((kind for kind in reversed(found) if kind in OWN), found[-1])
