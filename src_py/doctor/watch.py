"""Watch a training run: say what happens at every evaluation, and stop what cannot get better."""

import math
import sys
import time
from itertools import groupby

import numpy as np
import torch
from scipy.special import softmax
from torch import distributed
from transformers import TrainerCallback

from src_py.doctor.diagnose import DEAD, STILL, Run, diagnose, learns_by_heart, rises_after_best
from src_py.doctor.predicted import are_classes, logits_of, predicts_rows, untrained_spread
from src_py.doctor.rows import LABEL_NAMES, CannotRead, column, first_set
from src_py.doctor.settings import setting
from src_py.doctor.steps import Steps
from src_py.evaluation.baselines import constant_log_loss
from src_py.evaluation.metrics import evaluation_metrics
from src_py.kaggle.page import say
from src_py.model.counted import counts_beside, counts_logits, counts_loss

LABEL_ROWS = 20_000  # rows read for the class shares of a dataset without columns, and for the counts' training loss
TEXT_SPREAD = "text_spread"  # spread of the predictions by the text alone, where the model has counts beside it
NOT_FINITE = 3  # losses in a row that are NaN or infinite while the weights are sound: not one odd batch any more
# GradScaler starts at 2**16 and halves at every skip: after 25 in a row no gradient can be too large for it.
SKIPPED_IN_A_ROW = 25
SKIPPED_WINDOW, SKIPPED_SHARE = 50, 0.25  # the search for the scale takes about 16 of the first steps


def watch(trainer, stop: bool = True) -> "Watcher":
    """Add a `Watcher` to any Trainer.

    What its `compute_metrics` computed stays; log loss, accuracy, predicted-class shares and spread are added where
    labels are classes, the spread alone for other predictions of a row, and nothing where tokens or pixels have them. A
    few evaluation rows are predicted at once, to know the untrained model; training is bit-identical with and without
    the watcher, as long as it does not stop.

    Args:
        stop: end the training when it cannot get better; otherwise only say so.
    """
    watcher = Watcher(trainer, stop)
    trainer.add_callback(watcher)
    return watcher


