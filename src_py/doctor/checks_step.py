"""Checks of one real optimizer step, of what the optimizer does over the training, and of what is trained."""

import math
from typing import Any

import numpy as np
import torch

from src_py.doctor.checks_model import adam, encoder_of
from src_py.doctor.checks_schedule import _total_steps
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.settings import CODE
from src_py.doctor.untouched import weights_restored
from src_py.errors import InputError
from src_py.model.encoder import encoder_layers, reference_lr

USUAL_BETA = 0.95  # of few steps even the usual 0.9 remembers most: then the steps are too few
STILL = 2e-3  # of the usual rate: less than 24 layers leave of it that each have 0.8 of the next one's
STEPS = 2  # a head that starts at zero passes gradients on from the second step on


def check_first_update(setup: Setup) -> Finding:
    """How far two real steps at the peak rate move the weights, against the rate that suits a model of this size.

    Adam moves every weight by about its rate, whatever the gradient's size: less means that epsilon, clipping or
    another optimizer than Adam swallow the steps. What hardly moves although it is trained is named.
    """
    name = "first steps"
    trainable = [(n, p) for n, p in setup.model.named_parameters() if p.requires_grad]
    if not trainable or setup.scaler().is_enabled():
        return Finding(
            name, SKIP, "nothing is trainable" if not trainable else "fp16: the scale of the loss is unknown"
        )
    if setup.trainer.optimizer is not None:
        held = {id(p) for group in setup.trainer.optimizer.param_groups for p in group["params"]}
        if not any(id(p) in held for _, p in trainable):
            return Finding(name, SKIP, 'the optimizer holds none of the weights: see "optimizer"')
    moved, lowest = _two_steps(setup, trainable)
    if not moved:
        return Finding(name, SKIP, "no matrix gets a gradient")
    # A low rate is another check's; here it counts what becomes of the rate.
    rate = min(reference_lr(setup.model), lowest)
    share = float(np.median(list(moved.values()))) / rate if rate else 0.0
    why, change = _why_still(setup)
    advice = f"Steps hardly move the weights: {why}"
    # Momentum at fifty times Adam's rate moves weights by a few per cent of it at first, and learns.
    limits: dict = {"warn": (0.01, None), "fail": (0.001, None), "form": "{:.2g} of the usual rate"}
    finding = judge(name, share, advice, **limits, change=change)
    still = [n for n, distance in moved.items() if distance < STILL * reference_lr(setup.model)]
    if finding.status == PASS and still and adam(setup):
        advice = f"Hardly moved, though trained: {', '.join(still[:2])}{' and others' if len(still) > 2 else ''}. "
        advice += f"Raise {setup.setting('head_lr')} or {setup.setting('layer_decay')}, or freeze what shall stay."
        measured = f"{len(still)} of {len(moved)} matrices stay"
        now = setup.settings.values
        change = {"head_lr": 0.0} if 0 < now.get("head_lr", 0.0) < setup.args.learning_rate else {}
        change |= {"layer_decay": 0.9} if now.get("layer_decay", 1.0) < 0.5 else {}
        return Finding(name, WARN, measured, "all that are trained move", advice, change)
    return finding


def _two_steps(setup: Setup, trainable: list) -> tuple[dict[str, float], float]:
    """Root mean square distance a step of every trained matrix that gets a gradient, and the lowest rate above zero."""
    trainer, parameters = setup.trainer, [p for _, p in trainable]
    made, scheduler = trainer.optimizer, trainer.lr_scheduler
    rows = setup.batch(setup.sample[: max(1, min(8, setup.micro_batch))])
    with weights_restored(parameters) as before:
        optimizer = made or trainer.create_optimizer()
        fresh, rates = not optimizer.state, [group["lr"] for group in optimizer.param_groups]
        try:
            for group in optimizer.param_groups:  # a scheduler's warmup begins at zero
                group["lr"] = group.get("initial_lr", group["lr"])
            setup.model.train()
            for _ in range(STEPS):
                for p in parameters:
                    p.grad = None
                setup.loss(rows).backward()
                if setup.args.max_grad_norm:
                    torch.nn.utils.clip_grad_norm_(parameters, setup.args.max_grad_norm)
                optimizer.step()
            lowest = min((group["lr"] for group in optimizer.param_groups if group["lr"] > 0), default=0.0)
            moved = {
                n: _rms(p.detach().cpu() - old) / STEPS
                for (n, p), old in zip(trainable, before)
                if p.ndim > 1 and p.grad is not None
            }
        finally:
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate
            if fresh:
                optimizer.state.clear()
            if made is None:
                trainer.optimizer, trainer.lr_scheduler = None, scheduler
    return moved, lowest


def check_decay(setup: Setup) -> Finding:
    """What weight decay takes from a weight over the training: rate times decay, summed over the steps."""
    name, optimizer = "weight decay", setup.trainer.optimizer
    steps, args = _total_steps(setup), setup.args
    groups = [{"lr": args.learning_rate, "weight_decay": args.weight_decay, "params": []}]
    groups = groups if optimizer is None else optimizer.param_groups
    worst, small = 0.0, 0.0
    for group in groups:
        # Of a linear or cosine schedule half of the peak rate is the mean.
        lost = 1 - math.exp(-0.5 * group.get("initial_lr", group["lr"]) * group.get("weight_decay", 0.0) * steps)
        worst = max(worst, lost)
        if any(p.ndim < 2 for p in group["params"]):
            small = max(small, lost)
    if small > 0.02:
        advice = "Norms and biases are pulled to zero: give them weight_decay=0, as the Trainer's own optimizer does."
        return Finding(name, WARN, f"{small:.0%} of norms and biases", "at most 2%", advice)
    advice, change = f"Lower {setup.setting('weight_decay')}: 0.01 to 0.1 is usual.", {"weight_decay": 0.01}
    if max(group.get("weight_decay", 0.0) for group in groups) <= 0.1:
        rate = reference_lr(setup.model)
        advice = f"So high a rate decays the weights too: set {setup.setting('lr')} near {rate:.1e}."
        change = {"lr": rate}
    return judge(name, worst, advice, warn=(None, 0.1), fail=(None, 0.5), form="{:.1%} of the weights", change=change)


