"""Checks of weights, loss, gradients and memory, on small batches of the real rows."""

import json
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from scipy.stats import entropy
from torch.overrides import TorchFunctionMode

from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge, sequences
from src_py.evaluation.baselines import class_shares
from src_py.model.encoder import reference_lr
from src_py.model.families import max_tokens

FP16_MAX = 65504.0
MEMORISE_ROWS, MEMORISE_STEPS = 8, 60


def check_weights_dtype(setup: Setup) -> Finding:
    """transformers 5 loads the public fp16 checkpoints as fp16: GradScaler refuses, or AdamW's updates round away."""
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in setup.model.parameters() if p.requires_grad})
    wrong = kinds not in ([], ["float32"])
    advice = "Load the encoder with dtype=torch.float32; autocast does the half precision."
    return Finding("weights", FAIL if wrong else PASS, ", ".join(kinds), "float32", advice if wrong else "")


def check_sequence_length(setup: Setup) -> Finding:
    """BERT and RoBERTa have a fixed number of positions; DeBERTa-v3's relative ones have no limit."""
    name = "sequence length"
    config = _encoder(setup.model).config
    longest = max(len(s) for row in setup.sample for s in sequences(row))
    limit = max_tokens(config)
    if limit is None:
        return Finding(name, PASS, f"{longest} tokens", "no limit")
    advice = f"This model reads {limit} tokens at most: set CFG.max_length to {limit} or less."
    return judge(name, longest, longest > limit, longest > limit, f"{limit}", advice, "{:.0f} tokens")


def check_embedding_rows(setup: Setup) -> Finding:
    """Tokens without a row crash or read another token's row; resizing to the tokenizer's length shrinks DeBERTa-v3."""
    name, limit = "embedding rows", "at least the tokenizer's tokens"
    if setup.tokenizer is None:
        return Finding(name, SKIP, "no tokenizer given", limit)
    encoder = _encoder(setup.model)
    rows, tokens = encoder.get_input_embeddings().num_embeddings, len(setup.tokenizer)
    measured = f"{rows:,} rows, {tokens:,} tokens"
    if rows < tokens:
        return Finding(name, FAIL, measured, limit, "Enlarge the matrix (fit_embeddings).")
    original = _original_rows(encoder)
    if original and rows < original:
        advice = f"resize_token_embeddings cut {original - rows} pretrained rows: only ever enlarge (fit_embeddings)."
        return Finding(name, WARN, measured, f"{original:,} pretrained", advice)
    return Finding(name, PASS, measured, limit)


def check_added_tokens(setup: Setup) -> Finding:
    """Mean-resizing gives new tokens near-zero rows; frozen embeddings keep them so."""
    name, limit = "added tokens' norms", "0.25 to 4 of the median"
    if setup.tokenizer is None:
        return Finding(name, SKIP, "no tokenizer given", limit)
    special = set(setup.tokenizer.all_special_ids)
    norms = _encoder(setup.model).get_input_embeddings().weight.detach().float().norm(dim=1).cpu()
    added = [i for i in setup.tokenizer.get_added_vocab().values() if i not in special and i < len(norms)]
    if not added:
        return Finding(name, PASS, "none added", limit)
    ratios = norms[added] / norms[: len(setup.tokenizer)].median()
    worst = ratios[ratios.log().abs().argmax()].item()
    advice = "Copy the row of a related pretrained token (fit_embeddings)."
    return judge(name, worst, not 0.25 <= worst <= 4, False, limit, advice, "{:.2f}", f" ({len(added)} tokens)")


def check_loss_at_start(setup: Setup) -> Finding:
    """A fresh head knows nothing: its loss is near ln K, or near the class shares' entropy if it starts there."""
    classes = setup.n_classes
    known = entropy(class_shares(setup.labels(), classes))
    setup.model.eval()
    with torch.no_grad():
        rows = setup.sample[:64]
        losses = [setup.loss(setup.batch(rows[i : i + 8])).mean().item() for i in range(0, len(rows), 8)]
    loss = float(np.mean(losses))
    limit = f"near ln {classes} = {math.log(classes):.3f} (class shares: {known:.3f})"
    advice = "The head starts over-certain or the labels do not fit its outputs: use a fresh head with small weights."
    if not math.isfinite(loss):
        return Finding("loss at the start", FAIL, str(loss), limit, "The loss is not finite: set CFG.precision='fp32'.")
    return judge("loss at the start", loss, loss > math.log(classes) + 0.2, loss > math.log(classes) + 1, limit, advice)


