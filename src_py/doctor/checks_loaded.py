"""Checks that the encoder's weights, and the tokenizer, are those of its checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoTokenizer
from transformers.activations import ACT2FN

from src_py.doctor.checks_model import _original_rows, encoder_of
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.model.encoder import encoder_layers
from src_py.pairs.tokenizer import TOKENIZER_FILES

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


def check_tokenizer(setup: Setup) -> Finding:
    """Tokens have the ids that the encoder was pretrained with: the given tokenizer against the checkpoint's own.

    Added tokens and special ones do not count. Vocabularies that share few tokens share few ids, too.
    """
    name, limit = "tokenizer", "the encoder's own ids"
    encoder, own = encoder_of(setup.model), getattr(setup.tokenizer, "get_vocab", None)
    folder = Path(getattr(getattr(encoder, "config", None), "_name_or_path", "") or "")
    if own is None:
        return Finding(name, SKIP, "no tokenizer given", limit)
    if not folder.name or not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return Finding(name, SKIP, "the encoder's tokenizer files are not at hand", limit)
    rows = _original_rows(encoder)
    if rows and encoder.get_input_embeddings().num_embeddings < rows:  # trimmed to a vocabulary of its own, perhaps
        return Finding(name, SKIP, "the encoder's embeddings were cut", limit)
    try:
        meant = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        special = {*setup.tokenizer.all_special_tokens, *meant.all_special_tokens}
        ids, known = ({t: i for t, i in get().items() if t not in special} for get in (own, meant.get_vocab))
    except Exception as error:  # the libraries raise many kinds
        return Finding(name, SKIP, f"the encoder's tokenizer cannot be read ({type(error).__name__})", limit)
    if not ids or not known:
        return Finding(name, SKIP, "a tokenizer without a vocabulary", limit)
    share = sum(known.get(token) == number for token, number in ids.items()) / min(len(ids), len(known))
    advice = f"The encoder was pretrained with other ids of the tokens: load the tokenizer from {folder}, as the model "
    advice += "was, and tokenise the texts with it."
    # Of another model's vocabulary hardly any token has the same id; of one that was adapted, most have.
    return judge(name, share, advice, warn=(0.9, None), fail=(0.5, None), form="{:.0%}", note=" of the tokens")


LOADED_CHECKS = (check_loaded_weights, check_tokenizer, check_activation)


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
