"""Watch a training run: say what happens at every evaluation, and stop for what cannot get better."""

import math
import time
from collections import deque

import torch
from transformers import TrainerCallback

from src_py.evaluation.baselines import constant_log_loss
from src_py.evaluation.metrics import evaluation_metrics

LOW_SPREAD = 0.02  # standard deviation of the predicted probabilities over rows; learning runs pass it at once
NO_SPREAD = 1e-4
SKIPPED_WINDOW, SKIPPED_SHARE = 50, 0.25


def watch(trainer, stop: bool = True) -> "Watcher":
    """Add a `Watcher` to any Trainer for sequence classification with labelled evaluation rows.

    Its `compute_metrics` is extended by log loss, accuracy, predicted-class shares and spread; what it
    computed before stays.

    Args:
        stop: end the training for what cannot get better; otherwise only say so.
    """
    own = trainer.compute_metrics
    trainer.compute_metrics = lambda prediction: (own(prediction) if own else {}) | evaluation_metrics(prediction)
    watcher = Watcher(trainer, stop)
    trainer.add_callback(watcher)
    return watcher


class Watcher(TrainerCallback):
    """Prints a line at every evaluation and recognises five ways in which a run is lost.

    `events` holds what was recognised, as sentences.
    """

    def __init__(self, trainer, stop: bool):
        labels = [_labels(data) for data in (trainer.train_dataset, trainer.eval_dataset)]
        classes = int(max(map(max, labels))) + 1
        self.constant = constant_log_loss(*labels, n_classes=classes)
        # The least that one answer for all rows can reach, with hindsight: on few rows below `constant`.
        self.best_constant = constant_log_loss(labels[1], labels[1], n_classes=classes)
        self.stop, self.events = stop, []
        self.trainer, self.evaluations, self.training_loss = trainer, [], math.nan
        self.skipped, self.losses = deque(maxlen=SKIPPED_WINDOW), []
        self.started, self.first = time.monotonic(), 0
        self._compute_loss = trainer.compute_loss
        trainer.compute_loss = self._watched_loss

    def on_train_begin(self, args, state, control, **_):
        self.started, self.first = time.monotonic(), state.global_step

    def on_step_end(self, args, state, control, **_):
        if self.losses:
            losses, self.losses = torch.stack([loss.float().mean() for loss in self.losses]), []
            if not torch.isfinite(losses).all():
                self._event(control, f"step {state.global_step}: the loss is NaN or infinite; lower CFG.lr, or set "
                                     "CFG.precision='fp32' to see whether fp16 overflows.")  # fmt: skip
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        if scaler is not None and scaler.is_enabled():
            self.skipped.append(bool(self.trainer.accelerator.optimizer_step_was_skipped))
            # The first steps look for the right scale and are skipped in any healthy run.
            if state.global_step >= 2 * SKIPPED_WINDOW and sum(self.skipped) > SKIPPED_SHARE * SKIPPED_WINDOW:
                self._event(control, f"{sum(self.skipped)} of the last {len(self.skipped)} fp16 steps were skipped: "
                                     "activations overflow; set CFG.precision='fp32' or lower CFG.lr.")  # fmt: skip
            elif state.global_step % SKIPPED_WINDOW == 0 and scaler.get_scale() < 1:
                self._event(control, "The fp16 loss scale has fallen below 1: set CFG.precision='fp32'.")

    def on_log(self, args, state, control, logs=None, **_):
        self.training_loss = (logs or {}).get("loss", self.training_loss)

    def on_evaluate(self, args, state, control, metrics, **_):
        row = {name: metrics.get(f"eval_{name}", math.nan) for name in ("log_loss", "accuracy", "spread")}
        self.evaluations.append(row | {"step": state.global_step, "training_loss": self.training_loss})
        pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first)
        left = pace * (state.max_steps - state.global_step)
        shares = " ".join(f"{v:.2f}" for k, v in metrics.items() if k.startswith("eval_predicted_"))
        print(
            f"step {state.global_step:>5}/{state.max_steps}  log loss {row['log_loss']:.4f} "
            f"({row['log_loss'] - self.constant:+.4f} to constant)  accuracy {row['accuracy']:.3f}  "
            f"shares {shares}  spread {row['spread']:.3f}  {left / 60:.1f} min left",
            flush=True,
        )
        warmup = args.get_warmup_steps(state.max_steps)
        problem = diagnose(self.evaluations, self.constant, self.best_constant, warmup, state.max_steps)
        if problem:
            self._event(control, f"step {state.global_step}: {problem}")

    def _watched_loss(self, model, inputs, *args, **kwargs):
        result = self._compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            self.losses.append((result[0] if isinstance(result, tuple) else result).detach())
        return result

    def _event(self, control, sentence: str) -> None:
        self.events.append(sentence)
        print(sentence + (" Stopped." if self.stop else ""), flush=True)
        control.should_training_stop = control.should_training_stop or self.stop


def diagnose(
    evaluations: list[dict], constant: float, best_constant: float, warmup_steps: int, max_steps: int
) -> str | None:
    """What is wrong after the latest evaluation, in one sentence; None while the run may still learn.

    Args:
        evaluations: dicts with step, log_loss, spread and training_loss, in order.
        constant: log loss of the constant predictor on the same rows.
        best_constant: entropy of the class shares of these rows.
    """
    now = evaluations[-1]
    earlier = evaluations[:-1]
    if not math.isfinite(now["log_loss"]):
        return "the predictions are NaN or infinite; lower CFG.lr, or set CFG.precision='fp32'."
    best = min(e["log_loss"] for e in evaluations)
    flat = now["log_loss"] > best_constant - 0.003
    if flat and now["step"] > warmup_steps and now["spread"] < NO_SPREAD:
        return "every row gets the same prediction (collapse); lower CFG.lr, or try another CFG.seed."
    if flat and earlier and earlier[-1]["step"] > warmup_steps / 2 and now["step"] > warmup_steps:
        # A slow learner's spread grows from one evaluation to the next; a collapsed model's does not. Late in
        # the run there is no time left to wait for it.
        patience = 1.2 if now["step"] < 0.75 * max_steps else 1.5
        low = max(now["spread"], earlier[-1]["spread"]) < LOW_SPREAD
        if low and now["spread"] <= patience * earlier[-1]["spread"]:
            return (
                f"predictions hardly vary between rows (spread {now['spread']:.4f}) and do not begin to: collapse; "
                "lower CFG.lr, lengthen CFG.warmup, or try another CFG.seed."
            )
    if best < best_constant - 0.01 and now["log_loss"] > constant + 0.05:
        return f"diverged: log loss {now['log_loss']:.3f} after {best:.3f}; lower CFG.lr. The best weights are kept."
    recent = evaluations[-3:]
    memorising = now["training_loss"] < constant - 0.15 and all(e["log_loss"] >= constant for e in recent)
    if len(evaluations) >= 4 and memorising:
        return (
            "the training loss falls while validation stays at the constant predictor: it learns rows by heart; "
            "use more rows, CFG.freeze_layers, or fewer CFG.epochs."
        )
    return None


def _labels(dataset) -> list[int]:
    name = "labels" if "labels" in dataset.column_names else "label"
    return list(dataset[name])
