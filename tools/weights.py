"""Make a model folder ready to attach: safetensors, tokenizer, checksums; nothing in it needs a pickle.

python -m tools.weights MODEL OUT [--dtype float32|float16]
"""

import argparse
import hashlib
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from src_py.errors import InputError
from src_py.model.encoder import load_encoder

SUMS = "SHA256SUMS"


def convert(source: Path, target: Path, dtype: str = "float32") -> str:
    """Write the encoder in `source` (safetensors, or a `.bin` read without unpickling code) to `target`.

    Heads for pretraining are left out. `SHA256SUMS` can be checked with `sha256sum -c`.

    Returns:
        What was written, in one sentence.

    Raises:
        InputError: when `target` holds something, `source` cannot be read, or a weight does not fit float16.
    """
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; name a new folder with OUT=.")
    encoder = load_encoder(source, attention="stock")
    wanted = {name: value.clone() for name, value in encoder.state_dict().items()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # every kind of tokenizer raises its own
        raise InputError(
            f"The tokenizer in {source} cannot be read ({error}); copy its files beside the weights."
        ) from error
    encoder.to(getattr(torch, dtype)).save_pretrained(target)
    tokenizer.save_pretrained(target)
    off = max(
        float((value.float() - wanted[name].float()).abs().max())
        for name, value in load_encoder(target, attention="stock").state_dict().items()
        if value.numel()
    )
    if not off <= (0 if dtype == "float32" else 0.05):  # also where it is NaN
        raise InputError(f"The weights change by {off:.2g} in {dtype}; use DTYPE=float32.")
    files = sorted(path for path in target.iterdir() if path.name != SUMS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (target / SUMS).write_text("".join(sums), encoding="utf-8")
    size = sum(path.stat().st_size for path in files) / 1e6
    return f"{target}: {dtype}, {len(files)} files, {size:.0f} MB, largest change of a weight {off:.1g}"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tools.weights", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    chosen = parser.parse_args(words)
    try:
        print(convert(chosen.model, chosen.out, chosen.dtype))
    except InputError as error:
        sys.exit(f"weights: {error}")


if __name__ == "__main__":
    main()
