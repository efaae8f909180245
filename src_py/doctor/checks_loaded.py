"""Check that the encoder's weights are those of its checkpoint, and not fresh ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.activations import ACT2FN

from src_py.doctor.checks_model import encoder_of
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup
from src_py.model.encoder import encoder_layers

ROWS = 4096  # of a matrix that are compared: the first ones
ALIKE = 0.5  # cosine with the checkpoint's tensor: of fresh weights about 0, of fine-tuned ones above 0.9


def check_loaded_weights(setup: Setup) -> Finding:
    """Every tensor of the encoder is like the checkpoint's tensor of the same name; fresh ones are named."""
    name, limit = "pretrained weights", "all loaded"
    encoder = encoder_of(setup.model)
    folder = Path(getattr(getattr(encoder, "config", None), "_name_or_path", "") or "")
    files = _files(folder)
    if not files:
        return Finding(name, SKIP, "the checkpoint's safetensors are not at hand", limit)
    own = {_plain(n): p for n, p in encoder.named_parameters() if "lora_" not in n and "pooler" not in n}
    meant = _meant_to_be_fresh(setup, encoder)
    own = {n: p for n, p in own.items() if id(p) not in meant}
    alike, compared = set(), set()
    for key, tensor in _tensors(files, set(own)):
        compared.add(key)
        if _cosine(own[key].detach()[:ROWS], tensor) > ALIKE:
            alike.add(key)
    if not compared & {n for n, p in own.items() if p.ndim > 1}:
        advice = "No name in the checkpoint is one of the model's: was it saved from a wrapper, with a prefix?"
        return Finding(name, WARN, "0 names match", limit, advice)
    fresh = [n for n in own if n not in alike]
    share = sum(own[n].numel() for n in fresh) / sum(p.numel() for p in own.values())
    advice = f"{', '.join(fresh[:3])}{' and others' if len(fresh) > 3 else ''} are not the checkpoint's: load with "
    advice += "from_pretrained and read what it says of missing and unexpected keys."
    status = FAIL if share > 0.25 else WARN if fresh else PASS
    return Finding(name, status, f"{share:.0%} of the encoder fresh", limit, advice if fresh else "")


def check_activation(setup: Setup) -> Finding:
    """The encoder has the activation that its configuration names."""
    encoder = encoder_of(setup.model)
    config = getattr(encoder, "config", None)
    named = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    if not isinstance(named, str) or named not in ACT2FN:
        return Finding("activation", SKIP, "none is configured")
    kind, modules = type(ACT2FN[named]), dict(encoder.named_modules())
    if any(isinstance(module, kind) for module in modules.values()):
        return Finding("activation", PASS, named, named)
    if any(isinstance(m, torch.nn.Identity) and "act" in n.rpartition(".")[2] for n, m in modules.items()):
        return Finding("activation", FAIL, "none", named, f"Layers have no activation: put {named} back.")
    return Finding("activation", SKIP, "not a module of its own", named)


LOADED_CHECKS = (check_loaded_weights, check_activation)


def _files(folder: Path) -> list[Path]:
    if not folder.name or not folder.is_dir():
        return []
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    one = folder / "model.safetensors"
    return [one] if one.is_file() else []


def _tensors(files: list[Path], wanted: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name in the encoder and first rows of every tensor of the files that has one of the names, prefixes aside."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                parts = _plain(key).split(".")
                name = next((n for i in range(3) if (n := ".".join(parts[i:])) in wanted), None)
                if name:
                    yield name, file.get_slice(key)[:ROWS] if file.get_slice(key).get_shape() else file.get_tensor(key)


def _plain(name: str) -> str:
    """Names as today's models have them: old checkpoints say gamma and beta, adapters wrap layers."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the rows that both have; 1 where the checkpoint's are zeros, which are like anything."""
    if a.ndim != b.ndim or a.shape[1:] != b.shape[1:]:
        return 0.0
    rows = min(len(a), len(b)) if a.ndim else None
    a, b = (x.float().cpu()[:rows].flatten() if x.ndim else x.float().cpu().reshape(1) for x in (a, b))
    if not b.any():
        return 1.0
    sizes = a.norm() * b.norm()
    return float(a @ b / sizes) if sizes > 0 else 0.0


def _meant_to_be_fresh(setup: Setup, encoder) -> set[int]:
    """Parameters of the top layers that this project's models start anew when they are asked to."""
    settings = getattr(getattr(setup.model, "architecture", None), "settings", None)
    count = getattr(settings, "reinit_layers", 0)
    if not count:
        return set()
    return {id(p) for layer in encoder_layers(encoder)[-count:] for p in layer.parameters()}
