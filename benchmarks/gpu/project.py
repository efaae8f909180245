"""The project's own parts at their real size: the doctor, predictions, the forecast."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.gpu.rows import Row, judged, measured
from benchmarks.gpu.scale import Scale, capped, lengthened
from src_py.doctor.check import check_before_training
from src_py.doctor.findings import FAIL
from src_py.kaggle.clock import HIDDEN_ROWS, Clock
from src_py.model.attention import default_attention
from src_py.model.encoder import fit_embeddings
from src_py.model.predict import predict_pairs
from src_py.pairs.contest import LMSYS
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.load import load_pairs
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.forecast import Plan, forecast_run
from tools.demo_data import write_contest, write_tiny_deberta

FORECAST = 0.25  # by how much the truth may differ
MICRO_BATCH = {"base": 4, "large": 1}


def doctor(scale: Scale) -> Iterator[Row]:
    """On generated pairs of about 512 tokens and a model with random weights: its time, no FAIL, and memory enough
    under the cap, for base and large."""
    with tempfile.TemporaryDirectory() as scratch:
        table, tokenizer = _pairs(scale, Path(scratch), 600)
        reading = Reading(max_length=scale.tokens(512))
        held_out = assign_folds(table, 5, 0) == 0
        train, valid = table[~held_out], table[held_out]
        encoded, held = (encode_pairs(rows, tokenizer, reading) for rows in (train, valid))
        for shape, micro_batch in MICRO_BATCH.items():
            with capped(scale):
                model = scale.model(shape, default_attention())
                fit_embeddings(model.encoder, tokenizer)
                options = {"micro_batch": micro_batch, "epochs": 2.0, "evals_per_epoch": 1}
                trainer = scale.trainer(model, Path(scratch) / shape, encoded, held, **options)
                begun = time.perf_counter()
                report = check_before_training(trainer, tokenizer, train, valid)
                seconds = time.perf_counter() - begun
                del trainer, model
            yield from judge(shape, report.findings)
            yield measured(f"doctor on {shape}: its time", f"{seconds:.1f} s", f"{len(report.findings)} checks")


def judge(shape: str, findings: list) -> Iterator[Row]:
    """No check fails on a healthy set-up, and none lacks memory or breaks."""
    failed = [f"{f.check}: {f.measured}" for f in findings if f.status == FAIL]
    yield judged(f"doctor on {shape}: FAILs", "none", "; ".join(failed) or "none", not failed)
    short = [f.check for f in findings if "memory" in f.measured.lower()]
    yield judged(f"doctor on {shape}: checks without memory", "none", ", ".join(short) or "none", not short)


def predictions(scale: Scale) -> Iterator[Row]:
    """Rows a second of `predict_pairs` at about 512 tokens, on all GPUs; rows that sum to one."""
    with tempfile.TemporaryDirectory() as scratch:
        table, tokenizer = _pairs(scale, Path(scratch), 12 if scale.toy else 400)
        model = scale.model("base", default_attention())
        fit_embeddings(model.encoder, tokenizer)
        reading = Reading(max_length=scale.tokens(512))
        predict_pairs(model, tokenizer, table[:8], reading, precision=scale.precision)
        begun = time.perf_counter()
        found = predict_pairs(model, tokenizer, table, reading, precision=scale.precision)
        seconds = time.perf_counter() - begun
    rate = len(table) / seconds
    right = found.shape == (len(table), 3) and bool(np.allclose(found.sum(1), 1))
    yield judged("predict_pairs: probabilities", f"({len(table)}, 3), sums of 1", f"{found.shape}", right)
    yield measured("predict_pairs", f"{rate:.1f} rows/s", f"{HIDDEN_ROWS:,} rows: {HIDDEN_ROWS / rate / 60:.1f} min")


def forecast(scale: Scale) -> Iterator[Row]:
    """The steps of a training on one GPU: what was forecast after ten seconds, and how long they take."""
    name = "forecast of a training"
    with tempfile.TemporaryDirectory() as scratch:
        table, tokenizer = _pairs(scale, Path(scratch), 240)
        held_out = assign_folds(table, 5, 0) == 0
        reading = Reading(max_length=scale.tokens(512))
        encoded, held = (encode_pairs(rows, tokenizer, reading) for rows in (table[~held_out], table[held_out]))
        model = scale.model("base", default_attention())
        fit_embeddings(model.encoder, tokenizer)
        trainer = scale.trainer(model, Path(scratch) / "out", encoded, held)
        plan = Plan(folds=1, models=1, test_rows=len(table), processes=1)
        seconds = 2.0 if scale.toy else 10.0
        expected = forecast_run(trainer, tokenizer, table, reading, plan, Clock(1.0), seconds).training
        ended = trainer.train()
    found = ended.metrics["train_runtime"]
    yield judge_forecast(name, expected, found, scale)


def judge_forecast(name: str, expected: float, found: float, scale: Scale) -> Row:
    """Seconds; those of a toy are too few to judge."""
    share, texts = found / expected - 1, (f"{expected:.1f} s ± {FORECAST:.0%}", f"{found:.1f} s")
    if scale.toy:
        return measured(name, f"{texts[1]}, forecast {expected:.1f} s")
    return judged(name, *texts, abs(share) <= FORECAST, f"{share:+.0%}")


def _pairs(scale: Scale, scratch: Path, rows: int):
    """Generated pairs whose answers fill most of 512 tokens, and the demo's tokenizer."""
    write_contest(scratch / "data", rows, 4, 3)
    table = load_pairs(scratch / "data" / "train.csv", LMSYS)[0]
    tokenizer = load_tokenizer(write_tiny_deberta(scratch / "tokenizer", hidden_size=16, layers=1))
    return (table if scale.toy else lengthened(table, 6)), tokenizer
