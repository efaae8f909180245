"""The ways to compute DeBERTa's attention, and which of them run here."""

import torch
from torch import nn
from transformers import DebertaV2Model

from benchmarks.bench_training import v3_config
from src_py.model.attention import KINDS, use_attention

STOCK, OWN = "stock", ("lean", "sdpa")  # OWN: made for a GPU


def switch(encoder: nn.Module, kind: str) -> None:
    """Let `encoder` compute its attention in the way `kind`; weights stay."""
    use_attention(encoder, kind)


def usable(device: str, kinds: tuple[str, ...] = KINDS) -> tuple[list[str], dict[str, str]]:
    """The kinds that run on `device`, and for each other one why not."""
    found, missing = [], {}
    ids = torch.ones(1, 16, dtype=torch.long, device=device)
    for kind in kinds:
        encoder = DebertaV2Model(v3_config(1, 128)).to(device)
        try:
            switch(encoder, kind)
            with torch.autocast(device, torch.float16), torch.no_grad():
                encoder(input_ids=ids)
        except Exception as error:  # an attached package and its compiler raise their own
            missing[kind] = (str(error).strip().splitlines() or [type(error).__name__])[0]
            continue
        found.append(kind)
    return found, missing
