"""One trial of an ablation: train one arm on one subset with one seed, and predict the validation rows."""

import math
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from transformers import TrainerCallback

from src_py.ablation.arms import Arm, parse_arm
from src_py.ablation.posted import encode_posted, posted_config, posted_tokenizer, resize_posted
from src_py.config import Settings, setting
from src_py.evaluation.baselines import class_shares
from src_py.kaggle.files import ENCODER_FILES, folder_digest
from src_py.kaggle.identity import helper_digests, key_of, rows_digest
from src_py.kaggle.session import PRECISIONS, free_memory, start_session
from src_py.model.attention_choice import choose_attention
from src_py.model.families import max_tokens
from src_py.model.predict import predict_logits
from src_py.model.preference import ModelSettings, build_model
from src_py.model.saved import SavedSettings, save_trained
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.split import nested_order
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.trainer import TrainingSettings, make_trainer

RECIPE = "ablate_subset_vs_full"


@dataclass(frozen=True)
class TrialSettings(Settings):
    """What all arms share, and the values that a repair sets. Lengths are in tokens; a pair read as one sequence has
    twice `max_length`, so that all arms may read the same amount of text."""

    max_length: int = setting(512, least=16, most=8192)
    epochs: float = setting(2.0, above=0, most=100)
    batch_size: int = setting(16, least=1)
    micro_batch: int = setting(8, least=1)
    lr: float = setting(0.0, least=0, most=1)
    head_lr: float = setting(0.0, least=0, most=1)
    freeze_layers: int = setting(0, least=0)
    evaluations: int = setting(3, least=1)
    precision: str = setting("fp32", choices=PRECISIONS)


@dataclass(frozen=True)
class Trial:
    """`as_rows` is 0 for the arm's own number of epochs; in the control arm, the subset is trained for as many
    optimizer steps as `as_rows` rows get."""

    arm: str
    rows: int
    seed: int
    as_rows: int = 0

    def __str__(self) -> str:
        steps = f" for the steps of {self.as_rows:,} rows" if self.as_rows else ""
        return f"{self.arm}, {self.rows:,} rows{steps}, seed {self.seed}"


