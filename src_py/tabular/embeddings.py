"""Embeddings of texts by a frozen encoder, and what they say about a pair."""

import hashlib
import json
import sys
import threading
import zlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from src_py.config import check_choice
from src_py.errors import InputError
from src_py.kaggle.files import WEIGHTS, folder_digest, write_text, writing
from src_py.kaggle.identity import module_digest
from src_py.kaggle.page import progress_bar
from src_py.kaggle.session import all_devices, share_out, to_device
from src_py.model.attention_choice import choose_attention
from src_py.model.encoder import fit_embeddings, load_encoder
from src_py.model.families import max_tokens
from src_py.model.predict import token_batches
from src_py.pairs.encode import round_up
from src_py.tabular.sides import FeatureGroup, Sides
from src_py.tabular.stacking import LinearStack

POOLINGS = ("mean", "cls", "last4")
BLOCK = 512  # sequences: at most one block a device is lost when a run is killed
TOKENS = 16_384  # in a batch, padding included


def embed_sequences(
    sequences: list[list[int]],
    model_dir: str | Path,
    tokenizer,
    cache_dir: str | Path,
    pooling: str = "mean",
    precision: str = "fp32",
    tokens: int = TOKENS,
    devices: tuple[str, ...] = (),
) -> np.ndarray:
    """One vector a sequence, float32 (sequences, hidden), memory-mapped and read-only.

    Sequences are sorted by length and batched to about `tokens` tokens, so that little is padding and every batch
    costs the same. Finished blocks are stored in `cache_dir`, in a folder named after the sequences, the encoder's
    files, the settings and the code of this module: another run with the same ones resumes from them, any other never
    sees them.

    Args:
        sequences: token ids, special tokens included.
        pooling: "mean" or "cls" of the last layer, or "last4": the mean over tokens of the mean of the last four.
        devices: such as ("cuda:0", "cuda:1"); by default all GPUs, or the CPU.

    Raises:
        InputError: unreadable weights, unknown pooling, vectors that are not finite, or a full disk.
    """
    check_choice("pooling", pooling, POOLINGS)
    longest = max(map(len, sequences), default=1)
    encoder = embedding_encoder(model_dir, tokenizer, longest, precision)
    shape = (len(sequences), int(encoder.config.hidden_size))
    folder = Path(cache_dir) / _vectors_key(sequences, model_dir, [pooling, precision, BLOCK])
    order = np.argsort([-len(ids) for ids in sequences], kind="stable")
    blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
    with writing(folder):
        vectors, done = _open_vectors(folder, shape, blocks)
    missing = [number for number in range(len(blocks)) if number not in done]
    if not missing:
        return np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)

    title = f"Embedding {len(sequences):,} texts"
    known = sum(len(blocks[n]) for n in done)
    lock = threading.Lock()
    with progress_bar(title, len(sequences), "texts", done=known) as bar:

        def worker(device: str, model):
            model = model.to(device)

            def embed(number: int) -> None:
                texts = [sequences[i] for i in blocks[number]]
                found = embed_block(texts, model, tokenizer, pooling, precision, tokens, device)
                if not np.isfinite(found).all():
                    raise InputError(
                        f"The encoder {model_dir} gives embeddings that are not finite in {precision}; set "
                        "CFG.precision = 'fp32', or attach another encoder."
                    )
                with lock, writing(folder):
                    vectors[blocks[number]] = found
                    vectors.flush()
                    with open(folder / "done.txt", "a", encoding="utf-8") as file:
                        file.write(f"{number} {zlib.crc32(found.tobytes())}\n")
                    bar.update(len(found))

            return embed

        devices = devices or all_devices()
        models = [encoder, *(deepcopy(encoder) for _ in devices[1:])]
        share_out(missing, [worker(device, model) for device, model in zip(devices, models)])
    return np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)


