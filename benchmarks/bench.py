"""Speed as ratios against the alternative in the same run.

    python -m benchmarks.bench [--quick=1] [--data FOLDER] [--model FOLDER] [--out FOLDER]

Without data and model: generated pairs and a tiny random DeBERTa. Writes bench.json and bench.md into benchmarks/ or
the folder given, after every measurement.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import torch
import transformers
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.bench_training import (
    bench_attention,
    bench_encoder,
    bench_memory,
    bench_padding,
    bench_steps,
    v3_config,
)
from src_py.evaluation.metrics import score
from src_py.kaggle.session import start_session
from src_py.model.encoder import fit_embeddings, load_encoder
from src_py.pairs.contest import find_contest
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.load import load_pairs, prompt_key
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer
from src_py.tabular.embeddings import embed_sequences
from src_py.tabular.folds import fit_fold
from src_py.tabular.groups import Counted
from src_py.tabular.models import LIGHTGBM, PATIENCE, ROUNDS
from tools.arguments import checked, existing_folder, new_folder, yes
from tools.demo_data import write_contest, write_tiny_deberta

HERE = Path(__file__).resolve().parent
RAW_COLUMNS = 20_000


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__)
    quick = {"type": checked(yes), "nargs": "?", "const": True, "default": False}
    parser.add_argument("--quick", **quick, help="1: at most three minutes on two cores")
    parser.add_argument("--data", type=checked(existing_folder))
    parser.add_argument("--model", type=checked(existing_folder))
    parser.add_argument("--out", type=checked(new_folder), default=HERE)
    chosen = parser.parse_args(words)
    chosen.out.mkdir(parents=True, exist_ok=True)
    start_session(0)
    with tempfile.TemporaryDirectory() as scratch:
        data, model = chosen.data, chosen.model
        if data is None:
            write_contest(data := Path(scratch) / "data", 800 if chosen.quick else 2500, 3)
        if model is None:
            model = write_tiny_deberta(Path(scratch) / "model")
        files = find_contest(data)
        table = load_pairs(files.train, files.contest)[0]
        rows = []
        for found in measure(chosen.quick, table, model, Path(scratch)):
            rows += found
            print(
                *(f"{row['ratio']:.2f}× {row['measure']}: {row['alternative']}; {row['here']}" for row in found),
                sep="\n",
            )
            write(rows, chosen.out, "generated pairs" if chosen.data is None else "given pairs", chosen.model)
    print((chosen.out / "bench.md").read_text(encoding="utf-8"))


def measure(quick: bool, table: pd.DataFrame, model: Path, scratch: Path) -> Iterator[list[dict]]:
    """Rows of the table, as they are measured; the dearest come last."""
    repeats = 1 if quick else 5
    for length in (512, 1024) if quick else (512, 1024, 2048):
        yield [bench_attention(length, repeats)]
    yield bench_encoder(1024, 1 if quick else 4, repeats)
    yield [bench_memory(1024)]
    yield [bench_padding(table, model, scratch)]
    yield [bench_embedding(table.iloc[: 100 if quick else 150], model, 1 if quick else 3)]
    yield [bench_sparse(table.iloc[: 800 if quick else 10_000], 2 if quick else 5)]
    shape = v3_config(2, 128, 8000) if quick else v3_config(6, 768, 128_100)
    yield bench_steps(table, scratch, shape, 8, 1)


def bench_sparse(table: pd.DataFrame, folds: int) -> dict:
    """20,000 TF-IDF columns straight into LightGBM, against out-of-fold scores of linear models; some folds of five."""
    labels, fold_of = table["label"].to_numpy(), assign_folds(table, 5, 0)
    prompts = pd.factorize(prompt_key(table))[0]
    seconds, losses = {"direct": 0.0, "stacked": 0.0}, {"direct": [], "stacked": []}

    begun = time.perf_counter()
    counts = Counted.of(table, ("tfidf",), None)
    seconds["stacked"] += (time.perf_counter() - begun) * folds / 5  # counted once for all five
    for fold in range(folds):
        for way in seconds:
            begun = time.perf_counter()
            if way == "direct":
                found = _direct(table, labels, fold_of, fold)
            else:
                sets = {"all": ("tfidf",)}
                result = fit_fold(counts, labels, prompts, fold_of, fold, ("lightgbm",), 3, 0, sets=sets)
                found = result.predictions["all", "lightgbm"]
            seconds[way] += time.perf_counter() - begun
            losses[way].append(score(labels[fold_of == fold], found)["log_loss"])
    told = {way: f"{seconds[way] / folds:.1f} s a fold, log loss {np.mean(losses[way]):.4f}" for way in seconds}
    return {
        "measure": "sparse text into LightGBM",
        "alternative": f"{RAW_COLUMNS:,} raw columns: {told['direct']}",
        "here": f"stacked scores: {told['stacked']}",
        "ratio": seconds["direct"] / seconds["stacked"],
        "rows": len(table),
        "log loss above": float(np.mean(losses["stacked"]) - np.mean(losses["direct"])),
    }


def _direct(table: pd.DataFrame, labels: np.ndarray, fold_of: np.ndarray, fold: int) -> np.ndarray:
    texts = {column: table[column].map("\n".join) for column in ("response_a", "response_b")}
    rest = fold_of != fold
    vectorizer = TfidfVectorizer(max_features=RAW_COLUMNS // 2, sublinear_tf=True, dtype=np.float32)
    vectorizer.fit(pd.concat([texts["response_a"][rest], texts["response_b"][rest]]))
    a, b = (vectorizer.transform(texts[column]) for column in texts)
    straight, swapped = (sparse.hstack(pair, format="csr") for pair in ((a, b), (b, a)))
    fit, stop = rest & (fold_of != fold_of[rest].min()), fold_of == fold_of[rest].min()
    mirrored = np.choose(labels, (1, 0, 2))
    train, valid = (
        (sparse.vstack([straight[rows], swapped[rows]]), np.concatenate([labels[rows], mirrored[rows]]))
        for rows in (fit, stop)
    )
    settings = LIGHTGBM | {"objective": "multiclass", "num_class": 3, "verbosity": -1, "seed": 0}
    dataset = lightgbm.Dataset(*train)
    booster = lightgbm.train(
        settings,
        dataset,
        ROUNDS,
        valid_sets=[lightgbm.Dataset(*valid, reference=dataset)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    held = fold_of == fold
    return (booster.predict(straight[held]) + booster.predict(swapped[held])[:, [1, 0, 2]]) / 2


def bench_embedding(table: pd.DataFrame, model: Path, repeats: int) -> dict:
    """Embeddings in dataset order, batches of 8 padded to the maximum length, against batches of equal token count."""
    tokenizer = load_tokenizer(model)
    limit = 512
    sequences = []
    for with_a, with_b in encode_pairs(table, tokenizer, Reading(max_length=limit))["sequences"]:
        sequences += [with_a[: with_a.index(tokenizer.sep_token_id) + 1], with_a, with_b]
    seconds = {"alternative": [], "here": []}
    for _ in range(repeats):
        begun = time.perf_counter()
        plain = _padded(sequences, model, tokenizer, limit)
        seconds["alternative"].append(time.perf_counter() - begun)
        with tempfile.TemporaryDirectory() as cache:
            begun = time.perf_counter()
            found = np.array(embed_sequences(sequences, model, tokenizer, cache))
            seconds["here"].append(time.perf_counter() - begun)
    other = f"dataset order, batches of 8 padded to {limit}, stock attention"
    speed = {name: len(sequences) / statistics.median(values) for name, values in seconds.items()}
    return {
        "measure": "embedding, rows/s",
        "alternative": f"{other}: {speed['alternative']:.1f} rows/s",
        "here": f"sorted, equal token count: {speed['here']:.1f} rows/s",
        "ratio": speed["here"] / speed["alternative"],
        "rows": len(sequences),
        "largest difference": float(np.abs(plain - found).max()),
    }


@torch.inference_mode()
def _padded(sequences, model: Path, tokenizer, limit: int) -> np.ndarray:
    encoder = load_encoder(model, attention="stock").eval()
    fit_embeddings(encoder, tokenizer)
    parts = []
    for start in range(0, len(sequences), 8):
        batch = sequences[start : start + 8]
        ids = torch.full((len(batch), limit), tokenizer.pad_token_id)
        for i, row in enumerate(batch):
            ids[i, : len(row)] = torch.tensor(row)
        mask = torch.arange(limit) < torch.tensor([len(row) for row in batch])[:, None]
        hidden = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        parts.append(((hidden * weights).sum(1) / weights.sum(1)).numpy())
    return np.concatenate(parts)


def write(rows: list[dict], out: Path, data: str, model: Path | None) -> None:
    """bench.json and bench.md in `out`."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    told = {
        "date": date.today().isoformat(),
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lightgbm": lightgbm.__version__,
        "data": data,
        "model": "tiny random DeBERTa" if model is None else model.name,
    }
    (out / "bench.json").write_text(json.dumps({"setting": told, "rows": rows}, indent=1), encoding="utf-8")
    lines = ["# `make bench`", "", ", ".join(f"{name} {value}" for name, value in told.items()) + ".", ""]
    lines += ["| measure | alternative | here | ratio |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['measure']} | {r['alternative']} | {r['here']} | {r['ratio']:.1f}× |" for r in rows]
    (out / "bench.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
