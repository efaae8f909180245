"""One trial of an ablation: train one arm on one subset with one seed, and predict the validation rows."""

import math
import shutil
import tempfile
import time
from collections.abc import Set
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from scipy.special import softmax
from transformers import TrainerCallback

from src_py.ablation.arms import Arm, parse_arm
from src_py.ablation.levers import NEEDS
from src_py.ablation.posted import encode_posted, posted_config, posted_tokenizer, resize_posted
from src_py.ablation.problem import RECIPE, Outcome, Problem, Trial
from src_py.ablation.settings import (
    TrialSettings,
    batch_of,
    model_of,
    reading_of,
    steps_for,
    training_of,
)
from src_py.errors import InputError
from src_py.evaluation.baselines import class_shares
from src_py.kaggle.session import free_memory, start_session
from src_py.model.attention_choice import choose_attention
from src_py.model.counted import predict_counts, without_text
from src_py.model.predict import predict_logits
from src_py.model.preference import build_model
from src_py.model.saved import SavedSettings, save_trained
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.split import nested_order
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.trainer import make_trainer

OTHER_SEED = 1_000_000  # between the seeds of models that one trial averages


def steps_of(trial: Trial, settings: TrialSettings, added: int = 0) -> int:
    """Optimizer steps of one model of a trial, with `added` rows beside the subset."""
    return steps_for(parse_arm(trial.arm), settings, (trial.as_rows or trial.rows) + added)


def added_rows(problem: Problem, arm: Arm) -> int:
    """How many rows the arm has beside its subset."""
    return sum(len(rows) for need, rows in problem.added.items() if need in arm.needs)


def check_needs(problem: Problem, arm: Arm) -> None:
    """Raise `InputError` when the rows lack what the arm needs."""
    for need in sorted(arm.needs - problem.has()):
        raise InputError(f"{arm.name} cannot be trained: it needs {NEEDS[need]}.")


def run_trial(problem: Problem, trial: Trial, model_folder: Path | None = None) -> Outcome:
    """Train and predict; everything random depends on the trial alone. The model is saved in `model_folder`, if given.

    Raises:
        InputError: when the encoder cannot be read, the arm asks for what encoder or rows do not have, or the folder
            cannot be written.
    """
    arm = parse_arm(trial.arm)
    check_needs(problem, arm)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seeds = [trial.seed + number * OTHER_SEED for number in range(arm.models)]
    found = [_train(problem, trial, arm, seed, model_folder) for seed in seeds]
    blind = [outcome.blind for outcome in found if outcome.blind is not None]
    return Outcome(
        np.mean([outcome.probabilities for outcome in found], axis=0),
        found[0].at,
        sum(outcome.train_seconds for outcome in found),
        found[0].step_seconds,
        sum(outcome.predict_seconds for outcome in found),
        torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0,
        np.mean(blind, axis=0) if blind else None,
    )


def _train(problem: Problem, trial: Trial, arm: Arm, seed: int, model_folder: Path | None) -> Outcome:
    """One model of a trial; the subset is the trial's, whatever the seed."""
    settings, subset = problem.settings, _rows(problem, trial, arm)
    tokenizer, encode = _tokenizer_and_encode(arm, problem)
    valid = _encoded_valid(arm, problem, encode)
    start_session(seed)
    train = encode(subset, reading_of(arm, settings, problem.encoder_of(arm)))
    model = _model(arm, problem, tokenizer, train, seed)
    start = predict_counts(model, valid)
    steps = steps_of(trial, settings, added_rows(problem, arm))
    scratch = Path(tempfile.mkdtemp(prefix="trial-"))
    try:
        trainer = make_trainer(
            model,
            train=train,
            valid=valid,
            pad_token_id=tokenizer.pad_token_id,
            output_dir=scratch,
            settings=training_of(arm, settings, steps / math.ceil(len(subset) / batch_of(arm, settings)[0])),
            precision=settings.precision,
            seed=seed,
        )
        measure = _Measure(trainer, valid, tokenizer.pad_token_id, settings, problem.n_classes, steps)
        trainer.add_callback(measure)
        begun = time.perf_counter()
        trainer.train()
        taken = time.perf_counter() - begun - measure.seconds
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if model_folder:
        reading = reading_of(arm, settings, problem.encoder_of(arm), predict=True)
        saved = SavedSettings(RECIPE, problem.classes, reading, model.architecture.settings)
        save_trained(model, tokenizer, model_folder, saved)
    predicted, labels = np.stack(measure.probabilities), problem.valid["label"].to_numpy()
    blind = start
    if np.isfinite(predicted[-1]).all():  # else it has diverged, with its counts
        blind = without_text(predicted[-1], start, predict_counts(model, valid), labels)
    del model, trainer
    free_memory()
    return Outcome(predicted, measure.at, taken, measure.step_seconds(), measure.seconds, blind=blind)


