"""One trial of an ablation: train one configuration on one subset with one seed; finished trials are stored on disk."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax
from transformers import TrainerCallback

from src_py.ablation.arms import Arm, parse_arm
from src_py.ablation.posted import encode_posted, posted_config, posted_tokenizer, resize_posted
from src_py.config import Settings, setting
from src_py.evaluation.baselines import class_shares
from src_py.kaggle.files import WEIGHTS, folder_digest, write_arrays, writing
from src_py.kaggle.session import PRECISIONS, free_memory, start_session
from src_py.model.families import max_tokens
from src_py.model.predict import predict_logits
from src_py.model.preference import ModelSettings, build_model
from src_py.model.saved import SavedSettings, save_trained
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.split import nested_order
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.trainer import TrainingSettings, make_trainer

RECIPE = "ablate_subset_vs_full"
FORMAT = 1  # of a stored cell; raise it when older cells must not be read any more


@dataclass(frozen=True)
class TrialSettings(Settings):
    """What all configurations share, and the values that a repair sets. Lengths are in tokens; a pair read as one
    sequence has twice `max_length`, so that all configurations may read the same amount of text."""

    max_length: int = setting(512, least=16, most=8192)
    epochs: float = setting(2.0, above=0, most=100)
    batch_size: int = setting(16, least=1)
    micro_batch: int = setting(4, least=1)
    lr: float = setting(0.0, least=0, most=1)
    head_lr: float = setting(0.0, least=0, most=1)
    freeze_layers: int = setting(0, least=0)
    evaluations: int = setting(3, least=1)
    precision: str = setting("fp32", choices=PRECISIONS)


@dataclass(frozen=True)
class Cell:
    """`as_rows` is 0 for the configuration's own number of epochs; in the control arm, the subset is trained for as
    many optimizer steps as `as_rows` rows get."""

    arm: str
    rows: int
    seed: int
    as_rows: int = 0


@dataclass
class Problem:
    """The fixed part of an ablation.

    Args:
        train: rows to take subsets of, from `load_pairs`; rows of extra files come after position `blocks`.
        valid: the rows every cell predicts.
        prompts: one key a validation row.
        save_dir: where the recipe's models are kept for the submission; None keeps none.
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    prompts: pd.Series
    model_dir: Path
    classes: tuple[str, ...]
    settings: TrialSettings
    blocks: tuple[int, ...] = ()
    save_dir: Path | None = None
    _readings: dict = field(default_factory=dict, repr=False)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def key(self) -> str:
        """Digest of rows, labels, encoder and settings: what every cell's result depends on."""
        digest = hashlib.sha256(json.dumps([FORMAT, asdict(self.settings), self.blocks]).encode())
        for table in (self.train, self.valid):
            for column in (*TEXT_COLUMNS, "label"):
                digest.update(json.dumps(table[column].tolist()).encode())
        digest.update(folder_digest(self.model_dir, (*WEIGHTS, ".model", ".txt")).encode())
        return digest.hexdigest()[:12]


@dataclass
class Outcome:
    """`probabilities` (evaluations, validation rows, classes), NaN where the model diverged; `at` the optimizer steps
    of the evaluations; seconds of training, of a usual optimizer step, and of predicting."""

    probabilities: np.ndarray
    at: list[int]
    train_seconds: float
    step_seconds: float
    predict_seconds: float


def steps_of(cell: Cell, settings: TrialSettings) -> int:
    """Optimizer steps of a cell."""
    batches = math.ceil((cell.as_rows or cell.rows) / _batch(parse_arm(cell.arm), settings)[0])
    return max(1, math.ceil(batches * settings.epochs))


def run_cell(problem: Problem, cell: Cell, keep_model: bool = False) -> Outcome:
    """Train and predict; everything random depends on the cell alone."""
    arm, settings = parse_arm(cell.arm), problem.settings
    subset = problem.train.iloc[nested_order(problem.train["label"], cell.seed, problem.blocks)[: cell.rows]]
    tokenizer, encode = _reading(arm, problem)
    valid = _encoded_valid(arm, problem, encode)
    start_session(cell.seed)
    model = _model(arm, problem, tokenizer, subset)
    batch_size, micro_batch = _batch(arm, settings)
    steps = steps_of(cell, settings)
    posted = posted_config()
    usual = TrainingSettings()
    how = {
        "epochs": steps / math.ceil(cell.rows / batch_size),
        "lr": settings.lr if "rates" in arm else posted.lr,
        "head_lr": settings.head_lr if "rates" in arm else posted.lr,
        "layer_decay": usual.layer_decay if "rates" in arm else 1.0,
        "warmup": usual.warmup if "warmup" in arm else posted.warmup,
        "weight_decay": posted.weight_decay,
        "batch_size": batch_size,
        "micro_batch": micro_batch,
        "evals_per_epoch": 0,
    }
    scratch = Path(tempfile.mkdtemp(prefix="cell-"))
    try:
        trainer = make_trainer(
            model,
            train=encode(subset),
            valid=valid,
            pad_token_id=tokenizer.pad_token_id,
            output_dir=scratch,
            settings=TrainingSettings(**how),
            precision=settings.precision,
            seed=cell.seed,
        )
        measure = _Measure(valid, tokenizer.pad_token_id, settings, problem.n_classes, steps)
        trainer.add_callback(measure)
        begun = time.perf_counter()
        trainer.train()
        taken = time.perf_counter() - begun - measure.seconds
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if keep_model and problem.save_dir:
        saved = SavedSettings(
            recipe=RECIPE,
            classes=problem.classes,
            reading=Reading(_style(arm), _max_length(arm, problem)),
            pooling=model.pooling,
        )
        save_trained(model, tokenizer, problem.save_dir / f"{cell.arm}_{cell.rows:08d}", saved)
    del model, trainer
    free_memory()
    return Outcome(np.stack(measure.probabilities), measure.at, taken, measure.step_seconds(), measure.seconds)


