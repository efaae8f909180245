"""Train the posted notebook with one remedy after the other, and show what each of them brings."""

import math
import tempfile
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.special import softmax
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from src_py.ablation.posted import PostedConfig, posted_trainer
from src_py.ablation.problem import Problem, Trial
from src_py.ablation.remedies import Step
from src_py.ablation.results import baselines
from src_py.ablation.schedule import time_trials
from src_py.ablation.trials import run_trial
from src_py.doctor.findings import error_line
from src_py.doctor.verdict import judge_training
from src_py.doctor.watch import watch
from src_py.evaluation.report import half_width, history_table
from src_py.evaluation.style import BLUE, DASHES, ORANGE, VERMILION, new_figure
from src_py.kaggle.session import free_memory, start_session

TIMED_STEPS, TIMED_ROWS = 4, 32


@dataclass
class Tried:
    """What came of a step: `probabilities` (validation rows, classes), NaN where it has none; `ended` says at which
    optimizer step, and why if too early."""

    step: Step
    probabilities: np.ndarray
    verdict: str
    ended: str
    minutes: float


def forecast_steps(problem: Problem, steps: list[Step]) -> dict[str, float]:
    """Minutes of every step, at most, from a few optimizer steps of each way to read and batch on this machine."""
    paces: dict[tuple, tuple[float, float]] = {}
    trials = {step.name: Trial(step.arm, len(problem.train), 0) for step in steps if step.arm}
    timed = time_trials(problem, list(trials.values()))
    minutes = {}
    for step in steps:
        if step.config is None:
            minutes[step.name] = timed[trials[step.name]]
            continue
        config = step.config
        read = (str(config.added_tokens), config.cut, config.float32, config.precision)
        shape = (*read, config.batch_size, config.accumulation, config.one_gpu)
        if shape not in paces:
            paces[shape] = _pace(problem, config)
        a_step, a_row = paces[shape]
        count = math.ceil(math.ceil(len(problem.train) / _rows_a_step(config)) * config.epochs)
        minutes[step.name] = (count * a_step + (config.evaluations + 1) * len(problem.valid) * a_row) / 60
    return minutes


def describe_forecast(minutes: dict[str, float]) -> str:
    """Two lines."""
    return (
        f"{len(minutes)} trainings take about {sum(minutes.values()):.1f} minutes on this machine, the longest "
        f"{max(minutes.values()):.1f}.\nThose that the watcher stops take less; to shorten all of them, lower CFG.rows."
    )


def run_step(problem: Problem, step: Step) -> Tried:
    """Train a step and predict the validation rows; the watcher ends a training that is lost.

    A training that raises is a result, too: the posted notebook cannot train a checkpoint in half precision.
    """
    begun = time.perf_counter()
    print(step.name, flush=True)
    if step.config is None:
        outcome = run_trial(problem, Trial(step.arm, len(problem.train), 0))
        steps, blind, history = outcome.at[-1], outcome.blind, None
        probabilities, ended = outcome.probabilities[-1], f"{steps} of {steps}"
    else:
        probabilities, history, ended = _train(problem, step.config)
        blind = None
    verdict = "no result"
    if np.isfinite(probabilities).all():
        verdict = judge_training(problem.train, problem.valid, probabilities, problem.prompts, history, blind).name
    free_memory()
    return Tried(step, probabilities, verdict, ended, (time.perf_counter() - begun) / 60)


def tried_table(problem: Problem, tried: list[Tried]) -> pd.DataFrame:
    """One row a training: the verdict; its log loss, how much lower that is than in the last row with a result
    (`brings`, with half of its 95 % interval, both NaN for the first), and how far from the constant predictor's (as in
    the log: above 0 is worse); the share of the most frequent answer."""
    constant, prompts = baselines(problem)["constant predictor"], pd.factorize(problem.prompts)[0]
    rows, before = [], np.full(len(prompts), np.nan)
    for one in tried:
        losses = _losses(problem, one)
        rows.append(
            {
                "training": one.step.name,
                "verdict": one.verdict,
                "log loss": losses.mean(),
                "brings": (before - losses).mean(),
                "± (95 %)": half_width(before - losses, prompts),
                "to constant": (losses - constant).mean(),
                "most given answer": _most_given(one.probabilities),
                "steps": one.ended,
                "minutes": round(one.minutes, 1),
            }
        )
        if np.isfinite(losses).all():
            before = losses
    return pd.DataFrame(rows).set_index("training").round(4).replace(-0.0, 0.0)