class _Measure(TrainerCallback):
    """Predicts the validation rows at equal distances, the last time after the last step."""

    def __init__(self, trainer, valid, pad_token_id: int, settings: TrialSettings, n_classes: int, steps: int):
        self.trainer = trainer
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
                with self.trainer.average.used() if self.trainer.average else nullcontext():
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


def _rows(problem: Problem, trial: Trial, arm: Arm) -> pd.DataFrame:
    """The trial's subset, the rows that a lever adds, and of their columns those that the arm uses."""
    order = nested_order(problem.train["label"], trial.seed, problem.blocks)
    subset = _used(problem.train.iloc[order[: trial.rows]], {"soft", "names"} & arm.needs)
    added = [_used(rows, arm.needs) for need, rows in sorted(problem.added.items()) if need in arm.needs]
    if not added:
        return subset
    rows = pd.concat([subset, *added], ignore_index=True)
    if "soft" in rows:
        none = [math.nan] * problem.n_classes
        rows["soft"] = rows["soft"].map(lambda soft: soft if isinstance(soft, list) else none)
        rows["soft_weight"] = rows["soft_weight"].fillna(0.0)
    if "model_a" in rows:
        rows = rows.fillna({"model_a": "", "model_b": ""})
    return rows


def _used(table: pd.DataFrame, needs: Set[str]) -> pd.DataFrame:
    soft = () if needs & {"soft", "pseudo"} else ("soft", "soft_weight")
    names = () if "names" in needs else ("model_a", "model_b")
    return table.drop(columns=[*soft, *names], errors="ignore")


def _tokenizer_and_encode(arm: Arm, problem: Problem):
    """The arm's tokenizer, and a function that encodes a table its way."""
    cut = "parts" if "cut" in arm else "right"
    if "line_break" in arm:
        tokenizer = load_tokenizer(problem.encoder_of(arm))
        return tokenizer, lambda table, reading: encode_pairs(table, tokenizer, reading, cut=cut)
    tokenizer = posted_tokenizer(problem.encoder_of(arm), posted_config())

    def encode(table: pd.DataFrame, reading: Reading) -> Dataset:
        return encode_posted(table, tokenizer, reading.max_length, reading.style, cut, reading.features)

    return tokenizer, encode


def _encoded_valid(arm: Arm, problem: Problem, encode):
    reading = reading_of(arm, problem.settings, problem.encoder_of(arm), predict=True)
    key = (reading, arm.encoder, *(repair in arm for repair in ("cut", "line_break")))
    if key not in problem._readings:
        problem._readings[key] = encode(_used(problem.valid, frozenset()), reading)
    return problem._readings[key]


def _model(arm: Arm, problem: Problem, tokenizer, train: Dataset, seed: int):
    settings, folder = problem.settings, problem.encoder_of(arm)
    reading = reading_of(arm, settings, folder)
    even = np.full(problem.n_classes, 1 / problem.n_classes)
    rows = batch_of(arm, settings)[1] * (2 if reading.style == "pairwise" else 1)
    # Measured once in a process; not a setting of the trials, since it changes no result.
    attention = choose_attention(folder, "auto", rows, reading.max_length, settings.precision, quiet=True)
    return build_model(
        folder,
        tokenizer,
        reading.style,
        list(class_shares(train["labels"], problem.n_classes) if "head" in arm else even),
        settings=model_of(arm, settings, attention),
        fit=None if "line_break" in arm else resize_posted,
        features=reading.features,
        train=train,
        seed=seed,
    )
