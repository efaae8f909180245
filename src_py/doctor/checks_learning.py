"""Checks of loss, gradients and the first steps, on small batches of the real rows."""

import math
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import entropy
from transformers import Trainer

from src_py.doctor.checks_model import encoder_of, pretrained
from src_py.doctor.findings import FAIL, PASS, SKIP, Finding, Setup, error_line, judge, out_of_memory
from src_py.doctor.rows import CannotRead, first_set, take
from src_py.doctor.untouched import no_dropout, weights_restored
from src_py.errors import InputError
from src_py.evaluation.baselines import class_shares
from src_py.model.counted import counts_beside, counts_loss
from src_py.model.encoder import encoder_layers, reference_lr

MEMORISE_ROWS, MEMORISE_STEPS = 8, 60


def check_first_step(setup: Setup) -> Finding:
    """What would raise at the first step of training, or at its first evaluation, raises here: collator, forward pass,
    loss and backward pass."""
    name, limit = "first step", "runs"
    try:
        if not setup.targets.fit:  # on a GPU nothing runs after that
            return Finding(name, SKIP, "the model has no output for some labels", limit)
        setup.model.train()
        setup.loss(setup.batch(setup.sample[: min(8, setup.micro_batch)])).backward()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if out_of_memory(error) or isinstance(error, CannotRead):
            raise
        return Finding(name, FAIL, error_line(error), limit, "Training would stop with this error: fix what it names.")
    try:
        _evaluate_two_rows(setup)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if out_of_memory(error) or isinstance(error, CannotRead):
            return Finding(name, PASS, "runs", limit)
        advice = "The first evaluation would stop with this error: fix what it names."
        return Finding(name, FAIL, error_line(error), limit, advice)
    return Finding(name, PASS, "runs", limit)


def check_loss_at_start(setup: Setup) -> Finding:
    """A fresh head knows nothing: its cross entropy is near ln K, or near the class shares' entropy; with counts of
    length and format beside it, near theirs, since they are fitted before the training."""
    name = "loss at the start"
    if setup.kind != "classes":
        return Finding(name, SKIP, setup.kind, "for classes only")
    classes = setup.n_classes
    known = entropy(class_shares(setup.labels, classes))
    setup.model.eval()
    with torch.no_grad():
        rows, size = setup.sample[:64], min(8, setup.micro_batch)
        losses = [_cross_entropy(setup, setup.batch(rows[i : i + size])) for i in range(0, len(rows), size)]
    loss = float(np.mean(losses))
    counts, counted = counts_beside(setup.model), ""
    if counts is not None:
        alone = counts_loss(counts, [row["features"] for row in rows], [row["labels"] for row in rows])
        counted = f", counts alone {alone:.3f}"
    if not math.isfinite(loss):
        advice = f"The loss is not finite: set {setup.setting('fp32')}."
        return Finding(name, FAIL, str(loss), f"near ln {classes} = {math.log(classes):.3f}", advice)
    advice = "The head starts overconfident or the labels do not fit its outputs: use a fresh head with small weights."
    # Our head starts at the class shares; ModernBERT's own draws logits with a spread of 1 (0.9 above, measured). 2:
    # the true class gets less than a seventh (e**-2) of what chance gives it.
    usual = 0.2 if setup.ours else 1.0
    return judge(
        name, loss, advice, warn=(None, math.log(classes) + usual), fail=(None, math.log(classes) + 2),
        form="{:.3f}", note=f" (ln {classes} = {math.log(classes):.3f}, class shares {known:.3f}{counted})",
    )  # fmt: skip


