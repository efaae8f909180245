"""Rows of `make bench` about DeBERTa itself: attention, inference, memory, whole training steps, padding."""

import json
import re
import statistics
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder

from src_py.model.attention import use_attention
from src_py.model.length_groups import length_groups
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.batches import TokenBudget
from src_py.training.trainer import TrainingSettings, make_trainer, parameter_groups
from tools.demo_data import write_tiny_deberta

SHARES = [0.35, 0.34, 0.31]


def v3_config(layers: int, hidden: int = 768, vocabulary: int = 1000) -> DebertaV2Config:
    """The shape of deberta-v3-base, with fewer layers."""
    return DebertaV2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
        relative_attention=True,
        position_buckets=256,
        max_position_embeddings=512,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        type_vocab_size=0,
    )


def alternate(ways: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each way, one after the other in every round; the first round does not count."""
    seconds = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def bench_attention(length: int, repeats: int) -> dict:
    """Forward and backward pass of one attention module of deberta-v3-base, a tenth of the tokens padding."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    encoders = _both(DebertaV2Encoder(v3_config(1)).to(device).train())
    hidden = torch.randn(1, length, 768, device=device, requires_grad=True)
    mask = torch.ones(1, length, dtype=torch.long, device=device)
    mask[:, length - length // 10 :] = 0

    def run(encoder):
        def step():
            attention = encoder.layer[0].attention.self
            positions = encoder.get_rel_pos(hidden)
            known = (encoder.get_attention_mask(mask), False, None, positions, encoder.get_rel_embedding())
            attention(hidden, *known)[0].sum().backward()

        return step

    seconds = alternate({name: run(encoder) for name, encoder in encoders.items()}, repeats)
    return {
        "measure": f"attention forward + backward, L = {length:,}",
        "alternative": f"as in transformers: {1000 * seconds['stock']:.0f} ms",
        "here": f"{1000 * seconds['fast']:.0f} ms",
        "ratio": seconds["stock"] / seconds["fast"],
    }


def bench_encoder(length: int, layers: int, repeats: int) -> list[dict]:
    """Inference of encoder layers of deberta-v3-base, and the share of the matrix-multiply rate reached in training."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    encoders = _both(DebertaV2Model(v3_config(layers)).to(device))
    ids = torch.randint(1, 1000, (1, length), device=device)

    def run(encoder, train):
        def step():
            encoder.train(train)
            with torch.set_grad_enabled(train):
                hidden = encoder(input_ids=ids)[0]
            if train:
                hidden.sum().backward()
                encoder.zero_grad(set_to_none=True)

        return step

    infer = alternate({name: run(encoder, False) for name, encoder in encoders.items()}, repeats)
    train = alternate({name: run(encoder, True) for name, encoder in encoders.items()}, repeats)
    a, b = torch.randn(length, 768, device=device), torch.randn(768, 3072, device=device)
    rate = 2 * length * 768 * 3072 * 20 / alternate({"": lambda: [a @ b for _ in range(20)]}, repeats)[""]
    linear = 2 * length * (4 * 768**2 + 2 * 768 * 3072)
    attention = 4 * length**2 * 768 + 4 * length * min(512, 2 * length) * 768 + 4 * min(512, 2 * length) * 768**2
    floating = 3 * layers * (linear + attention)
    shares = {name: floating / seconds / rate for name, seconds in train.items()}
    return [
        {
            "measure": f"inference, {layers} layers of v3-base, L = {length:,}",
            "alternative": f"as in transformers: {infer['stock']:.2f} s",
            "here": f"{infer['fast']:.2f} s",
            "ratio": infer["stock"] / infer["fast"],
        },
        {
            "measure": f"share of the matrix-multiply rate ({rate / 1e9:.0f} GFLOP/s), training, L = {length:,}",
            "alternative": f"as in transformers: {shares['stock']:.0%}",
            "here": f"{shares['fast']:.0%}",
            "ratio": shares["fast"] / shares["stock"],
        },
    ]


def _both(encoder: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The same encoder with the attention of transformers and with this project's."""
    fast = deepcopy(encoder)
    use_attention(fast)
    return {"stock": encoder, "fast": fast}


def bench_memory(length: int) -> dict:
    """Peak memory of a training step above that of the model, each way in a process of its own."""
    peaks = {}
    for way in ("stock", "fast"):
        words = [sys.executable, "-m", "benchmarks.bench_training", way, str(length)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        peaks[way] = json.loads(done.stdout.splitlines()[-1])
    return {
        "measure": f"peak memory of a training step above the model's, 4 layers of v3-base, L = {length:,}",
        "alternative": f"as in transformers: {peaks['stock'] / 2**20:.0f} MiB",
        "here": f"{peaks['fast'] / 2**20:.0f} MiB",
        "ratio": peaks["fast"] / peaks["stock"],
    }


def peak_of_a_step(way: str, length: int) -> int:
    """Bytes that a forward and backward pass need on top of model and gradients."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = DebertaV2Model(v3_config(4)).to(device).train()
    if way == "fast":
        use_attention(encoder)

    def step(tokens):
        encoder(input_ids=torch.ones(1, tokens, dtype=torch.long, device=device))[0].sum().backward()

    step(8)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(length)
        return torch.cuda.max_memory_allocated() - before
    before = _most_resident()
    step(length)
    return _most_resident() - before


def _most_resident() -> int:
    """Bytes; not `ru_maxrss`, which a child process inherits from its parent."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def bench_steps(table: pd.DataFrame, scratch: Path, shape: DebertaV2Config, pairs: int, repeats: int) -> list[dict]:
    """Whole training steps: as posted, as the recipe does, and the recipe on the posted reading."""
    folder = write_tiny_deberta(scratch / "shape")
    DebertaV2Model(shape).save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    rows = table.sample(min(pairs, len(table)), random_state=0)
    ways = {
        "posted": _posted_steps(folder, tokenizer, rows, 2048),
        "recipe": _recipe_step(folder, tokenizer, rows, "pairwise", 512),
        "posted, 1,024 tokens": _posted_steps(folder, tokenizer, rows, 1024),
        "recipe, 1,024 tokens": _recipe_step(folder, tokenizer, rows, "joint", 1024),
    }
    seconds = alternate(ways, repeats)
    speed = {name: len(rows) / value for name, value in seconds.items()}
    layers = f"{shape.num_hidden_layers} layers of {shape.hidden_size}, {shape.vocab_size:,} tokens"
    found = []
    for measure, name, other in (
        ("whole training step: posted against the recipe", "posted", "recipe"),
        ("the same, both as one sequence of at most 1,024 tokens", "posted, 1,024 tokens", "recipe, 1,024 tokens"),
    ):
        found.append(
            {
                "measure": f"{measure} ({layers})",
                "alternative": f"batch of 2, random order, all trained: {speed[name]:.2f} pairs/s",
                "here": f"one step by length, frozen embeddings, fast attention: {speed[other]:.2f} pairs/s",
                "ratio": speed[other] / speed[name],
                "pairs": len(rows),
            }
        )
    return found


def _posted_steps(folder, tokenizer, rows, max_length):
    """Steps of two pairs in random order, every parameter trained, stock attention."""
    model = build_model(folder, tokenizer, "joint", SHARES, ModelSettings(attention="stock", freeze_embeddings=False))
    order = encode_pairs(rows, tokenizer, Reading("joint", max_length)).shuffle(seed=0)
    collate = PairCollator(tokenizer.pad_token_id)
    steps = [[collate([order[i] for i in range(at, min(at + 2, len(order)))])] for at in range(0, len(order), 2)]
    return _steps(model, steps, torch.optim.AdamW(parameter_groups(model, 1e-5, 1e-4, 0.9, 0.01)), False)


def _recipe_step(folder, tokenizer, rows, style, max_length):
    """The same pairs in one step, in parts of as many tokens as four of the longest have."""
    model = build_model(folder, tokenizer, style, SHARES)
    encoded = list(encode_pairs(rows, tokenizer, Reading(style, max_length)))
    tokens = 4 * max(row["length"] for row in encoded) * len(encoded[0]["sequences"])
    parts = TokenBudget(PairCollator(tokenizer.pad_token_id), tokens)(encoded)["parts"]
    return _steps(model, [parts], torch.optim.AdamW(parameter_groups(model, 1e-5, 1e-4, 0.9, 0.01), fused=True), True)


def _steps(model, steps: list[list[dict]], optimizer, trimmed: bool):
    """Optimizer steps, each over its parts; `trimmed`: with less padding, as in the recipe."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()

    def run():
        for parts in steps:
            pairs = sum(len(part["labels"]) for part in parts)
            for part in parts:
                with torch.autocast(device, torch.float16, enabled=device == "cuda"):
                    tensors = {name: value.to(device) for name, value in part.items() if name != "lengths"}
                    loss = model(**tensors, lengths=part["lengths"] if trimmed else None)["loss"]
                (loss * len(part["labels"]) / pairs).backward()
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def bench_padding(table: pd.DataFrame, model: Path, scratch: Path) -> dict:
    """Share of padding among the tokens of an epoch, in the order in which the recipe's Trainer hands them out."""
    tokenizer = load_tokenizer(model)
    encoded = encode_pairs(table, tokenizer, Reading(max_length=512))
    fresh = build_model(model, tokenizer, "pairwise", SHARES)
    settings = TrainingSettings(epochs=1.0, evals_per_epoch=1)
    trainer = make_trainer(fresh, encoded, encoded, tokenizer.pad_token_id, scratch / "padding", settings)
    computed = np.zeros(2)
    for part in (part for batch in trainer.get_train_dataloader() for part in batch["parts"]):
        lengths = [length for row in part["lengths"] for length in row]
        computed += sum(len(rows) * longest for rows, longest in length_groups(lengths)), sum(lengths)
    share = 1 - computed[1] / computed[0]
    order = np.random.default_rng(0).permutation(len(encoded))
    collate = PairCollator(tokenizer.pad_token_id)
    rows = encoded.select_columns(["sequences"])
    plain = _padding(
        collate([rows[int(i)] for i in order[at : at + 4]])["attention_mask"] for at in range(0, len(order), 4)
    )
    return {
        "measure": "padding, share of all tokens",
        "alternative": f"random order, batches of 4: {plain:.1%}",
        "here": f"by length: {share:.1%}",
        "ratio": share / plain,
        "rows": len(table),
    }


def _padding(masks) -> float:
    counts = np.array([(mask.numel(), int(mask.sum())) for mask in masks]).sum(0)
    return float(1 - counts[1] / counts[0])


if __name__ == "__main__":
    print(peak_of_a_step(sys.argv[1], int(sys.argv[2])))