class Watcher(TrainerCallback):
    """Prints a line at every evaluation and recognises a run that is lost: collapse, NaN, divergence, no learning.

    `events` holds why the run cannot get better, `notes` what else was noticed, as sentences. Of several processes each
    judges the mean loss of all, and so comes to the same end; the first one prints.
    """

    def __init__(self, trainer, stop: bool):
        self.trainer, self.stop = trainer, stop
        self.events: list[str] = []
        self.notes: list[str] = []
        self.classes = _class_names(trainer)
        self.run = Run(max_steps=1, untrained=math.nan)
        self._read_labels()
        self.started, self.first, self.scale = time.monotonic(), 0, None
        self.steps = Steps(trainer.model)
        self.losses: list[torch.Tensor] = []
        self.skipped: list[bool] = []
        self.not_finite = 0
        self._own_metrics, self._compute_loss = trainer.compute_metrics, trainer.compute_loss
        # Metrics that come batch by batch have a form of the user's own.
        if not trainer.args.batch_eval_metrics and predicts_rows(trainer):
            trainer.compute_metrics = self._metrics
        self.counted = self._read_counts()
        self.run.untrained = untrained_spread(trainer)
        trainer.compute_loss = self._watched_loss

    @property
    def constant(self) -> float | None:
        """Log loss of the constant predictor on the evaluation rows; None where labels are not classes."""
        return self.run.constant

    @property
    def best_constant(self) -> float | None:
        """The least that one answer for all rows can reach, with hindsight: on few rows below `constant`."""
        return self.run.best_constant

    def on_train_begin(self, args, state, control, **_):
        self.started, self.first, self.steps = time.monotonic(), state.global_step, Steps(self.trainer.model)
        self.run.max_steps, self.run.warmup_steps = state.max_steps, args.get_warmup_steps(state.max_steps)
        if state.global_step:  # a run that is resumed: what was seen before the interruption
            self._recall(state.log_history)

    def on_step_begin(self, args, state, control, **_):
        self.steps.begin()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        if optimizer is not None:
            self.steps.before(optimizer)
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        self.scale = scaler.get_scale() if scaler is not None and scaler.is_enabled() else None

    def on_step_end(self, args, state, control, **_):
        self.steps.after(state.global_step, state.max_steps, scaled=self.scale is not None)
        for sentence in self.steps.notes.values():
            self._note(sentence)
        if self.steps.lost and not self.events:
            self._event(control, f"step {state.global_step}: {self.steps.lost}")
        losses, self.losses = [loss.float().mean() for loss in self.losses], []
        if (loss := _mean_of_all(losses, args)) is not None:
            self._judge_loss(state.global_step, loss, control)
        if self.scale is not None:
            # accelerate's own `optimizer_step_was_skipped` stays False with a fused optimizer (accelerate#4242).
            self.skipped.append(self.trainer.accelerator.scaler.get_scale() < self.scale)
            self._judge_skips(state.global_step, control)

    def on_evaluate(self, args, state, control, metrics=None, **_):
        sets = self.trainer.eval_dataset
        prefix = f"eval_{next(iter(sets))}_" if isinstance(sets, dict) and sets else "eval_"
        metrics = {k.removeprefix(prefix): v for k, v in (metrics or {}).items() if k.startswith(prefix)}
        loss = metrics.get("log_loss", metrics.get("loss"))
        if loss is None:
            return  # another of several evaluation sets, or one without labels
        spread = metrics.get("spread", math.nan)
        if "log_loss" not in metrics:  # another loss cannot be compared with the constant predictor's log loss
            self.run.constant = self.run.best_constant = None
        seen = {"step": state.global_step, "log_loss": loss, "spread": metrics.get(TEXT_SPREAD, spread)}
        self.run.evaluations.append(seen)
        self._say(self._line(state, metrics, loss, spread))
        problem = diagnose(self.run)
        if problem:
            self._event(control, f"step {state.global_step}: {problem.sentence}; {self._advice(problem.kind, loss)}.")
        elif rises_after_best(self.run):
            best = min(self.run.evaluations, key=lambda e: e["log_loss"])
            self._note(f"the validation loss has risen since its best, {best['log_loss']:.4f} at step {best['step']}: "
                       f"keep those weights ({setting(self.trainer, 'keep_best')}), or lower "
                       f"{setting(self.trainer, 'epochs')}.")  # fmt: skip
        if not problem and learns_by_heart(self.run):
            self._note("the training loss falls while validation stays above the constant predictor: it learns rows "
                       f"by heart; use more rows, raise {setting(self.trainer, 'freeze_layers')}, or lower "
                       f"{setting(self.trainer, 'epochs')}.")  # fmt: skip

    def _advice(self, kind: str, loss: float) -> str:
        """What to change, by the kind of problem."""
        lr, warmup, table = (setting(self.trainer, name) for name in ("lr", "warmup", "table"))
        if not math.isfinite(loss):
            return f"lower {lr}, or set {setting(self.trainer, 'fp32')}"
        if kind == STILL:
            return f"see {table}: it says whether {lr} is too low, or what else keeps the weights where they are"
        if kind == DEAD:
            return f"see {table} for texts that read alike; if it finds none, lower {lr}, or lengthen {warmup}"
        return f"lower {lr}, or lengthen {warmup}"

    def _line(self, state, metrics: dict, loss: float, spread: float) -> str:
        pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first)
        minutes = pace * (state.max_steps - state.global_step) / 60
        if "log_loss" not in metrics:
            text = f"loss {loss:.4f}"
        else:
            shares = " ".join(f"{v:.2f}" for k, v in metrics.items() if k.startswith("predicted_"))
            text = f"log loss {loss:.4f} ({loss - (self.constant or math.nan):+.4f} to constant"
            text += ")" if self.run.counts is None else f", {loss - self.run.counts:+.4f} to the counts alone)"
            text += f", accuracy {metrics['accuracy']:.3f}, predicted shares {shares}"
        text += f", spread between rows {spread:.3f}" if "spread" in metrics else ""
        return f"step {state.global_step}/{state.max_steps}: {text}, {minutes:.1f} min left"

    def _watched_loss(self, model, inputs, *args, **kwargs):
        result = self._compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            self.losses.append((result[0] if isinstance(result, tuple) else result).detach())
        return result

    def _judge_loss(self, step: int, loss: float, control) -> None:
        self.run.step_losses.append((step, loss))
        if math.isfinite(loss):
            self.not_finite = 0
            return
        self.not_finite += 1
        # A GradScaler skips such a step, and a Trainer of one's own may; else the weights are lost at once.
        if self.not_finite >= NOT_FINITE or not _finite_weights(self.trainer.model):
            self._event(control, f"step {step}: the loss is NaN or infinite; lower {setting(self.trainer, 'lr')}, or "
                                 f"set {setting(self.trainer, 'fp32')} to see whether fp16 overflows.")  # fmt: skip

    def _judge_skips(self, step: int, control) -> None:
        remedy = f"activations overflow; set {setting(self.trainer, 'fp32')} or lower {setting(self.trainer, 'lr')}."
        if all(self.skipped[-SKIPPED_IN_A_ROW:]) and len(self.skipped) >= SKIPPED_IN_A_ROW:
            self._event(control, f"step {step}: the last {SKIPPED_IN_A_ROW} fp16 steps were all skipped: {remedy}")
        recent = self.skipped[-SKIPPED_WINDOW:]
        if len(self.skipped) >= 2 * SKIPPED_WINDOW and sum(recent) > SKIPPED_SHARE * SKIPPED_WINDOW:
            self._note(f"more than {SKIPPED_SHARE:.0%} of {SKIPPED_WINDOW} fp16 steps were skipped: {remedy}")

    def _metrics(self, prediction) -> dict[str, float]:
        own = self._own_metrics(prediction) if self._own_metrics else {}
        logits, labels = logits_of(prediction), prediction.label_ids
        if logits is None:
            return own
        if not are_classes(logits, labels):
            return own | {"spread": float(logits.astype(np.float64).std(0).mean())}
        if self.run.best_constant is None:
            self.run.best_constant = constant_log_loss(labels, labels, logits.shape[1])
            self.run.constant = self.run.best_constant
        names = self.classes if self.classes and len(self.classes) == logits.shape[1] else None
        added = evaluation_metrics(prediction, names)
        counts = counts_beside(self.trainer.model)
        if counts is not None and self.counted is not None and len(self.counted) == len(logits):
            with self.trainer.accelerator.autocast():  # as the logits were made
                text = logits - counts_logits(counts, self.counted)
            added[TEXT_SPREAD] = float(softmax(text, axis=1).std(0).mean())
        if any(name.startswith("predicted_") for name in own):
            added = {name: value for name, value in added.items() if not name.startswith("predicted_")}
        return own | added

    def _read_labels(self) -> None:
        """Class shares of both datasets, where they can be read; else the first evaluation brings them."""
        try:
            sets = [self.trainer.train_dataset, first_set(self.trainer.eval_dataset)]
            found = [column(data, self.trainer.label_names + list(LABEL_NAMES), LABEL_ROWS) for data in sets]
            labels = [x for x in found if x is not None and len(x) and x.ndim == 1]
            if len(labels) == 2 and all(np.issubdtype(x.dtype, np.integer) for x in labels):
                classes = int(max(x.max() for x in labels)) + 1
                self.run.constant = constant_log_loss(labels[0], labels[1], classes)
                self.run.best_constant = constant_log_loss(labels[1], labels[1], classes)
        except (CannotRead, TypeError, ValueError):
            pass

    def _read_counts(self) -> np.ndarray | None:
        """Features of the evaluation rows, and the losses of the counts alone, where the model starts from them."""
        counts, found = counts_beside(self.trainer.model), []
        if counts is None:
            return None
        sets = (self.trainer.train_dataset, LABEL_ROWS), (first_set(self.trainer.eval_dataset), sys.maxsize)
        try:
            for data, most in sets:
                features, labels = (column(data, [name], most) for name in ("features", "labels"))
                if features is None or labels is None or not len(labels):
                    return None
                found.append((features, counts_loss(counts, features, labels)))
        except (CannotRead, TypeError, ValueError, IndexError):  # no set, or one of another form
            return None
        (_, self.run.counts_training), (features, self.run.counts) = found
        return features

    def _recall(self, log_history: list[dict]) -> None:
        seen, own = [e for e in log_history if "eval_log_loss" in e and "eval_spread" in e], f"eval_{TEXT_SPREAD}"
        self.run.evaluations = [
            {"step": e["step"], "log_loss": e["eval_log_loss"], "spread": e.get(own, e["eval_spread"])} for e in seen
        ]
        # Logged losses are means over the steps since the entry before.
        logged, before = [(e["step"], e["loss"]) for e in log_history if "loss" in e], 0
        for step, loss in (pair for _, group in groupby(logged, key=lambda pair: pair[0]) for pair in list(group)[:1]):
            self.run.step_losses += [(number, loss) for number in range(before + 1, step + 1)]
            before = step

    def _event(self, control, sentence: str) -> None:
        self.events.append(sentence)
        self._say(sentence + (" Stopped." if self.stop else ""))
        control.should_training_stop = control.should_training_stop or self.stop

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        if self.trainer.args.process_index == 0:
            say(sentence)


def _class_names(trainer) -> list[str] | None:
    """Names of the classes, from the dataset's features or the model's config; None where only numbers are known."""
    features = getattr(trainer.train_dataset, "features", None) or {}
    for name in LABEL_NAMES:
        names = getattr(features.get(name) if hasattr(features, "get") else None, "names", None)
        if names:
            return list(names)
    named = getattr(getattr(trainer.model, "config", None), "id2label", None) or {}
    names = [str(named[k]) for k in sorted(named)]
    return None if all(name.startswith("LABEL_") for name in names) else names


def _mean_of_all(losses: list[torch.Tensor], args) -> float | None:
    """Mean loss of a step over all processes, so that all see what one has seen; None where none computed a loss."""
    if args.world_size == 1 or not distributed.is_initialized():
        return torch.stack(losses).mean().item() if losses else None
    # Every process takes part at every step, with or without losses: otherwise the others would wait for it.
    total = torch.stack([*losses, torch.zeros((), device=args.device)]).sum().double()
    both = torch.stack([total, torch.full_like(total, len(losses))])
    distributed.all_reduce(both)
    total, count = both.tolist()
    return total / count if count else None


def _finite_weights(model) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)