def check_logged_loss(setup: Setup) -> Finding:
    """transformers >= 5 and DeBERTa's forward(**kwargs): the loss is not divided by the accumulation steps (#47688)."""
    trainer, steps = setup.trainer, setup.args.gradient_accumulation_steps
    size = max(1, min(8, setup.micro_batch, len(setup.sample) // steps))
    rows = [setup.sample[i * size : (i + 1) * size] for i in range(steps)]
    batches = [setup.batch(part) for part in rows if part]
    with _stays_without_dropout(setup.model):
        with torch.no_grad():
            direct = float(np.mean([setup.loss(batch).item() for batch in batches]))
        samples, items = trainer.get_batch_samples(iter(batches), len(batches), setup.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        with trainer.accelerator.autocast():
            logged = sum(trainer.training_step(setup.model, setup.again(batch), items).item() for batch in samples)
    advice = (
        "Set model.accepts_loss_kwargs = False: loss and gradients are multiplied by the accumulation steps. It learns "
        "all the same where gradients are clipped, but every logged loss is wrong."
    )
    change = {"accepts_loss_kwargs": False} if getattr(trainer, "model_accepts_loss_kwargs", False) else {}
    # Batches of unequal length change a mean of means by a few per cent, and more where it is one over tokens, of which
    # a decoder predicts one less in each row than transformers counts; a missing division doubles it at least.
    limits = (0.9, 1.1) if setup.kind != "labels of tokens" else (0.5, 1.5)
    return judge(
        "logged loss", logged / direct, advice, warn=limits, form="{:.2f} of the mean",
        note=f" at {steps} accumulations", change=change,
    )  # fmt: skip


def check_gradients(setup: Setup) -> Finding:
    """Gradients reach embeddings, first and last layer and head, finite, in the precision of the training."""
    name, limit = "gradients", "finite and not zero everywhere"
    # A loss scale that GradScaler settles near: small gradients do not vanish in fp16, and large ones have room.
    scale = 1024.0 if setup.scaler().is_enabled() else 1.0
    parts = _parts(setup.model)
    norms, cut = _gradient_norms(setup, parts, scale)
    if not cut and any(norm == 0 for norm in norms.values()):
        # A head that starts at zero passes no gradient on at its first step, and does so from its second on.
        head = [p for p in parts["head"] if p.requires_grad]
        with weights_restored(head):
            for p in head:
                torch.nn.init.normal_(p, std=0.02)
            norms, cut = _gradient_norms(setup, parts, scale)
    measured = ", ".join(f"{part} {norm / scale:.1e}" for part, norm in norms.items())
    bad = cut + [part for part, norm in norms.items() if part not in cut and (not math.isfinite(norm) or norm == 0)]
    advice = f"No usable gradient in {', '.join(bad)}: is the graph cut (detach, no_grad), or does fp16 overflow?"
    return Finding(name, FAIL if bad else PASS, measured, limit, advice if bad else "")


def check_memorises(setup: Setup) -> Finding:
    """A model that cannot learn eight rows by heart cannot learn 57,000."""
    model, name = setup.model, "memorises a batch"
    batches = _memorise_batches(setup)
    encoder = {id(p) for p in encoder_of(model).parameters()} if pretrained(model) else set()
    no_dropout(model)
    # Sixty steps have to do what training does in hundreds: three times the rate of a fine-tuning that can afford
    # it, since a few rows are fitted before the encoder suffers. A tenth of that where it was too much.
    with _without_counts(setup):
        trainable = [p for p in model.parameters() if p.requires_grad]
        frozen = pretrained(model) and not any(id(p) in encoder for p in trainable)
        for rate in (3 * reference_lr(model), 0.3 * reference_lr(model)):
            with weights_restored(trainable):
                share, steps = _memorise(setup, batches, trainable, encoder, rate)
            if share <= 0.5:
                break
    advice = "Not even a few rows can be learned by heart: check that inputs, labels and head belong together."
    # Half of the loss is learned well beyond chance; nine tenths is what a head that sees no inputs reaches. A frozen
    # encoder may not tell eight rows apart by a linear head in a few steps, nor a few steps reach targets far from 0 or
    # those of many tokens, and nothing is known of a model that is not one of transformers.
    bar = None if frozen or not pretrained(model) or setup.kind not in ("classes", "several labels") else 0.9
    return judge(
        name, share, advice, warn=(None, 0.5), fail=(None, bar),
        form="{:.2f} of the first loss", note=f" after {steps} steps",
    )  # fmt: skip


def _evaluate_two_rows(setup: Setup) -> None:
    """What the first evaluation does, where there will be one, and the Trainer evaluates as all do."""
    trainer, data = setup.trainer, first_set(setup.trainer.eval_dataset)
    usual = all(getattr(type(trainer), n) is getattr(Trainer, n) for n in ("evaluate", "evaluation_loop"))
    if data is None or not usual or str(getattr(setup.args.eval_strategy, "value", setup.args.eval_strategy)) == "no":
        return
    rows = take(data, min(2, setup.args.per_device_eval_batch_size))
    if rows:
        setup.model.eval()
        loss_only = setup.args.prediction_loss_only or trainer.compute_metrics is None
        trainer.prediction_step(setup.model, setup.collate(rows), loss_only)


LEARNING_CHECKS = (check_logged_loss, check_gradients, check_memorises, check_loss_at_start)


@contextmanager
def _stays_without_dropout(model):
    """No dropout, which a training step cannot change, so that its loss can be compared with a plain forward's."""
    no_dropout(model)
    own = vars(model).get("train")  # the user's, if there is one
    model.train = lambda mode=True: model
    try:
        yield
    finally:
        del model.train
        if own is not None:
            model.train = own


@contextmanager
def _without_counts(setup: Setup):
    """Class shares in place of counts, which would learn eight rows by heart where a dead encoder cannot."""
    model, counts = setup.model, counts_beside(setup.model)
    if counts is not None:
        shares = torch.tensor(class_shares(setup.labels, setup.n_classes), dtype=torch.float32).clamp(min=1e-3)
        model.counts = _Shares(shares.log().to(setup.args.device))
    try:
        yield
    finally:
        if counts is not None:
            model.counts = counts


class _Shares(torch.nn.Module):
    """Gives every row the same logits."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(features), -1)


def _parts(model) -> dict[str, list]:
    encoder = encoder_of(model)
    inside = {id(p) for p in encoder.parameters()}
    parts = {"head": [p for p in model.parameters() if id(p) not in inside]}
    try:
        layers = encoder_layers(encoder)
        inputs = encoder.get_input_embeddings()
    except (InputError, AttributeError, NotImplementedError):
        return {"model": list(encoder.parameters())} | parts
    first, last = list(layers[0].parameters()), list(layers[-1].parameters())
    return {"embeddings": list(inputs.parameters()), "first layer": first, "last layer": last} | parts


def _gradient_norms(setup: Setup, parts: dict, scale: float) -> tuple[dict[str, float], list[str]]:
    """Norm of the gradients of each part that is trained, and the parts that get none at all."""
    setup.model.zero_grad()
    setup.model.train()
    (setup.loss(setup.batch(setup.sample[: min(4, setup.micro_batch)])) * scale).backward()
    norms, cut = {}, []
    for part, parameters in parts.items():
        trainable = [p for p in parameters if p.requires_grad]
        if trainable:
            gradients = [p.grad.float().norm().item() for p in trainable if p.grad is not None]
            norms[part] = math.sqrt(sum(norm**2 for norm in gradients))
            cut += [] if gradients else [part]
    return norms, cut


def _cross_entropy(setup: Setup, batch: dict) -> float:
    """Mean cross entropy of the labels, without the weights or smoothing of the Trainer's own loss."""
    loss, logits = setup.loss_and_predictions(batch)
    labels = batch.get("labels")
    if logits is None or labels is None or logits.ndim != 2:
        return loss.item()
    return torch.nn.functional.cross_entropy(logits.float(), labels.long()).item()


def _memorise_batches(setup: Setup) -> list[dict]:
    """Eight different rows of less than usual length, of all classes, in parts that training's memory holds."""
    lengths = setup.lengths
    keys = [str(ids) for ids in setup.sample_ids] if setup.reads_tokens else [str(i) for i in range(len(lengths))]
    first = [i for i in np.argsort(lengths, kind="stable") if keys.index(keys[i]) == i]
    pool = first[len(first) // 4 :] or first
    labels = setup.batch_labels if setup.kind == "classes" else np.zeros(len(keys))
    by_class = [[i for i in pool if labels[i] == k] for k in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < MEMORISE_ROWS and any(by_class):
        chosen += [rows.pop(0) for rows in by_class if rows]
    chosen = chosen[:MEMORISE_ROWS]
    size = max(1, min(len(chosen), setup.micro_batch))
    return [setup.batch([setup.sample[i] for i in chosen[at : at + size]]) for at in range(0, len(chosen), size)]


def _memorise(setup: Setup, batches: list[dict], trainable: list, encoder: set, rate: float) -> tuple[float, int]:
    """The loss as a share of the first one after some steps on the same rows, and these steps."""
    # The head starts from nothing: ten times the encoder's rate, as in training, and enough for a tiny model.
    groups = [
        {"params": [p for p in trainable if id(p) in encoder], "lr": rate},
        {"params": [p for p in trainable if id(p) not in encoder], "lr": max(1e-2, 10 * rate)},
    ]
    # Fused, as training has it: the default works on copies of all weights, which is more than training needs.
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0, fused=True)
    scaler, losses = setup.scaler(), []
    for _ in range(MEMORISE_STEPS):
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in batches:
            loss = setup.loss(batch) / len(batches)
            losses[-1] += loss.item()
            scaler.scale(loss).backward()
        if not math.isfinite(losses[-1]) or losses[-1] <= 0.5 * losses[0]:
            break
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()
    return (losses[-1] / losses[0] if losses[0] else 0.0), len(losses)