def embedding_encoder(model_dir: str | Path, tokenizer, longest: int, precision: str) -> Any:
    """The frozen encoder that `embed_sequences` uses for sequences of up to `longest` tokens."""
    kind = choose_attention(model_dir, "auto", max(1, TOKENS // longest), longest, precision, training=False)
    encoder = load_encoder(model_dir, kind).eval()
    fit_embeddings(encoder, tokenizer)
    return encoder


@torch.inference_mode()
def embed_block(sequences, model, tokenizer, pooling, precision, tokens, device) -> np.ndarray:
    """Vectors (sequences, hidden), float32, of sequences sorted longest first, about `tokens` tokens in a call."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    parts = []
    for rows in token_batches([len(ids) for ids in sequences], tokens):
        batch = sequences[rows]
        width = min(round_up(len(batch[0])), max_tokens(model.config) or sys.maxsize)
        input_ids = np.full((len(batch), width), tokenizer.pad_token_id, dtype=np.int64)
        for i, ids in enumerate(batch):
            input_ids[i, : len(ids)] = ids
        lengths = to_device(torch.tensor([len(ids) for ids in batch]), device)
        mask = (torch.arange(input_ids.shape[1], device=device) < lengths[:, None]).long()
        with torch.autocast(device.split(":")[0], dtype=dtype, enabled=dtype is not None):
            out = model(
                input_ids=to_device(torch.from_numpy(input_ids), device),
                attention_mask=mask,
                output_hidden_states=pooling == "last4",
            )
        parts.append(_pool(out, mask, pooling).cpu().numpy())
    return np.concatenate(parts)


def _pool(out, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        return out.last_hidden_state[:, 0].float()
    hidden = torch.stack(out.hidden_states[-4:]).mean(0) if pooling == "last4" else out.last_hidden_state
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)


def _open_vectors(folder: Path, shape: tuple[int, int], blocks: list[np.ndarray]) -> tuple[np.memmap, set[int]]:
    """The array to write to, and the numbers of finished blocks whose vectors are still those that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    path, finished = folder / "vectors.npy", folder / "done.txt"
    if path.is_file() and finished.is_file():
        try:
            vectors = np.lib.format.open_memmap(path, mode="r+")
            if vectors.shape == shape and vectors.dtype == np.float32:
                # A kill in the middle of a line leaves it without its end: that block is embedded again, and the piece
                # removed, or the next number would be written behind it.
                lines = finished.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                whole = {number: line for line in lines if (number := _whole_block(line, vectors, blocks)) is not None}
                write_text(finished, "".join(whole.values()))
                return vectors, set(whole)
        except ValueError:  # the array was cut short
            pass
    finished.unlink(missing_ok=True)
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    finished.touch()
    return vectors, set()


def _whole_block(line: str, vectors: np.ndarray, blocks: list[np.ndarray]) -> int | None:
    """The block that a line of done.txt ("number checksum") reports; None unless its vectors have that checksum."""
    number, _, checksum = line.partition(" ")
    if not (line.endswith("\n") and number.isdecimal() and int(number) < len(blocks)):
        return None
    written = zlib.crc32(vectors[blocks[int(number)]].tobytes())
    return int(number) if checksum.strip() == str(written) else None


def _vectors_key(sequences, model_dir: str | Path, settings: list) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], dtype=np.int32).tobytes())
    digest.update(folder_digest(model_dir, WEIGHTS).encode())
    digest.update(module_digest("src_py.tabular.embeddings").encode())
    return digest.hexdigest()[:24]


class EmbeddingFeatures(FeatureGroup):
    """Scores from `LinearStack`, similarities to each other and to the prompt, and the largest principal components of
    the difference between the answers; centre, scale and components come from training rows only."""

    def __init__(self, components: int = 16, seed: int = 0):
        super().__init__(seed)
        self.components = components
        self.stack = LinearStack(alphas=(100.0, 400.0, 1600.0, 6400.0), seed=seed)

    @staticmethod
    def count(table: pd.DataFrame, embed=None) -> np.ndarray:
        """Vectors (rows, 3, hidden) of the prompt, of P+A and of P+B, from `embed`."""
        return embed(table)

    @staticmethod
    def take(counted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return np.asarray(counted[rows])

    def fit_transform(self, counted: np.ndarray, labels: np.ndarray, prompts: np.ndarray) -> Sides:
        both = np.asarray(counted[:, 1:], dtype=np.float32).reshape(-1, counted.shape[2])
        self.centre, self.scale = both.mean(0), both.std(0) + 1e-6
        a, b = self._standard(counted)
        # Both orders of a pair together have mean zero, so that no centring breaks the symmetry.
        _, _, components = np.linalg.svd((a - b).T @ (a - b))
        self.axes = components[: self.components].T.astype(np.float32)
        return self._sides(counted, lambda a, b: self.stack.fit_transform(a, b, labels, prompts))

    def transform(self, counted: np.ndarray) -> Sides:
        return self._sides(counted, self.stack.transform)

    def _standard(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple((np.asarray(vectors[:, side], np.float32) - self.centre) / self.scale for side in (1, 2))

    def _sides(self, vectors: np.ndarray, scores) -> Sides:
        a, b = self._standard(vectors)
        prompt = (np.asarray(vectors[:, 0], np.float32) - self.centre) / self.scale
        of_a, of_b, of_tie = scores(a, b)
        sides = [
            np.column_stack([score, _row_cosine(side, prompt), side @ self.axes]).astype(np.float32)
            for score, side in ((of_a, a), (of_b, b))
        ]
        distance = np.linalg.norm(a - b, axis=1) / np.sqrt(a.shape[1])
        shared = np.column_stack([of_tie, _row_cosine(a, b), distance, (a @ self.axes) * (b @ self.axes)]).astype(
            np.float32
        )
        axes = range(self.axes.shape[1])
        names = ("embedding score", "embedding similarity to the prompt", *(f"embedding axis {i}" for i in axes))
        shared_names = ("embedding tie score", "embedding similarity", "embedding distance")
        return Sides(sides[0], sides[1], shared, names, (*shared_names, *(f"embedding product {i}" for i in axes)))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre, "scale": self.scale, "axes": self.axes} | self.stack.arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "EmbeddingFeatures":
        features = cls(components=arrays["axes"].shape[1])
        features.centre, features.scale, features.axes = (arrays[name] for name in ("centre", "scale", "axes"))
        features.stack = LinearStack.from_arrays(arrays)
        return features


def _row_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).clip(1e-9)
