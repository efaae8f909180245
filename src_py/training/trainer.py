"""Fine-tune with Hugging Face's Trainer: optimizer groups, arguments, progress."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from src_py.errors import InputError
from src_py.evaluation.metrics import evaluation_metrics
from src_py.model.encoder import encoder_layers, reference_lr
from src_py.model.preference import PreferenceModel, model_settings
from src_py.pairs.encode import PairCollator
from src_py.training.batches import BudgetTrainer

HEAD_FACTOR = 10  # the head starts from nothing, the encoder does not
HANG_SECONDS = 900  # that a process waits for another one; longer than an evaluation on one side can take


def parameter_groups(
    model: PreferenceModel, lr: float, head_lr: float, layer_decay: float, weight_decay: float
) -> list[dict]:
    """AdamW groups: the head at `head_lr`, the encoder from `lr` at the top down by `layer_decay` a layer.

    Biases and LayerNorm weights get no weight decay; frozen parameters are left out.
    """
    layers = encoder_layers(model.encoder)
    depth = {id(p): i + 1 for i, layer in enumerate(layers) for p in layer.parameters()}
    top = {id(p) for p in model.head.parameters()}
    inputs = {id(p) for p in model.encoder.embeddings.parameters()}
    groups: dict[tuple, dict] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        # What is neither head, embedding nor in a layer (DeBERTa's relative positions) serves all layers: top rate.
        level = 0 if id(parameter) in inputs else depth.get(id(parameter), len(layers))
        rate = head_lr if id(parameter) in top else lr * layer_decay ** (len(layers) - level)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})["params"].append(parameter)
    return list(groups.values())


def make_trainer(
    model: PreferenceModel,
    train: Dataset,
    valid: Dataset,
    pad_token_id: int,
    output_dir: str | Path,
    epochs: float,
    lr: float,
    head_lr: float,
    batch_size: int,
    micro_batch: int,
    warmup: float,
    evals_per_epoch: int,
    precision: str,
    seed: int,
    layer_decay: float = 1.0,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    most: int | None = None,
) -> BudgetTrainer:
    """A Trainer for `PreferenceModel`.

    Args:
        lr: peak learning rate of the encoder's top layer; 0 takes `reference_lr`.
        head_lr: peak learning rate of the head; 0 takes ten times `lr`.
        batch_size: pairs in one optimizer step, in as many forward passes as it takes.
        micro_batch: pairs of the greatest length in one forward pass: what has to fit the memory. Of shorter pairs it
            holds more, at equally many tokens.
        warmup: share of all optimizer steps over which the learning rate rises.
        evals_per_epoch: evaluations, each with a checkpoint, of which the best by log loss is loaded at the end;
            with 0 there are none, and the last weights stay.
        precision: "fp16", "bf16" or "fp32", from `choose_precision`.
        most: pairs in a forward pass at most, when memory was found to be short.

    Returns:
        `settings` of it are the arguments, for another process to make the same Trainer.

    Raises:
        InputError: for a batch of no pairs.
    """
    if min(batch_size, micro_batch) < 1:
        raise InputError(f"CFG.batch_size ({batch_size}) and CFG.micro_batch ({micro_batch}) must be at least 1.")
    settings = {
        "pad_token_id": int(pad_token_id), "output_dir": str(output_dir), "epochs": epochs, "lr": lr,
        "head_lr": head_lr, "batch_size": batch_size, "micro_batch": micro_batch, "warmup": warmup,
        "evals_per_epoch": evals_per_epoch, "precision": precision, "seed": seed, "layer_decay": layer_decay,
        "weight_decay": weight_decay, "max_grad_norm": max_grad_norm,
    }  # fmt: skip
    lr = lr or reference_lr(model)
    head_lr = head_lr or HEAD_FACTOR * lr
    steps_per_epoch = math.ceil(len(train) / batch_size)
    total_steps = max(1, math.ceil(steps_per_epoch * epochs))
    eval_steps = max(1, min(steps_per_epoch // (evals_per_epoch or 1), total_steps))
    rhythm = "steps" if evals_per_epoch else "no"
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=epochs,
        # The Trainer's batch is the whole step; `BudgetTrainer` splits it.
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=4 * micro_batch,
        # A float below 1 is a share of all steps; `warmup_ratio` is gone in transformers 5.15.
        warmup_steps=float(warmup),
        lr_scheduler_type="linear",
        max_grad_norm=max_grad_norm,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy=rhythm,
        eval_steps=eval_steps,
        logging_steps=eval_steps,
        logging_nan_inf_filter=False,
        # Two checkpoints at most: the last, to go on from, and the best by log loss.
        save_strategy=rhythm,
        save_steps=eval_steps,
        save_total_limit=1,
        load_best_model_at_end=evals_per_epoch > 0,
        metric_for_best_model="log_loss",
        greater_is_better=False,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        # Every trained weight is used in every forward pass, and there are no buffers to keep equal.
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    # Trainer would wrap the model in nn.DataParallel over all GPUs it sees: twice the batch, half the steps.
    arguments._n_gpu = min(1, arguments.n_gpu)
    groups = parameter_groups(model, lr, head_lr, layer_decay, weight_decay)
    trainer = BudgetTrainer(
        micro_batch=micro_batch,
        most=most,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid.select(np.argsort(valid["length"], kind="stable")),
        data_collator=PairCollator(pad_token_id),
        compute_metrics=partial(evaluation_metrics, classes=_class_names(model)),
        optimizers=(torch.optim.AdamW(groups, lr=lr, eps=1e-6, fused=True), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.settings = settings
    return trainer


def _class_names(model: PreferenceModel) -> tuple[str, ...] | None:
    classes = model_settings(model)["n_classes"]
    return ("a", "b", "tie")[:classes] if classes <= 3 else None
