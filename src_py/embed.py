"""Embed texts with a frozen encoder: batches of equal token count, every GPU, a store on disk that survives a kill."""

import hashlib
import json
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from src_py.config import check_choice
from src_py.errors import InputError
from src_py.files import WEIGHTS, folder_digest
from src_py.model import fit_embeddings, load_encoder
from src_py.share_out import all_devices, share_out

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
    costs the same. Finished blocks are kept in `cache_dir`, in a folder named after the sequences, the encoder's files
    and the settings: another run with the same ones goes on from there, any other never sees them.

    Args:
        sequences: token ids, special tokens included.
        pooling: "mean" or "cls" of the last layer, or "last4": the mean over tokens of the mean of the last four.
        devices: such as ("cuda:0", "cuda:1"); all GPUs, or the CPU, unless told otherwise.

    Raises:
        InputError: unreadable weights, unknown pooling, or a full disk.
    """
    check_choice("pooling", pooling, POOLINGS)
    encoder = _encoder(model_dir, tokenizer)
    shape = (len(sequences), encoder.config.hidden_size)
    folder = Path(cache_dir) / _key(sequences, model_dir, [pooling, precision, BLOCK])
    try:
        vectors, done = _open(folder, shape)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); free some space.") from error
    order = np.argsort([-len(ids) for ids in sequences], kind="stable")
    blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
    missing = [number for number in range(len(blocks)) if number not in done]
    if not missing:
        return np.load(folder / "vectors.npy", mmap_mode="r")

    title = f"Embedding {len(sequences):,} texts"
    known = sum(len(blocks[n]) for n in done)
    lock = threading.Lock()
    with tqdm(total=len(sequences), initial=known, desc=title, unit=" rows", mininterval=10, file=sys.stdout) as bar:

        def worker(device: str, model):
            model = model.to(device)

            def embed(number: int) -> None:
                texts = [sequences[i] for i in blocks[number]]
                found = _embed_block(texts, model, tokenizer, pooling, precision, tokens, device)
                with lock:
                    vectors[blocks[number]] = found
                    vectors.flush()
                    with open(folder / "done.txt", "a", encoding="utf-8") as file:
                        file.write(f"{number}\n")
                    bar.update(len(found))

            return embed

        devices = devices or all_devices()
        models = [encoder, *(_encoder(model_dir, tokenizer) for _ in devices[1:])]
        share_out(missing, [worker(device, model) for device, model in zip(devices, models)])
    return np.load(folder / "vectors.npy", mmap_mode="r")


def _encoder(model_dir: str | Path, tokenizer) -> torch.nn.Module:
    encoder = load_encoder(model_dir).eval()
    fit_embeddings(encoder, tokenizer)
    return encoder


def token_batches(lengths: list[int], tokens: int) -> list[slice]:
    """Consecutive slices of sequences, sorted longest first, of at most `tokens` tokens with their padding."""
    slices, start = [], 0
    while start < len(lengths):
        size = max(1, tokens // max(1, lengths[start]))
        slices.append(slice(start, min(start + size, len(lengths))))
        start += size
    return slices


@torch.inference_mode()
def _embed_block(sequences, model, tokenizer, pooling, precision, tokens, device) -> np.ndarray:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    parts = []
    for rows in token_batches([len(ids) for ids in sequences], tokens):
        batch = sequences[rows]
        input_ids = np.full((len(batch), max(map(len, batch))), tokenizer.pad_token_id, dtype=np.int64)
        for i, ids in enumerate(batch):
            input_ids[i, : len(ids)] = ids
        lengths = torch.tensor([len(ids) for ids in batch], device=device)
        mask = (torch.arange(input_ids.shape[1], device=device) < lengths[:, None]).long()
        with torch.autocast(device.split(":")[0], dtype=dtype, enabled=dtype is not None):
            out = model(
                input_ids=torch.from_numpy(input_ids).to(device),
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


def _open(folder: Path, shape: tuple[int, int]) -> tuple[np.memmap, set[int]]:
    """The array to write to, and the numbers of finished blocks."""
    folder.mkdir(parents=True, exist_ok=True)
    path, finished = folder / "vectors.npy", folder / "done.txt"
    if path.is_file() and finished.is_file():
        try:
            vectors = np.lib.format.open_memmap(path, mode="r+")
            # A kill in the middle of a line leaves it without its end: that block is done again, and the piece removed,
            # lest the next number be written behind it.
            lines = finished.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n") and line.strip().isdigit()]
            if vectors.shape == shape:
                finished.write_text("".join(whole), encoding="utf-8")
                return vectors, {int(line) for line in whole}
        except ValueError:  # the array was cut short
            pass
    finished.unlink(missing_ok=True)
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    finished.touch()
    return vectors, set()


def _key(sequences, model_dir: str | Path, settings: list) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], dtype=np.int32).tobytes())
    digest.update(folder_digest(model_dir, WEIGHTS).encode())
    return digest.hexdigest()[:24]
