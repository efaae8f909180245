"""What a Trainer's labels are, and what its model predicts: a class of each row, numbers, or labels of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from src_py.doctor.rows import LABEL_NAMES, CannotRead
from src_py.doctor.untouched import evaluating

IGNORED = -100  # the label that a cross entropy leaves out


@dataclass(frozen=True)
class Targets:
    """What the labels of a sample are.

    Attributes:
        kind: "classes", "regression", "several labels" of a row, "labels of tokens" or "of pixels", or "no labels".
        labels: as the collator gives them to the model, (rows,) or (rows, labels); those of tokens or pixels one after
            the other, (labels,); empty if there are none.
        outputs: columns of the model's predictions; None where they are not known.
    """

    kind: str
    labels: np.ndarray
    outputs: int | None

    @property
    def fit(self) -> bool:
        """Whether the model has an output for every label that counts."""
        if self.kind != "classes" or self.outputs is None or not np.issubdtype(self.labels.dtype, np.integer):
            return True
        used = self.labels[self.labels != IGNORED]
        return bool((used >= 0).all() and (used < self.outputs).all())


def read_targets(setup) -> Targets:
    """The targets of a set-up's sample. Collates it, and puts at most two rows through the model, without gradients."""
    names, found, widths = _names(setup.trainer), [], []
    for start in range(0, len(setup.sample), 16):
        batch = setup.collate(setup.sample[start : start + 16])
        name = next((n for n in names if n in batch), None)
        if name is None:
            return Targets("no labels", np.array([]), None)
        found.append(np.asarray(batch[name].cpu()))
        widths.append(batch["input_ids"].shape[-1] if "input_ids" in batch else None)
    if not found:
        return Targets("no labels", np.array([]), None)
    if _of_parts(found, widths):
        kind = "labels of tokens" if found[0].ndim == 2 else "labels of pixels"
        return Targets(kind, np.concatenate([labels.ravel() for labels in found]), None)
    labels = np.concatenate(found)
    problem = getattr(getattr(setup.model, "config", None), "problem_type", None)
    several = labels.ndim > 1 and labels.shape[1] > 1
    if problem == "multi_label_classification" or (several and problem != "regression"):
        return Targets("several labels", labels, None)
    outputs = count_outputs(setup)
    return Targets("regression" if problem == "regression" or outputs == 1 else "classes", labels, outputs)


def count_outputs(setup) -> int | None:
    """Columns of the model's predictions; None where they cannot be known.

    A model of the user's own often has a head that its config knows nothing of, so that it is asked for two rows.
    """
    known = getattr(getattr(setup.model, "head", None), "n_classes", None)
    stated = getattr(getattr(setup.model, "config", None), "num_labels", None)
    if known or not setup.runs:
        # Only transformers' own classes keep to what their config says.
        return known or (stated if isinstance(setup.model, PreTrainedModel) else None)
    try:
        with evaluating(setup.model):
            made = predict(setup, setup.batch(setup.sample[: min(2, setup.micro_batch)]))
    except Exception:  # what training would raise too is the first step's to say
        return stated
    return made.shape[1] if made.ndim == 2 else stated


def predict(setup, batch) -> torch.Tensor:
    """The model's predictions for a batch, (rows, outputs) where it makes one for a row, as float32 on the CPU.

    Without labels if the model can do without them: a GPU does not survive one that is out of range. In the mode that
    the model is in, and without autocast, whose rounding would be seen.

    Raises:
        CannotRead: when nothing that the model returns looks like predictions.
    """
    names = {*setup.trainer.label_names, *LABEL_NAMES}
    if not isinstance(batch, Mapping):
        raise CannotRead("the batches are not dicts: only the Trainer's own loss can read them")
    with torch.no_grad():
        try:
            outputs = setup.model(**{name: value for name, value in batch.items() if name not in names})
        except (TypeError, ValueError, KeyError, AttributeError):
            # It needs labels, or its inputs are made in a loss of the user's own.
            _, outputs, _ = setup.trainer.prediction_step(setup.model, dict(batch), prediction_loss_only=False)
    found = predictions(outputs)
    if found is None:
        raise CannotRead("the model returns no predictions")
    return found.detach().float().cpu()


def predictions(outputs) -> torch.Tensor | None:
    """The first tensor with numbers for each row among a model's outputs, or the one named `logits`; None without."""
    if isinstance(outputs, Mapping):
        outputs = [outputs["logits"]] if "logits" in outputs else list(outputs.values())
    flat = [outputs] if isinstance(outputs, torch.Tensor) else outputs if isinstance(outputs, (list, tuple)) else []
    return next((x for x in flat if isinstance(x, torch.Tensor) and x.ndim > 1 and x.is_floating_point()), None)


def _names(trainer) -> list[str]:
    """Where labels may stand in a batch. Several names (start and end of an answer) are not labels of rows."""
    own = trainer.label_names if len(trainer.label_names) == 1 else []
    return [*own, *LABEL_NAMES]


def _of_parts(found: list[np.ndarray], widths: list) -> bool:
    """Whether each token or pixel of a row has a label, so that there are as many of them, or a batch pads them."""
    if found[0].ndim != 2 or found[0].shape[1] == 1:
        return found[0].ndim > 2
    if len({labels.shape[1] for labels in found}) > 1:
        return True
    padded = any((labels == IGNORED).any() for labels in found)
    as_many = all(labels.shape[1] == width for labels, width in zip(found, widths))
    return np.issubdtype(found[0].dtype, np.integer) and (padded or as_many)