def plot_tried(problem: Problem, tried: list[Tried]) -> Figure:
    """Log loss of every training, from above to below, against the lines of the constant predictor and of lengths
    alone; the bars are 95 % intervals of the distance to the constant predictor."""
    lines, prompts = baselines(problem), pd.factorize(problem.prompts)[0]
    figure, axes = new_figure(figsize=(8.5, 1.6 + 0.38 * len(tried)))
    for number, one in enumerate(tried):
        losses = _losses(problem, one)
        color, marker = (ORANGE, "s") if one.step.arm else (BLUE, "o")
        if np.isfinite(losses).all():
            reach = half_width(losses - lines["constant predictor"], prompts)
            axes.errorbar(losses.mean(), number, xerr=reach, fmt=marker, color=color, capsize=3)
        else:
            axes.text(lines["constant predictor"].mean(), number, " no result", va="center", color=VERMILION)
    for dashes, (name, losses) in zip(DASHES, lines.items()):
        axes.axvline(losses.mean(), color="black", linestyle=dashes, linewidth=1, label=f"{name} {losses.mean():.4f}")
    axes.set_yticks(range(len(tried)), [one.step.name for one in tried])
    axes.invert_yaxis()
    axes.set(xlabel="validation log loss (left is better)", title="What each remedy brings, on top of those above it")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _train(problem: Problem, config: PostedConfig) -> tuple[np.ndarray, pd.DataFrame | None, str]:
    """Probabilities, history, and at which step the training ended."""
    none = np.full((len(problem.valid), problem.n_classes), np.nan)
    with tempfile.TemporaryDirectory() as folder:
        start_session(config.seed)
        trainer, _ = posted_trainer(problem.model_dir, problem.train, problem.valid, folder, config, problem.n_classes)
        trainer.remove_callback(PrinterCallback)
        watcher = watch(trainer)
        try:
            trainer.train()
            logits = np.asarray(trainer.predict(trainer.eval_dataset).predictions, dtype=np.float64)
        except (RuntimeError, ValueError) as error:
            print(f"It ends with an error: {error_line(error)}", flush=True)
            return none, None, f"an error at {trainer.state.global_step + 1}"
    step, steps = trainer.state.global_step, trainer.state.max_steps
    ended = f"{step} of {steps}" + (" (watcher)" if watcher.events and step < steps else "")
    if not np.isfinite(logits).all():
        return none, None, ended
    return softmax(logits, axis=1), history_table(trainer.state.log_history), ended


def _pace(problem: Problem, config: PostedConfig) -> tuple[float, float]:
    """Seconds of an optimizer step and of predicting a row; zeros where the training raises."""
    train = _spread(problem.train, TIMED_STEPS * _rows_a_step(config))
    valid = _spread(problem.valid, TIMED_ROWS)
    short = replace(config, epochs=1.0, evaluations=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = posted_trainer(problem.model_dir, train, valid, folder, short, problem.n_classes)
        trainer.remove_callback(PrinterCallback)
        timer = _StepTimer()
        trainer.add_callback(timer)
        try:
            trainer.train()
            begun = time.perf_counter()
            trainer.predict(trainer.eval_dataset)
            predicted = time.perf_counter() - begun
        except (RuntimeError, ValueError):
            return 0.0, 0.0
    free_memory()
    return timer.median(), predicted / len(valid)


class _StepTimer(TrainerCallback):
    """Seconds of the optimizer steps, all but the first, which also sets things up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **_):
        self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)  # otherwise only the launching of the step is timed
        self.seconds.append(time.perf_counter() - self.begun)

    def median(self) -> float:
        return float(np.median(self.seconds[1:] or self.seconds))


def _rows_a_step(config: PostedConfig) -> int:
    gpus = 1 if config.one_gpu else max(1, torch.cuda.device_count())
    return config.batch_size * config.accumulation * gpus


def _spread(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """So many rows, from all over the table."""
    return table.iloc[:: max(1, len(table) // rows)][:rows]


def _losses(problem: Problem, one: Tried) -> np.ndarray:
    labels = problem.valid["label"].to_numpy()
    return -np.log(one.probabilities[np.arange(len(labels)), labels].clip(1e-15))


def _most_given(probabilities: np.ndarray) -> float:
    if not np.isfinite(probabilities).all():
        return math.nan
    return float(np.bincount(probabilities.argmax(1)).max() / len(probabilities))