class _Measure(TrainerCallback):
    """Predicts the validation rows at equal distances, the last time after the last step."""

    def __init__(self, valid, pad_token_id: int, settings: TrialSettings, n_classes: int, steps: int):
        self.valid, self.pad_token_id, self.settings, self.n_classes = valid, pad_token_id, settings, n_classes
        self.marks = {round(steps * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
        self.probabilities, self.at, self.seconds, self.step_times = [], [], 0.0, []

    def step_seconds(self) -> float:
        """Median over the steps but the first, which also sets things up."""
        return float(np.median(self.step_times[1:] or self.step_times))

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_begun = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.step_times.append(time.perf_counter() - self.step_begun)
        if state.global_step in self.marks or state.global_step == state.max_steps:
            begun = time.perf_counter()
            try:
                logits = predict_logits(
                    model, self.valid, self.pad_token_id, 32, self.settings.precision, progress=False
                )
            except ValueError:  # not finite: the model has diverged, which is a result too
                logits = np.full((len(self.valid), self.n_classes), np.nan)
            model.train()
            self.probabilities.append(softmax(logits, axis=1))
            self.at.append(state.global_step)
            self.seconds += time.perf_counter() - begun


def _batch(arm: Arm, settings: TrialSettings) -> tuple[int, int]:
    size = settings.batch_size if "batch" in arm else posted_config().batch_size
    return size, min(size, settings.micro_batch)


def _style(arm: Arm) -> str:
    return "pairwise" if "pairwise" in arm else "joint"


def _max_length(arm: Arm, problem: Problem) -> int:
    """Twice the tokens where both answers share a sequence, as far as the encoder's positions reach."""
    wanted = problem.settings.max_length * (1 if "pairwise" in arm else 2)
    limit = max_tokens(problem.model_dir)
    return wanted if limit is None else min(wanted, limit)


def _reading(arm: Arm, problem: Problem):
    """The arm's tokenizer, and a function that encodes a table its way."""
    reading, cut = Reading(_style(arm), _max_length(arm, problem)), "parts" if "cut" in arm else "right"
    if "line_break" in arm:
        tokenizer = load_tokenizer(problem.model_dir)
        return tokenizer, lambda table: encode_pairs(table, tokenizer, reading, cut=cut)
    tokenizer = posted_tokenizer(problem.model_dir, posted_config())
    return tokenizer, lambda table: encode_posted(table, tokenizer, reading.max_length, reading.style, cut)


def _encoded_valid(arm: Arm, problem: Problem, encode):
    key = (_style(arm), "cut" in arm, "line_break" in arm)
    if key not in problem._readings:
        problem._readings[key] = encode(problem.valid)
    return problem._readings[key]


def _model(arm: Arm, problem: Problem, tokenizer, subset: pd.DataFrame):
    even = np.full(problem.n_classes, 1 / problem.n_classes)
    model = build_model(
        problem.model_dir,
        tokenizer,
        _style(arm),
        list(class_shares(subset["label"], problem.n_classes) if "head" in arm else even),
        settings=ModelSettings(
            pooling="mean" if "head" in arm else "cls",
            freeze_embeddings="frozen" in arm,
            freeze_layers=problem.settings.freeze_layers,
        ),
        fit=None if "line_break" in arm else resize_posted,
    )
    return model


def find_cells(root: str | Path) -> tuple[Path, ...]:
    """Folders named `cells` below `root`: an earlier run's output, attached to go on from."""
    folders = (Path(folder) for folder, _, _ in os.walk(root, followlinks=True))
    return tuple(sorted(folder for folder in folders if folder.name == "cells"))


class CellStore:
    """One file a finished cell, written under another name first: a killed run leaves no half cell behind.

    Args:
        folder: where cells are written.
        key: from `Problem.key`; cells of another problem are not seen.
        attached: further folders to read, such as an earlier run's output.
    """

    def __init__(self, folder: str | Path, key: str, attached: tuple[Path, ...] = ()):
        self.folder, self.key, self.attached = Path(folder), key, tuple(attached)
        with writing(folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{self.key}_{cell.arm}_{cell.rows}_{cell.as_rows}_{cell.seed}.npz"

    def save(self, cell: Cell, outcome: Outcome) -> None:
        """Raises InputError when the disk is full."""
        path = self.path(cell)
        told = {"at": outcome.at, "train_seconds": outcome.train_seconds}
        told |= {"step_seconds": outcome.step_seconds, "predict_seconds": outcome.predict_seconds}
        write_arrays(path, {"probabilities": outcome.probabilities, "told": np.array(json.dumps(told))})

    def load(self, cell: Cell) -> Outcome | None:
        """The stored outcome; None when there is none that can be read."""
        for folder in (self.folder, *self.attached):
            try:
                with np.load(folder / self.path(cell).name, allow_pickle=False) as stored:
                    told = json.loads(str(stored["told"]))
                    return Outcome(stored["probabilities"], **told)
            except FileNotFoundError:
                continue
            except Exception as error:  # zip and numpy raise many kinds; the cell is run again
                print(f"{folder / self.path(cell).name} cannot be read ({error}); this cell is run again")
        return None

    def done(self, cells: list[Cell]) -> set[Cell]:
        return {cell for cell in cells if self.load(cell) is not None}
