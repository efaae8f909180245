"""Run one set-up: what the doctor says before, during and after training, and what the trained model is worth."""

import hashlib
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks.doctor_bench.case import OURS, Case
from benchmarks.doctor_bench.setups import Setup
from src_py.doctor import check_before_training, judge_training, watch
from src_py.evaluation.baselines import constant_log_loss
from src_py.evaluation.report import history_table

WORST = 5.0  # nats a row at most: what a loss that is not finite counts, too


def check(setup: Setup, folder: Path) -> dict:
    """What the check before training says; `unchanged`: weights, gradients and random state are as they were."""
    case = setup.make(folder)
    try:
        case.build()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers crashes with a BaseException
        return {"error": _line(error), "findings": [], "seconds": 0.0, "unchanged": True}
    tables = (case.tables["train"], case.tables["valid"]) if case.kind == OURS else (None, None)
    before, started = _state(case.trainer), time.perf_counter()
    try:
        report = check_before_training(case.trainer, case.tokenizer, *tables)
    except Exception as error:
        return {"error": _line(error), "findings": [], "seconds": 0.0, "unchanged": True}
    found = [[f.check, f.status, f.measured, f.advice] for f in report.findings]
    seconds = time.perf_counter() - started
    return {"error": "", "findings": found, "seconds": seconds, "unchanged": before == _state(case.trainer)}


def train(setup: Setup, folder: Path, watched: bool = True) -> dict:
    """Train with the watcher, which does not stop, and judge; without `watched` the weights' digest alone.

    `losses` are those of the test rows, in nats, at most `WORST`; None where there is no model, since an error ended
    the training.
    """
    case = setup.make(folder)
    shutil.rmtree(folder / "run", ignore_errors=True)
    started = time.perf_counter()
    found: dict = {"error": "", "events": [], "notes": [], "evaluations": [], "losses": None, "verdict": ["", ""]}
    try:
        case.build()
        resumed = _first_half(case, setup, folder) if case.resumed else None
        watcher = watch(case.trainer, stop=False) if watched else None
        steps = _Steps()
        case.trainer.add_callback(steps)
        case.trainer.train(resume_from_checkpoint=resumed)
    except Exception as error:
        return found | {"error": _line(error), "seconds": time.perf_counter() - started, "max_steps": 0, "weights": ""}
    found |= {"weights": _digest(case.trainer.model), "max_steps": case.trainer.state.max_steps}
    if watcher is None:
        return found | {"seconds": time.perf_counter() - started}
    log = case.trainer.state.log_history
    found["events"], found["notes"] = [[_step(text), text] for text in watcher.events], watcher.notes
    found["evaluations"] = [[e["step"], e[name]] for e in log if (name := _loss_name(e))]
    found["training losses"] = [[e["step"], e["loss"]] for e in log if "loss" in e]
    with suppress(ValueError, TypeError):
        found["constant"] = _constant(case)
    found |= _predicted(case)
    return found | {"seconds": time.perf_counter() - started}


def _predicted(case: Case) -> dict:
    """Losses of the test rows, and the verdict on the validation rows."""
    found: dict = {}
    try:
        labels = case.tables["test"]["label"].to_numpy()
        found["losses"] = _row_losses(_logits(case, "test"), labels)
        probabilities = _softmax(_logits(case, "valid"))
        history = history_table(case.trainer.state.log_history)
        valid = case.tables["valid"]
        prompts = valid["prompt"].map(lambda turns: turns[0] if turns else "")
        verdict = judge_training(case.tables["train"], valid, probabilities, prompts, history)
        found["verdict"] = [verdict.name, verdict.sentence]
    except Exception as error:
        found["verdict"] = ["", _line(error)]
    return found


def _logits(case: Case, part: str) -> np.ndarray:
    case.trainer.compute_metrics = None
    # With steps of equal length, transformers predicts in that order, too: not in that of the rows.
    case.trainer.args.train_sampling_strategy = "random"
    predictions = case.trainer.predict(case.datasets[part]).predictions
    return np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions, dtype=np.float64)


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def _row_losses(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return np.nan_to_num(losses, nan=WORST, posinf=WORST).clip(max=WORST).round(4).tolist()


def _constant(case: Case) -> float:
    labels = [case.tables[part]["label"].to_numpy() for part in ("train", "test")]
    return constant_log_loss(*labels, int(max(x.max() for x in labels)) + 1)


def _loss_name(entry: dict) -> str | None:
    names = ("eval_log_loss", "eval_loss", "eval_one_log_loss")
    return next((name for name in names if name in entry), None)


class _Steps(TrainerCallback):
    """Ends a run whose set-up has no rhythm of its own, so that the benchmark ends."""

    LIMIT = 600

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.LIMIT


class _Half(TrainerCallback):
    """Stops half-way, and saves."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == state.max_steps // 2:
            control.should_save = control.should_training_stop = True


def _first_half(case: Case, setup: Setup, folder: Path) -> str:
    other = setup.make(folder).build()
    other.trainer.add_callback(_Half())
    other.trainer.train()
    return str(next((folder / "run").glob("checkpoint-*")))


def _state(trainer) -> str:
    """A digest of all that the check must leave alone."""
    digest = hashlib.sha256(_digest(trainer.model).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    digest.update(repr(np.random.get_state()[1][:20]).encode())
    digest.update(repr([p.grad is None for p in trainer.model.parameters()]).encode())
    digest.update(repr([module.training for module in trainer.model.modules()]).encode())
    return digest.hexdigest()


def _digest(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _step(text: str) -> int:
    found = re.match(r"step (\d+)", text)
    return int(found.group(1)) if found else 0


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
