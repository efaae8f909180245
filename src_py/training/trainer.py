"""Fine-tune with Hugging Face's Trainer: optimizer groups, arguments, progress."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from src_py.config import Settings, setting
from src_py.evaluation.metrics import evaluation_metrics
from src_py.model.encoder import encoder_embeddings, encoder_layers, reference_lr
from src_py.model.lora import lora_of
from src_py.model.preference import PreferenceModel
from src_py.pairs.encode import PairCollator
from src_py.training.batches import BudgetTrainer

HEAD_FACTOR = 10  # the head starts from nothing, the encoder does not
SCHEDULES = ("linear", "cosine")
HANG_SECONDS = 900  # that a process waits for another one; longer than an evaluation on one side can take


def parameter_groups(
    model: PreferenceModel, lr: float, head_lr: float, layer_decay: float, weight_decay: float
) -> list[dict]:
    """AdamW groups: all but the encoder at `head_lr`, the encoder from `lr` at the top down by `layer_decay` a layer.

    Biases and LayerNorm weights get no weight decay; frozen parameters are left out.
    """
    layers = encoder_layers(model.encoder)
    depth = {id(p): i + 1 for i, layer in enumerate(layers) for p in layer.parameters()}
    inside = {id(p) for p in model.encoder.parameters()}
    inputs = {id(p) for p in encoder_embeddings(model.encoder).parameters()}
    groups: dict[tuple, dict] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        # What is neither head, embedding nor in a layer (DeBERTa's relative positions) serves all layers: top rate.
        level = 0 if id(parameter) in inputs else depth.get(id(parameter), len(layers))
        rate = head_lr if id(parameter) not in inside else lr * layer_decay ** (len(layers) - level)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})["params"].append(parameter)
    return list(groups.values())


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How a model is trained.

    Args:
        epochs: passes over the training rows.
        lr: peak learning rate of the encoder's top layer; 0 takes `reference_lr`.
        head_lr: peak learning rate of the head; 0 takes `HEAD_FACTOR` times `lr`, or `lr` itself where the encoder has
            adapters (LoRA): they start from nothing too.
        layer_decay: learning rate of a layer against the one above it.
        batch_size: pairs in one optimizer step, in as many forward passes as it takes.
        micro_batch: pairs of the greatest length in one forward pass: what has to fit the memory. Of shorter pairs it
            holds more, at equally many tokens.
        warmup: share of all optimizer steps over which the learning rate rises.
        schedule: how it falls to zero afterwards, "linear" or "cosine" (half a wave).
        ema: decay of an exponential moving average of the weights, 0.999 for example, which is then evaluated, stored
            and returned (`AveragingTrainer`); 0 is off.
        evals_per_epoch: evaluations, each with a checkpoint, of which the best by log loss is loaded at the end;
            with 0 there are none, and the last weights stay.
        save_fp16: store the trained encoder in fp16: half of the space, predictions within 0.001.
    """

    epochs: float = setting(2.0, above=0, most=100)
    lr: float = setting(0.0, least=0, most=1)
    head_lr: float = setting(0.0, least=0, most=1)
    layer_decay: float = setting(0.9, above=0, most=1)
    weight_decay: float = setting(0.01, least=0, most=100)
    batch_size: int = setting(16, least=1)
    micro_batch: int = setting(8, least=1)
    warmup: float = setting(0.1, least=0, below=1)
    schedule: str = setting("linear", choices=SCHEDULES)
    ema: float = setting(0.0, least=0, below=1)
    max_grad_norm: float = setting(1.0, above=0)
    evals_per_epoch: int = setting(4, least=0)
    save_fp16: bool = setting(True)


def make_trainer(
    model: PreferenceModel,
    train: Dataset,
    valid: Dataset,
    pad_token_id: int,
    output_dir: str | Path,
    settings: TrainingSettings,
    classes: tuple[str, ...] = (),
    precision: str = "fp32",
    seed: int = 0,
    most: int | None = None,
) -> BudgetTrainer:
    """A Trainer for `PreferenceModel`.

    Args:
        train, valid: from `encode_pairs`.
        classes: names for the predicted-class shares in the log.
        precision: "fp16", "bf16" or "fp32", from `choose_precision`.
        most: pairs in a forward pass at most, when memory was found to be short.

    Returns:
        The Trainer; its `job` holds the arguments, for another process to make the same Trainer.
    """
    job = {
        "pad_token_id": int(pad_token_id),
        "output_dir": str(output_dir),
        "settings": asdict(settings),
        "classes": list(classes),
        "precision": precision,
        "seed": seed,
    }
    lr = settings.lr or reference_lr(model)
    head_lr = settings.head_lr or (lr if lora_of(model.encoder)[0] else HEAD_FACTOR * lr)
    steps_per_epoch = math.ceil(len(train) / settings.batch_size)
    total_steps = max(1, math.ceil(steps_per_epoch * settings.epochs))
    eval_steps = max(1, min(steps_per_epoch // (settings.evals_per_epoch or 1), total_steps))
    rhythm = "steps" if settings.evals_per_epoch else "no"
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=settings.epochs,
        # The Trainer's batch is the whole step; `BudgetTrainer` splits it.
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=4 * settings.micro_batch,
        # A float below 1 is a share of all steps; `warmup_ratio` is gone in transformers 5.15.
        warmup_steps=float(settings.warmup),
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy=rhythm,
        eval_steps=eval_steps,
        logging_steps=eval_steps,
        logging_nan_inf_filter=False,
        # Two checkpoints at most: the last, to resume from, and the best by log loss.
        save_strategy=rhythm,
        save_steps=eval_steps,
        save_total_limit=1,
        load_best_model_at_end=settings.evals_per_epoch > 0,
        metric_for_best_model="log_loss",
        greater_is_better=False,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        accelerator_config={"non_blocking": True},  # evaluation batches too are copied from page-locked memory
        # Every trained weight is used in every forward pass, and there are no buffers to keep equal.
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    # Trainer would wrap the model in nn.DataParallel over all GPUs it sees: twice the batch, half the steps.
    arguments._n_gpu = min(1, arguments.n_gpu)
    groups = parameter_groups(model, lr, head_lr, settings.layer_decay, settings.weight_decay)
    trainer = BudgetTrainer(
        micro_batch=settings.micro_batch,
        most=most,
        ema=settings.ema,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid.select(np.argsort(valid["length"], kind="stable")),
        data_collator=PairCollator(pad_token_id),
        compute_metrics=partial(evaluation_metrics, classes=classes or None),
        optimizers=(torch.optim.AdamW(groups, lr=lr, eps=1e-6, fused=True), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.job = job
    return trainer
