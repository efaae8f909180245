"""Checks of the loss itself: what it says of predictions that are known to be right, wrong, or to say nothing; and
whether it gets logits."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import cross_entropy, nll_loss

from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup
from src_py.doctor.untouched import no_dropout

SURE = 3.0  # the logit of the right class: a cross entropy of 0.1 with three classes
# Of the loss that knows nothing, what predictions that are right may still cost: 0.1 of it with three classes; 0.3 with
# label smoothing 0.1; 0.6 where a softmax is taken twice.
RIGHT_COSTS, RIGHT_COSTS_MOST = 0.45, 0.8
TRIED = 3  # modules at the end of the model that may make its logits
SMOOTHED = 0.1  # the usual label smoothing
SAME = 1e-4  # nats: rounding of float32
# What may be done to logits before a cross entropy by mistake, and what comes of it.
_ACTIVATIONS: dict[str, tuple[Callable, str]] = {
    "softmax": (lambda x: x.softmax(-1), "which takes a softmax itself"),
    "sigmoid": (torch.sigmoid, "so that right answers are never sure"),
    "tanh": (torch.tanh, "so that right answers are never sure"),
    "ReLU": (torch.relu, "so that logits below zero get no gradient"),
}
RARE_COUNTS = 0.2  # of a row of the most frequent class; weights for rare classes are above 1


def check_loss_of_known_predictions(setup: Setup) -> Finding:
    """A loss falls as predictions get better, is small when they are right, and takes every row into account.

    The model's logits are replaced by known ones, where they leave the model, so that whatever loss the Trainer
    computes is asked: a reduction over the wrong axis, a softmax too many, a sign, ignored rows, inverted weights.
    """
    name, limit = "loss of known predictions", f"right ones at most {RIGHT_COSTS:.0%} of knowing nothing"
    if setup.kind != "classes":
        return Finding(name, SKIP, setup.kind, "for classes only")
    batch = setup.batch(setup.sample[: max(2, min(8, setup.micro_batch))])
    if "labels" not in batch or batch["labels"].min() < 0:
        return Finding(name, SKIP, "no labels in a batch, or rows without one", limit)
    head = _last_module(setup, batch)
    if head is None:
        return Finding(name, SKIP, "no module of the model makes the predictions alone", limit)
    labels, classes = batch["labels"].long(), head[1]
    sure = SURE * torch.nn.functional.one_hot(labels, classes).float()
    losses = {
        what: _loss_of(setup, batch, head[0], logits)[0]
        for what, logits in {"right": sure, "flat": torch.zeros_like(sure), "wrong": sure.roll(1, 1)}.items()
    }
    measured = f"right {losses['right']:.2f}, flat {losses['flat']:.2f}, wrong {losses['wrong']:.2f}"
    if setup.settings.values.get("label_smoothing", 0.0) > SMOOTHED and losses["right"] > RIGHT_COSTS * losses["flat"]:
        fails = losses["right"] > RIGHT_COSTS_MOST * losses["flat"]
        advice = f"Lower {setup.setting('label_smoothing')}: labels that are spread so far say hardly anything."
        return Finding(name, FAIL if fails else WARN, measured, limit, advice, {"label_smoothing": SMOOTHED})
    advice = "Compute cross_entropy(logits, labels) as it is: "
    if not all(map(math.isfinite, losses.values())):
        return Finding(name, FAIL, measured, limit, "The loss of finite predictions is not finite.")
    if losses["right"] < -0.01:
        return Finding(name, FAIL, measured, limit, advice + "a loss below zero has a wrong sign or no logarithm.")
    if not losses["right"] < losses["flat"] < losses["wrong"]:
        return Finding(name, FAIL, measured, limit, advice + "this one does not fall as predictions get better.")
    share = losses["right"] / losses["flat"]
    if share > RIGHT_COSTS:
        why = (
            "predictions that are right cost almost as much as others: a softmax taken twice, smoothing, a temperature?"
        )
        return Finding(name, FAIL if share > RIGHT_COSTS_MOST else WARN, measured, limit, advice + why)
    if losses["wrong"] - losses["flat"] < losses["flat"] - losses["right"]:
        why = "what is wrong costs little more than what is unsure: an error of probabilities learns slowly."
        return Finding(name, WARN, measured, limit, advice + why)
    if len(labels) > 3 and abs(losses["flat"] / (len(labels) * math.log(classes)) - 1) < 0.02:
        why = "this one is a sum over rows: loss and gradients grow with the rows of a batch."
        return Finding(name, WARN, measured, limit, advice + why)
    return _rows_that_count(setup, batch, head[0], torch.zeros_like(sure), measured, limit)


def check_logits(setup: Setup) -> Finding:
    """The loss gets the model's logits, and not what an activation made of them.

    A module's output is replaced by a known one, and the predictions say what was made of it. A softmax is seen in the
    predictions themselves, too.
    """
    name, limit = "logits", "no activation before the loss"
    if setup.kind != "classes":
        return Finding(name, SKIP, setup.kind, "for classes only")
    batch = setup.batch(setup.sample[: max(2, min(8, setup.micro_batch))])
    if "labels" not in batch or batch["labels"].min() < 0:
        return Finding(name, SKIP, "no labels in a batch, or rows without one", limit)
    returned, loss, made = _forward(setup, batch)
    if made is None or made.ndim != 2 or len(made) != len(batch["labels"]):
        return Finding(name, SKIP, "the model does not make one prediction for each row", limit)
    made = made.float().cpu()
    if not _is_cross_entropy(setup, loss, made, batch):
        return Finding(name, SKIP, "the loss is not a cross entropy of the predictions", limit)
    shaped = dict.fromkeys(module for module, output in reversed(returned) if output.shape == made.shape)
    tried = (_activation(setup, batch, module, made.shape) for module in [*shaped][:TRIED])
    found = next((kind for kind in tried if kind), None)
    if found is None and bool((made >= 0).all()) and bool(((made.sum(1) - 1).abs() < SAME).all()):
        # Equal probabilities cost the same where their logarithm is taken, as it should be.
        surprise = nll_loss(made.log(), batch["labels"].long().cpu()).item()
        found = "softmax" if abs(surprise - loss) > 10 * SAME else None
    if found is None:
        return Finding(name, PASS, "as the model makes them", limit)
    advice = f"The model puts its logits through a {found} before the cross entropy, {_ACTIVATIONS[found][1]}: return "
    return Finding(name, WARN, f"{found} on the logits", limit, advice + "the logits as the last layer makes them.")


LOSS_CHECKS = (check_loss_of_known_predictions, check_logits)


def _rows_that_count(setup: Setup, batch: dict, head, flat: torch.Tensor, measured: str, limit: str) -> Finding:
    """The gradient of each row's logits: zero where a row is ignored, small where its class weighs little."""
    name = "loss of known predictions"
    _, gradients = _loss_of(setup, batch, head, flat)
    if gradients is None:
        return Finding(name, FAIL, measured, limit, "No gradient reaches the logits: is the loss detached?")
    sizes = gradients.norm(dim=1).numpy()
    ignored = float((sizes == 0).mean())
    if ignored:
        advice = f"{ignored:.0%} of a batch's rows have no part in the loss: ignore_index, or only some rows are used?"
        return Finding(name, FAIL if ignored > 0.5 else WARN, measured, limit, advice)
    labels, all_labels = batch["labels"].cpu().numpy(), setup.labels
    counts = np.bincount(all_labels[all_labels >= 0].astype(int), minlength=labels.max() + 1)
    common, rare = (pick(np.unique(labels), key=lambda k: counts[k]) for pick in (max, min))
    ratio = sizes[labels == rare].mean() / sizes[labels == common].mean()
    if counts[rare] < 0.5 * counts[common] and ratio < RARE_COUNTS:
        advice = f"A row of the rare class {rare} counts {ratio:.2f} of one of class {common}: are weights inverted?"
        return Finding(name, WARN, measured, limit, advice)
    return Finding(name, PASS, measured, limit)


