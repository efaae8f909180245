"""Checks of the evaluation: enough rows, metrics that depend on the predictions, and what is chosen by them."""

import math
import re
from numbers import Real

import numpy as np
import torch
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback

from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.rows import LABEL_NAMES, first_set, row_count
from src_py.doctor.untouched import evaluating

ROWS = 64  # of made-up predictions
# Words in the names of metrics whose better values are lower, or higher; one of `_TURNED` turns them round.
_LOWER = {"loss", "logloss", "rmse", "mse", "mae", "rmsle", "mcrmse", "wer", "cer", "perplexity"}
_HIGHER = {"accuracy", "acc", "f1", "auc", "auroc", "precision", "recall", "mcc"}
_TURNED = {"neg", "negative", "negated", "minus", "inverse", "inv", "error"}
_ALWAYS = {"loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch"}


def check_validation_rows(setup: Setup) -> Finding:
    """Of few rows a loss is known too roughly to choose by."""
    name, data = "validation rows", first_set(setup.trainer.eval_dataset)
    count = None if data is None else row_count(data)
    if count is None:
        return Finding(name, SKIP, "none, or a stream")
    how = f"lower {setup.setting('n_folds')}" if setup.ours else f"give {setup.setting('n_folds')} more"
    advice = f"On so few rows the loss is mostly chance: {how}, for a hundred rows or more."
    return judge(name, count, advice, warn=(50, None), form="{:.0f}")


def check_metrics(setup: Setup) -> Finding:
    """The user's metrics tell right predictions from wrong ones, made up for the purpose."""
    name, limit, compute = "metrics", "depend on the predictions", setup.trainer.compute_metrics
    if compute is None or setup.kind != "classes" or setup.args.batch_eval_metrics:
        return Finding(name, SKIP, "none, or not of classes", limit)
    if setup.runs and _several_outputs(setup):
        return Finding(name, SKIP, "the model returns more than predictions", limit)
    right, wrong = (_numbers(one) for one in _right_and_wrong(setup))
    if not right:
        return Finding(name, SKIP, "they are no numbers", limit)
    same = right == wrong
    advice = "compute_metrics gives right and wrong predictions the same values: does it read labels as predictions?"
    return Finding(
        name, FAIL if same else PASS, "the same for all" if same else "differ", limit, advice if same else ""
    )


def check_best_model(setup: Setup) -> Finding:
    """The metric by which the best model is chosen is among those of an evaluation, and its better values are chosen.

    Which values are better is measured where predictions can be made up; the metric's name says it otherwise.
    """
    name, limit, args = "best model", "chosen by better values", setup.args
    stops = any(isinstance(one, EarlyStoppingCallback) for one in setup.trainer.callback_handler.callbacks)
    if not args.metric_for_best_model or str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
        return Finding(name, SKIP, "none is chosen", limit)
    metric = args.metric_for_best_model.removeprefix("eval_")
    found = _metrics_of_known_predictions(setup)
    names = _ALWAYS | {key.removeprefix("eval_") for one in found or () for key in one}
    if _usual_evaluation(setup) and (found or setup.trainer.compute_metrics is None) and metric not in names:
        given = ", ".join(sorted({"loss"} | names - _ALWAYS))
        advice = f"The first evaluation will raise a KeyError: an evaluation gives {given}. Set "
        advice += f"{setup.setting('best_metric')} to one of them, or let compute_metrics return {metric!r}."
        return Finding(name, WARN, f"no metric is called {metric!r}", "one that an evaluation gives", advice)
    if not (args.load_best_model_at_end or stops):
        return Finding(name, SKIP, "none is chosen", limit)
    greater, sure = _greater_is_better(metric, found)
    measured = f"{metric}, {'greatest' if args.greater_is_better else 'least'} value"
    if greater is None or greater == bool(args.greater_is_better):
        return Finding(name, PASS, measured, limit)
    what = "The best model is chosen" if args.load_best_model_at_end else "When training stops is decided"
    advice = f"{what} by the {'least' if greater else 'greatest'} {metric}, and that is the worst: set "
    advice += f"{setup.setting('greater_is_better')} to {greater}."
    return Finding(name, FAIL if sure else WARN, measured, limit, advice, {"greater_is_better": greater})


