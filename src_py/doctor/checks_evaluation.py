"""Checks of the evaluation: enough rows, and metrics that depend on the predictions."""

import numpy as np
import torch
from transformers import EvalPrediction

from src_py.doctor.findings import FAIL, PASS, SKIP, Finding, Setup, judge
from src_py.doctor.rows import first_set, row_count
from src_py.doctor.untouched import evaluating

ROWS = 64  # of made-up predictions


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
    labels = np.resize(setup.labels[setup.labels >= 0], ROWS).astype(int)
    right = 4.0 * np.eye(setup.n_classes)[labels]
    if setup.runs and _several_outputs(setup):
        return Finding(name, SKIP, "the model returns more than predictions", limit)
    found = [_metrics(setup, made, labels) for made in (right, np.roll(right, 1, axis=1))]
    numbers = [{key: float(value) for key, value in one.items() if np.size(value) == 1} for one in found]
    if not numbers[0]:
        return Finding(name, SKIP, "they are no numbers", limit)
    same = numbers[0] == numbers[1]
    advice = "compute_metrics gives right and wrong predictions the same values: does it read labels as predictions?"
    return Finding(
        name, FAIL if same else PASS, "the same for all" if same else "differ", limit, advice if same else ""
    )


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


EVALUATION_CHECKS = (check_validation_rows, check_metrics)