def _last_module(setup: Setup, batch: dict) -> tuple[torch.nn.Module, int] | None:
    """The module that makes the model's logits, and how many classes there are.

    Mostly its output is the logits. A decoder picks one place of each text out of it, multiple choice puts the choices
    side by side: such a module is found by giving it other outputs, which then have to be the model's.
    """
    returned, _, logits = _forward(setup, batch)
    if logits is None or logits.ndim != 2 or len(logits) != len(batch["labels"]):
        return None
    shaped = [module for module, output in reversed(returned) if _as_output(logits, output.shape) is not None]
    probe = torch.linspace(-1, 1, logits.numel(), device=logits.device).reshape(logits.shape)
    for module in dict.fromkeys(shaped[:TRIED]):
        with torch.no_grad(), _replaced(module, probe):
            _, made = setup.loss_and_predictions(batch)
        if made is not None and torch.allclose(made.float(), probe, atol=1e-2):
            return module, logits.shape[1]
    return None


def _forward(
    setup: Setup, batch: dict
) -> tuple[list[tuple[torch.nn.Module, torch.Tensor]], float, torch.Tensor | None]:
    """What each module returns for a batch without dropout, in their order, the loss, and the model's predictions."""
    returned: list[tuple[torch.nn.Module, torch.Tensor]] = []

    def note(module, inputs, output):
        if isinstance(output, torch.Tensor):
            returned.append((module, output))

    handles = [module.register_forward_hook(note) for module in setup.model.modules() if module is not setup.model]
    no_dropout(setup.model)
    try:
        with torch.no_grad():
            loss, logits = setup.loss_and_predictions(batch)
    finally:
        for handle in handles:
            handle.remove()
    return returned, loss.item(), logits