def check_names_of_classes(setup: Setup) -> Finding:
    """Datasets and the model's config give the classes their names in one order.

    Other names are not compared: they may be other words for the same classes.
    """
    name, limit, trainer = "names of classes", "in one order", setup.trainer
    valid = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    sets = {"the training rows": trainer.train_dataset}
    sets |= {f"the validation rows {which}".strip(): data for which, data in valid.items()}
    orders = {where: _class_names(data, trainer.label_names) for where, data in sets.items()}
    orders["model.config.id2label"] = _names_in_config(getattr(setup.model, "config", None))
    known = [(where, names) for where, names in orders.items() if names]
    if len(known) < 2:
        return Finding(name, SKIP, "not named, or in one place only", limit)
    (first, names), *others = known
    for where, other in others:
        if names != other and sorted(names) == sorted(other):
            said = [", ".join(order[:6]) + (", ..." if len(order) > 6 else "") for order in (names, other)]
            advice = f"{first} call the classes {said[0]}, and {where} {said[1]}: a number means another class there. "
            advice += "Bring them into one order (Dataset.align_labels_with_mapping, id2label)."
            return Finding(name, WARN, f"another order in {where}", limit, advice[0].upper() + advice[1:])
    return Finding(name, PASS, ", ".join(names[:3]) + (", ..." if len(names) > 3 else ""), limit)


def _right_and_wrong(setup: Setup) -> list[dict]:
    """What the user's metrics say of right predictions, and of wrong ones."""
    labels = np.resize(setup.labels[setup.labels >= 0], ROWS).astype(int)
    right = 4.0 * np.eye(setup.n_classes)[labels]
    return [_metrics(setup, made, labels) for made in (right, np.roll(right, 1, axis=1))]


def _numbers(metrics: dict) -> dict[str, float]:
    """Those that are one number: of Python, of numpy, or a tensor."""
    arrays = {
        k: np.asarray(v) for k, v in metrics.items() if isinstance(v, (Real, np.generic, np.ndarray, torch.Tensor))
    }
    return {k: float(v) for k, v in arrays.items() if v.size == 1 and v.dtype.kind in "biuf"}


def _metrics_of_known_predictions(setup: Setup) -> list[dict] | None:
    """`_right_and_wrong`; None where predictions cannot be made up."""
    if setup.trainer.compute_metrics is None or setup.kind != "classes" or setup.args.batch_eval_metrics:
        return None
    try:
        return None if setup.runs and _several_outputs(setup) else _right_and_wrong(setup)
    except Exception:  # the user's metrics may need what was not made up
        return None


def _greater_is_better(metric: str, found: list[dict] | None) -> tuple[bool | None, bool]:
    """Whether greater values of a metric are better, None if that is not known; and whether that is sure."""
    if metric == "loss":  # the one that is trained
        return False, True
    values = [(n := _numbers(one)).get(metric, n.get(f"eval_{metric}")) for one in found or ()]
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if len(numbers) == 2:
        right, wrong = numbers
        if abs(right - wrong) > 0.01 * max(abs(right), abs(wrong)):
            return right > wrong, True
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    if words & _TURNED or bool(words & _LOWER) == bool(words & _HIGHER):
        return None, False
    return bool(words & _HIGHER), False


def _usual_evaluation(setup: Setup) -> bool:
    """Whether an evaluation gives what `compute_metrics` returns and no more: one set, and no method of the user's."""
    trainer, methods = setup.trainer, ("evaluate", "_evaluate", "evaluation_loop", "_determine_best_metric")
    own = any(n in vars(trainer) or getattr(type(trainer), n, 0) is not getattr(Trainer, n, 0) for n in methods)
    kinds = [type(one) for one in trainer.callback_handler.callbacks if hasattr(one, "on_evaluate")]
    adds = any(k.on_evaluate is not TrainerCallback.on_evaluate and "transformers." not in k.__module__ for k in kinds)
    return not own and not adds and not isinstance(trainer.eval_dataset, dict)


def _class_names(data, label_names) -> list[str]:
    """Names of the label column's classes, in their order and in small letters; empty where they are not known."""
    features = getattr(data, "features", None) or {}
    for column in (*label_names, *LABEL_NAMES):
        feature = features.get(column)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names:
            return [str(one).lower() for one in names]
    return []


def _names_in_config(config) -> list[str]:
    named = getattr(config, "id2label", None) or {}
    names = [str(named.get(k, "")).lower() for k in range(len(named))]
    return [] if any(one == f"label_{k}" for k, one in enumerate(names)) else names


def _several_outputs(setup: Setup) -> bool:
    """Whether metrics get a tuple (an encoder-decoder returns the encoder's vectors too), which cannot be made up."""
    with evaluating(setup.model):
        _, outputs, _ = setup.trainer.prediction_step(setup.model, setup.batch(setup.sample[:1]), False)
    return isinstance(outputs, (list, tuple))


def _metrics(setup: Setup, logits: np.ndarray, labels: np.ndarray) -> dict:
    before = getattr(setup.trainer, "preprocess_logits_for_metrics", None)
    if before is not None:
        logits = np.asarray(before(torch.as_tensor(logits), torch.as_tensor(labels)))
    return setup.trainer.compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))


EVALUATION_CHECKS = (check_validation_rows, check_metrics, check_best_model, check_names_of_classes)