def check_logged_loss(setup: Setup) -> Finding:
    """transformers >= 5 and DeBERTa's forward(**kwargs): the loss is not divided by the accumulation steps (#47688)."""
    trainer, steps = setup.trainer, setup.args.gradient_accumulation_steps
    size = min(setup.args.per_device_train_batch_size, max(1, len(setup.sample) // steps))
    batches = [setup.batch(setup.sample[i * size : (i + 1) * size]) for i in range(steps)]
    batches = [batch for batch in batches if len(batch["labels"])]
    with _without_dropout(setup.model):
        with torch.no_grad():
            direct = float(np.mean([setup.loss(batch).mean().item() for batch in batches]))
        samples, items = trainer.get_batch_samples(iter(batches), len(batches), setup.args.device)
        trainer.current_gradient_accumulation_steps = len(samples)
        logged = sum(trainer.training_step(setup.model, dict(batch), items).item() for batch in samples)
    ratio = logged / direct
    advice = "Set model.accepts_loss_kwargs = False: loss and gradients are multiplied by the accumulation steps."
    limit = "0.9 to 1.1 of the mean"
    return judge(
        "logged loss", ratio, False, not 0.9 <= ratio <= 1.1, limit, advice, "{:.2f}", f" at {steps} accumulations"
    )


def check_gradients(setup: Setup) -> Finding:
    """Gradients reach embeddings, first and last layer and head, finite, in the precision of the training."""
    name, limit = "gradients", "finite and not zero everywhere"
    scale = 1024.0 if setup.args.fp16 else 1.0  # as GradScaler does, so that small ones do not vanish
    setup.model.train()
    (setup.loss(setup.batch(setup.sample[:4])).mean() * scale).backward()
    norms = {}
    for part, parameters in _parts(setup.model).items():
        trainable = [p for p in parameters if p.requires_grad]
        if trainable:
            norms[part] = math.sqrt(
                sum(0.0 if p.grad is None else p.grad.float().norm().item() ** 2 for p in trainable)
            )
    measured = ", ".join(f"{part} {norm / scale:.1e}" for part, norm in norms.items())
    bad = [part for part, norm in norms.items() if not math.isfinite(norm) or norm == 0]
    advice = f"No usable gradient in {', '.join(bad)}: is the graph cut (detach, no_grad), or does fp16 overflow?"
    return Finding(name, FAIL if bad else PASS, measured, limit, advice if bad else "")


def check_fp16_headroom(setup: Setup) -> Finding:
    """The largest value of any product and the largest attention logit, against fp16's 65,504."""
    setup.model.eval()
    with torch.no_grad(), _LargestValue() as largest:
        setup.loss(setup.batch(setup.sample[:8]))
    share = largest.value / FP16_MAX
    used = setup.args.fp16
    advice = f"{largest.where} overflows in fp16: set CFG.precision='fp32', or 'bf16' where it is native."
    return judge(
        "fp16 head-room", largest.value, share > 0.25, used and share >= 1, f"< {FP16_MAX / 4:,.0f}", advice,
        "{:,.0f}", f" ({largest.where})",
    )  # fmt: skip


def check_memorises(setup: Setup) -> Finding:
    """A model that cannot learn eight rows by heart cannot learn 57,000."""
    model, labels = setup.model, setup.labels()
    name, limit = "memorises a batch", f"loss halved in {MEMORISE_STEPS} steps"
    rows = _one_of_each(setup, labels)
    batch = setup.batch(rows)
    # Without dropout, with rates high enough for a few steps; the weights are restored afterwards.
    model.eval()
    rate = reference_lr(model)
    encoder = {id(p) for p in _encoder(model).parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trainable if id(p) in encoder], "lr": 3 * rate},
            {"params": [p for p in trainable if id(p) not in encoder], "lr": max(1e-2, 30 * rate)},
        ],
        weight_decay=0.0,
    )
    losses = []
    for _ in range(MEMORISE_STEPS):
        optimizer.zero_grad()
        with torch.autocast(setup.args.device.type, enabled=False):
            loss = setup.trainer.compute_loss(model, dict(batch)).mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]) or losses[-1] < 0.5 * losses[0]:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
    share = losses[-1] / losses[0]
    advice = "Not even a few rows can be learned by heart: check that inputs, labels and head belong together."
    note = f" after {len(losses)} steps"
    return judge(name, share, False, not share < 0.6, limit, advice, "{:.2f} of the first loss", note)