def _is_cross_entropy(setup: Setup, loss: float, made: torch.Tensor, batch: dict) -> bool:
    labels = batch["labels"].long().cpu()
    return abs(loss - cross_entropy(made, labels, label_smoothing=setup.args.label_smoothing_factor).item()) < SAME


def _activation(setup: Setup, batch: dict, module: torch.nn.Module, shape: torch.Size) -> str | None:
    """Which activation makes the model's predictions of a module's output, told by giving it another output."""
    probe = torch.linspace(-1, 1, shape.numel()).reshape(shape)
    with torch.no_grad(), _replaced(module, probe.clone().to(setup.args.device)):
        loss, made = setup.loss_and_predictions(batch)
    if made is None or made.shape != shape or not _is_cross_entropy(setup, loss.item(), made.float().cpu(), batch):
        return None
    made = made.float().cpu()
    return next(
        (kind for kind, (make, _) in _ACTIVATIONS.items() if torch.allclose(make(probe), made, atol=1e-2)), None
    )


@contextmanager
def _replaced(module: torch.nn.Module, logits: torch.Tensor) -> Iterator[None]:
    """Let a module return these logits, in the shape and precision of its own output."""

    def replace(_, inputs, output):
        given = _as_output(logits, output.shape)
        return output if given is None else given.to(output.dtype)

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _as_output(logits: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """Logits (rows, classes) in the shape of an output: the same numbers, or the same at every place of a text."""
    if logits.numel() == shape.numel():
        return logits.reshape(shape)
    if len(shape) == 3 and (shape[0], shape[2]) == logits.shape:
        return logits[:, None].expand(shape)
    return None


def _loss_of(
    setup: Setup, batch: dict, head: torch.nn.Module, logits: torch.Tensor
) -> tuple[float, torch.Tensor | None]:
    """The Trainer's training loss where the model's logits are these, and its gradient for them; None without one."""
    given = logits.to(batch["labels"].device).clone().requires_grad_()
    restore = _training_flags(setup.model)
    try:
        for module in setup.model.modules():
            module.training = True
        with _replaced(head, given):
            loss = setup.loss(batch)
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, given, allow_unused=True)
    finally:
        restore()
    return loss.item(), None if gradient is None else gradient.detach().float().cpu()


def _training_flags(model) -> Callable[[], None]:
    flags = {module: module.training for module in model.modules()}

    def restore() -> None:
        for module, flag in flags.items():
            module.training = flag

    return restore