@dataclass
class Problem:
    """The fixed part of an ablation.

    Args:
        train: rows to take subsets of, from `load_pairs`; rows of extra files begin at the positions `blocks`.
        valid: the rows that every trial predicts.
        prompts: one key a validation row.
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    prompts: pd.Series
    model_dir: Path
    classes: tuple[str, ...]
    settings: TrialSettings
    blocks: tuple[int, ...] = ()
    _readings: dict = field(default_factory=dict, repr=False)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def identity(self) -> dict:
        """What every trial's result depends on, part by part: settings, rows, encoder and the helpers' code."""
        return {
            "settings": asdict(self.settings),
            "rows": "-".join([rows_digest(self.train), rows_digest(self.valid), *map(str, self.blocks)]),
            "encoder": folder_digest(self.model_dir, ENCODER_FILES),
            "code": helper_digests(),
        }

    def key(self) -> str:
        """Digest of `identity`, 12 hex digits."""
        return key_of(self.identity())


@dataclass
class Outcome:
    """`probabilities` (evaluations, validation rows, classes), NaN where the model diverged; `at` the optimizer steps
    of the evaluations; seconds of training, of a usual optimizer step, and of predicting."""

    probabilities: np.ndarray
    at: list[int]
    train_seconds: float
    step_seconds: float
    predict_seconds: float


def steps_of(trial: Trial, settings: TrialSettings) -> int:
    """Optimizer steps of a trial."""
    batches = math.ceil((trial.as_rows or trial.rows) / _batch(parse_arm(trial.arm), settings)[0])
    return max(1, math.ceil(batches * settings.epochs))


def run_trial(problem: Problem, trial: Trial, model_folder: Path | None = None) -> Outcome:
    """Train and predict; everything random depends on the trial alone. The model is saved in `model_folder`, if given.

    Raises:
        InputError: when the encoder cannot be read, or the folder cannot be written.
    """
    arm, settings = parse_arm(trial.arm), problem.settings
    subset = problem.train.iloc[nested_order(problem.train["label"], trial.seed, problem.blocks)[: trial.rows]]
    tokenizer, encode = _tokenizer_and_encode(arm, problem)
    valid = _encoded_valid(arm, problem, encode)
    start_session(trial.seed)
    model = _model(arm, problem, tokenizer, subset)
    steps = steps_of(trial, settings)
    scratch = Path(tempfile.mkdtemp(prefix="trial-"))
    try:
        trainer = make_trainer(
            model,
            train=encode(subset),
            valid=valid,
            pad_token_id=tokenizer.pad_token_id,
            output_dir=scratch,
            settings=_training_settings(arm, trial, settings),
            precision=settings.precision,
            seed=trial.seed,
        )
        measure = _Measure(valid, tokenizer.pad_token_id, settings, problem.n_classes, steps)
        trainer.add_callback(measure)
        begun = time.perf_counter()
        trainer.train()
        taken = time.perf_counter() - begun - measure.seconds
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if model_folder:
        saved = SavedSettings(RECIPE, problem.classes, _reading(arm, problem), model.architecture.settings)
        save_trained(model, tokenizer, model_folder, saved)
    del model, trainer
    free_memory()
    return Outcome(np.stack(measure.probabilities), measure.at, taken, measure.step_seconds(), measure.seconds)


class _Measure(TrainerCallback):
    """Predicts the validation rows at equal distances, the last time after the last step."""

    def __init__(self, valid, pad_token_id: int, settings: TrialSettings, n_classes: int, steps: int):
        self.valid, self.pad_token_id, self.settings, self.n_classes = valid, pad_token_id, settings, n_classes
        self.marks = {round(steps * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
        self.probabilities: list[np.ndarray] = []
        self.at: list[int] = []
        self.step_times: list[float] = []
        self.seconds = 0.0

    def step_seconds(self) -> float:
        """Median over all steps but the first, which also sets things up."""
        return float(np.median(self.step_times[1:] or self.step_times))

    def on_step_begin(self, args, state, control, **kwargs):
        self.step_begun = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)  # otherwise only the launching of the step is timed
        self.step_times.append(time.perf_counter() - self.step_begun)
        if state.global_step in self.marks or state.global_step == state.max_steps:
            begun = time.perf_counter()
            try:
                logits = predict_logits(
                    model,
                    self.valid,
                    self.pad_token_id,
                    precision=self.settings.precision,
                    progress=False,
                    devices=(str(args.device),),  # the trial's own, not all that this process may see
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


def _training_settings(arm: Arm, trial: Trial, settings: TrialSettings) -> TrainingSettings:
    posted, usual = posted_config(), TrainingSettings()
    batch_size, micro_batch = _batch(arm, settings)
    return TrainingSettings(
        epochs=steps_of(trial, settings) / math.ceil(trial.rows / batch_size),
        lr=settings.lr if "rates" in arm else posted.lr,
        head_lr=settings.head_lr if "rates" in arm else posted.lr,
        layer_decay=usual.layer_decay if "rates" in arm else 1.0,
        warmup=usual.warmup if "warmup" in arm else posted.warmup,
        weight_decay=posted.weight_decay,
        batch_size=batch_size,
        micro_batch=micro_batch,
        evals_per_epoch=0,
    )


def _reading(arm: Arm, problem: Problem) -> Reading:
    """Twice the tokens where both answers share a sequence, as far as the encoder's positions reach."""
    style = "pairwise" if "pairwise" in arm else "joint"
    wanted = problem.settings.max_length * (1 if style == "pairwise" else 2)
    limit = max_tokens(problem.model_dir)
    return Reading(style, wanted if limit is None else min(wanted, limit))


def _tokenizer_and_encode(arm: Arm, problem: Problem):
    """The arm's tokenizer, and a function that encodes a table its way."""
    reading, cut = _reading(arm, problem), "parts" if "cut" in arm else "right"
    if "line_break" in arm:
        tokenizer = load_tokenizer(problem.model_dir)
        return tokenizer, lambda table: encode_pairs(table, tokenizer, reading, cut=cut)
    tokenizer = posted_tokenizer(problem.model_dir, posted_config())
    return tokenizer, lambda table: encode_posted(table, tokenizer, reading.max_length, reading.style, cut)


def _encoded_valid(arm: Arm, problem: Problem, encode):
    key = tuple(repair in arm for repair in ("pairwise", "cut", "line_break"))
    if key not in problem._readings:
        problem._readings[key] = encode(problem.valid)
    return problem._readings[key]


def _model(arm: Arm, problem: Problem, tokenizer, subset: pd.DataFrame):
    even = np.full(problem.n_classes, 1 / problem.n_classes)
    settings, reading = problem.settings, _reading(arm, problem)
    rows = _batch(arm, settings)[1] * (2 if "pairwise" in arm else 1)
    # Measured once in a process; not a setting of the trials, since it changes no result.
    attention = choose_attention(problem.model_dir, "auto", rows, reading.max_length, settings.precision, quiet=True)
    return build_model(
        problem.model_dir,
        tokenizer,
        "pairwise" if "pairwise" in arm else "joint",
        list(class_shares(subset["label"], problem.n_classes) if "head" in arm else even),
        settings=ModelSettings(
            pooling="mean" if "head" in arm else "cls",
            freeze_embeddings="frozen" in arm,
            freeze_layers=settings.freeze_layers,
            attention=attention,
        ),
        fit=None if "line_break" in arm else resize_posted,
    )