def check_betas(setup: Setup) -> Finding:
    """Adam's momentum has to be short against the training, or it averages over steps long gone."""
    optimizer, args = setup.trainer.optimizer, setup.args
    groups = [{"betas": (args.adam_beta1, args.adam_beta2)}] if optimizer is None else optimizer.param_groups
    betas = [group["betas"][0] for group in groups if "betas" in group]
    if not betas:
        return Finding("momentum", SKIP, "not Adam")
    if max(betas) <= USUAL_BETA:
        return Finding("momentum", PASS, f"beta {max(betas):g}", f"at most {USUAL_BETA:g}, or short")
    memory = 1 / max(1e-9, 1 - max(betas)) / _total_steps(setup)
    advice = f"Momentum remembers most of the training: set {setup.setting('beta1')} to 0.9."
    form, change = "{:.0%} of the steps remembered", {"beta1": 0.9}
    return judge("momentum", memory, advice, warn=(None, 0.3), form=form, change=change)


def check_trained_parts(setup: Setup) -> Finding:
    """A fresh head has to be trained, and mostly the encoder too."""
    name, limit = "trained parts", "head and encoder"
    encoder = encoder_of(setup.model)
    inside = {id(p) for p in encoder.parameters()}
    outside = {n: p for n, p in setup.model.named_parameters() if id(p) not in inside}
    head = list(outside.values())
    body = list(encoder.parameters())
    if not any(p.requires_grad for p in (*head, *body)):
        return Finding(name, SKIP, 'nothing is trainable: see "optimizer"', limit)
    if head and not any(p.requires_grad for p in head):
        if hasattr(setup.model, "get_base_model"):  # with adapters (peft), which freezes all else
            parts = sorted({n.removeprefix("base_model.model.").partition(".")[0] for n in outside})
            line = f"LoraConfig(..., modules_to_save={parts})"
            advice = f"The head is frozen, and it is random: make the adapters with {line}."
            return Finding(name, FAIL, "head frozen", limit, advice, {CODE: ("", line)})
        lines = [f"model.{part}.requires_grad_(True)" for part in sorted({n.partition(".")[0] for n in outside})]
        advice = f"The head is frozen, and it is random: {'; '.join(lines)}."
        return Finding(name, FAIL, "head frozen", limit, advice, {CODE: ("", "; ".join(lines))})
    if body and not any(p.requires_grad for p in body):
        how = f"lower {setup.setting('freeze_layers')}" if setup.ours else "set requires_grad=True for the encoder"
        advice = f"Only the head is trained. If that is not meant, {how}."
        return Finding(name, WARN, "encoder frozen", limit, advice)
    layers = _layer_weights(encoder)
    if layers and not any(p.requires_grad for p in layers):
        how = f"lower {setup.setting('freeze_layers')}" if setup.ours else "set requires_grad=True for the layers"
        advice = f"Of the encoder only what lies before or behind its layers is trained. If that is not meant, {how}."
        return Finding(name, WARN, "encoder layers frozen", limit, advice)
    return Finding(name, PASS, "both", limit)


def check_dropout(setup: Setup) -> Finding:
    """Dropout above a half leaves hardly anything of a pretrained encoder."""
    shares = [m.p for m in setup.model.modules() if isinstance(m, torch.nn.Dropout)]
    own = (getattr(m, "attention_dropout", None) for m in setup.model.modules())
    shares += [share for share in own if isinstance(share, float)]
    now = setup.settings.values
    names = ("dropout", "encoder_dropout") if setup.ours else [n for n in now if n.endswith("_config")]
    change = {name: 0.1 for name in names if now.get(name, 0.0) > 0.4}
    which = f"{setup.setting('dropout')} or {setup.setting('encoder_dropout')}" if setup.ours else "the dropout"
    advice = f"Lower {which}: 0 to 0.2 is usual for fine-tuning."
    limits: dict = {"warn": (None, 0.4), "fail": (None, 0.75), "form": "{:.2f}", "change": change}
    return judge("dropout", max(shares, default=0.0), advice, **limits)


STEP_CHECKS = (check_first_update,)
SETTINGS_CHECKS = (check_decay, check_betas, check_trained_parts, check_dropout)


def _layer_weights(encoder) -> list:
    """Parameters of the transformer blocks; empty where it is not known which modules these are."""
    try:
        return list(encoder_layers(encoder).parameters())
    except (InputError, AttributeError, AssertionError):
        return []


def _why_still(setup: Setup) -> tuple[str, dict]:
    """Which setting swallows the steps, and what it should be; a question where none of them is unusual."""
    now = setup.settings.values
    value: Any
    if 0 < now.get("max_grad_norm", 1.0) < 1e-3:
        why, name, value = "gradients are clipped to nothing", "max_grad_norm", 1.0
    elif now.get("epsilon", 0.0) > 1e-4:
        why, name, value = "Adam's epsilon outweighs the gradients", "epsilon", 1e-8
    elif not adam(setup):
        why, name, value = "only Adam steps as far for small gradients", "optim", "adamw_torch"
    else:
        return "is Adam's epsilon large, or are gradients scaled down before the step?", {}
    return f"{why}; set {setup.setting(name)} to {value!r}.", {name: value}


def _rms(values: torch.Tensor) -> float:
    return values.float().pow(2).mean().sqrt().item()