def check_memory(setup: Setup) -> Finding:
    """Weights, gradients, Adam state and what one forward pass keeps for the backward, against the card.

    The activations are counted on the longest rows of the sample, two of them, and scaled to a micro-batch.
    """
    model = setup.model
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    rows = sorted(setup.sample, key=lambda row: -max(map(len, sequences(row))))[:2]
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = setup.loss(setup.batch(rows)).mean()
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    activations *= getattr(setup.trainer, "micro_batch", setup.args.per_device_train_batch_size) / len(rows)
    del loss
    needed = weights + 12 * trainable + activations
    measured = f"{needed / 1e9:.1f} GB, of it activations {activations / 1e9:.1f}"
    card = setup.card_bytes or (torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None)
    if card is None:
        return Finding("memory", SKIP, measured, "no GPU")
    status = FAIL if needed > card else WARN if needed > 0.85 * card else PASS
    advice = "Halve CFG.micro_batch (accumulation makes up for it), or lower CFG.max_length."
    return Finding("memory", status, measured, f"{card / 1e9:.1f} GB", advice if status != PASS else "")


MODEL_CHECKS = (
    check_logged_loss,
    check_gradients,
    check_memorises,
    check_loss_at_start,
    check_fp16_headroom,
    check_embedding_rows,
    check_added_tokens,
    check_memory,
)


@contextmanager
def _without_dropout(model):
    """Eval mode that a training step cannot leave, so that its loss can be compared with a plain forward's."""
    model.eval()
    model.train = lambda mode=True: model
    try:
        yield
    finally:
        del model.train


class _LargestValue(TorchFunctionMode):
    """Watches matrix products, linear layers and softmax inputs; masked entries (below -1e30) do not count."""

    NAMES = ("matmul", "bmm", "linear", "baddbmm", "__matmul__", "addmm")

    def __init__(self):
        super().__init__()
        self.value, self.where = 0.0, "nothing"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "softmax":  # before, since it may write its result over them
            self._look(args[0], "attention logit")
        out = function(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            query, key = args[0], args[1]
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            self._look(query.float() @ key.float().transpose(-1, -2) * scale, "attention logit")
        elif name in self.NAMES:
            self._look(out, "matrix product")
        return out

    def _look(self, tensor: torch.Tensor, where: str) -> None:
        if tensor.is_floating_point() and tensor.numel():
            largest = tensor.detach().float().abs()
            largest = torch.where(largest > 1e30, 0.0, largest).max().item()
            if largest > self.value:
                self.value, self.where = largest, where


def _encoder(model):
    if hasattr(model, "encoder") and hasattr(model.encoder, "get_input_embeddings"):
        return model.encoder
    return getattr(model, "base_model", model)


def _parts(model) -> dict[str, list]:
    encoder = _encoder(model)
    layers = next(
        m
        for m in encoder.modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) == encoder.config.num_hidden_layers
    )
    inside = {id(p) for p in encoder.parameters()}
    return {
        "embeddings": list(encoder.get_input_embeddings().parameters()),
        "first layer": list(layers[0].parameters()),
        "last layer": list(layers[-1].parameters()),
        "head": [p for p in model.parameters() if id(p) not in inside],
    }


def _original_rows(encoder) -> int | None:
    path = Path(getattr(encoder.config, "_name_or_path", "") or "") / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("vocab_size")
    except (OSError, ValueError):
        return None


def _one_of_each(setup: Setup, labels: np.ndarray) -> list[dict]:
    """Eight rows of less than usual length, so that this stays quick, with all classes among them."""
    pool = np.arange(min(len(labels), 400))
    by_class = [pool[labels[pool] == k][: MEMORISE_ROWS * 4] for k in np.unique(labels)]
    data, chosen = setup.trainer.train_dataset, []
    for rows in by_class:
        lengths = [max(map(len, sequences(data[int(i)]))) for i in rows]
        chosen += [int(rows[i]) for i in np.argsort(lengths, kind="stable")[len(rows) // 4 : len(rows) // 2 + 1]]
    order = np.random.default_rng(setup.seed).permutation(len(chosen))[:MEMORISE_ROWS]
    return [data[chosen[i]] for i in order]
