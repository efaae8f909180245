"""What a Trainer's user sets: under which names (fields of CFG in this project's recipes, else TrainingArguments), to
which values, and how a change looks there."""

import math
from dataclasses import dataclass
from typing import Any

import torch

_NAMES = {
    "lr": ("CFG.lr", "TrainingArguments.learning_rate"),
    "head_lr": ("CFG.head_lr", "the rate of the head in your optimizer"),
    "layer_decay": ("CFG.layer_decay", "the rates of the layers in your optimizer"),
    "warmup": ("CFG.warmup", "TrainingArguments.warmup_steps"),
    "epochs": ("CFG.epochs", "TrainingArguments.num_train_epochs"),
    "max_steps": ("the Trainer's max_steps", "TrainingArguments.max_steps"),
    "seed": ("CFG.seed", "TrainingArguments.seed"),
    "batch_size": ("CFG.batch_size", "TrainingArguments.gradient_accumulation_steps"),
    "micro_batch": ("CFG.micro_batch", "TrainingArguments.per_device_train_batch_size"),
    "weight_decay": ("CFG.weight_decay", "TrainingArguments.weight_decay"),
    "max_grad_norm": ("CFG.max_grad_norm", "TrainingArguments.max_grad_norm"),
    "beta1": ("the first beta of the optimizer in make_trainer", "TrainingArguments.adam_beta1"),
    "epsilon": ("eps of the optimizer in make_trainer", "TrainingArguments.adam_epsilon"),
    "optim": ("the optimizer in make_trainer", "TrainingArguments.optim"),
    "schedule": ("CFG.schedule", "TrainingArguments.lr_scheduler_type"),
    "label_smoothing": ("CFG.label_smoothing", "TrainingArguments.label_smoothing_factor"),
    "drop_last": ("drop_last of the loader", "TrainingArguments.dataloader_drop_last"),
    "nan_filter": ("trainer.args.logging_nan_inf_filter", "TrainingArguments.logging_nan_inf_filter"),
    "fp32": ("CFG.precision='fp32'", "TrainingArguments(fp16=False, bf16=False)"),
    "fp16": ("CFG.precision='fp16'", "TrainingArguments(fp16=True, bf16=False)"),
    "bf16": ("CFG.precision='bf16'", "TrainingArguments(fp16=False, bf16=True)"),
    "max_length": ("CFG.max_length", "max_length of the tokenizer"),
    "prompt_share": ("CFG.prompt_share", "the prompt's share of the tokens"),
    "freeze_layers": ("CFG.freeze_layers", "the number of frozen layers"),
    "freeze_embeddings": ("CFG.freeze_embeddings", "the freezing of the embeddings"),
    "dropout": ("CFG.dropout", "the dropout of the model's config"),
    "encoder_dropout": ("CFG.encoder_dropout", "the dropout of the model's config"),
    "model_dir": ("CFG.model_dir", "the model"),
    "collator": ("PairCollator", "DataCollatorWithPadding(tokenizer)"),
    "n_folds": ("CFG.n_folds", "the Trainer's eval_dataset"),
    "best_metric": ("metric_for_best_model in make_trainer", "TrainingArguments.metric_for_best_model"),
    "greater_is_better": ("greater_is_better in make_trainer", "TrainingArguments.greater_is_better"),
    "keep_best": ("as CFG.evals_per_epoch above 0 does", "TrainingArguments.load_best_model_at_end"),
    "table": ("the doctor's table, shown before a fold is trained", "what check_before_training says"),
}
# Where a plain Trainer was given an optimizer or a scheduler, nothing in TrainingArguments changes them.
_OF_OPTIMIZER = {
    "lr": "lr of your optimizer",
    "weight_decay": "weight_decay of your optimizer",
    "beta1": "the first beta of your optimizer",
    "epsilon": "eps of your optimizer",
    "optim": "your optimizer",
}
_OF_SCHEDULER = {"warmup": "the warmup of your scheduler", "schedule": "your scheduler"}
_ELSEWHERE = {"precision", "dtype", "accepts_loss_kwargs"}  # settings that advice names by their values
CODE = "code"  # in a change: no setting, but a line of code
PRECISIONS = ("fp32", "fp16", "bf16")


def ours(trainer) -> bool:
    """Whether a Trainer was made by this project's recipes, so that CFG is what its user edits."""
    return hasattr(trainer, "micro_batch")


def setting(trainer, name: str) -> str:
    """What the user of this Trainer calls a setting; None stands for a recipe's Trainer."""
    if trainer is None or ours(trainer):
        return _NAMES[name][0]
    return _given(trainer).get(name) or _NAMES[name][1]


@dataclass(frozen=True)
class UserSettings:
    """What is set now, by this project's names, as plain values: nothing of the Trainer is kept.

    Attributes:
        ours: whether CFG is what the user edits.
        values: by name; a setting that the user does not have, or that is not known, is not there.
        devices: over which a step's rows are spread.
    """

    ours: bool
    values: dict[str, Any]
    devices: int = 1

    def changed(self, **changes) -> "UserSettings":
        """With other values; what the user cannot set stays as it is.

        Raises:
            KeyError: for a name that nobody has.
        """
        if unknown := set(changes) - set(self.values) - set(_NAMES) - _ELSEWHERE:
            raise KeyError(f"no setting is called {', '.join(sorted(unknown))}")
        known = {name: value for name, value in changes.items() if name in self.values}
        return UserSettings(self.ours, self.values | known, self.devices)

    def shown(self) -> dict[tuple[str, str], Any]:
        """The values where the user sets them: (place, field) -> value.

        Places are "CFG", "TrainingArguments", "tokenizer" and "from_pretrained" (arguments of their calls), and "model"
        (its attributes).
        """
        fields: dict[tuple[str, str], Any] = {}
        for name, value in self.values.items():
            if name in ("dtype", "accepts_loss_kwargs") or name.endswith("_config"):
                place = "model" if name == "accepts_loss_kwargs" else "from_pretrained"
                fields[place, name.removesuffix("_config")] = value
            elif self.ours:
                fields["CFG", name] = value
            elif name == "max_length":
                fields["tokenizer", name] = value
            elif name == "precision":
                fields |= {("TrainingArguments", kind): value == kind for kind in PRECISIONS[1:]}
            elif name not in ("batch_size", "micro_batch"):
                fields["TrainingArguments", _NAMES[name][1].partition(".")[2]] = value
        return fields if self.ours or "batch_size" not in self.values else fields | self._batch()

    def _batch(self) -> dict[tuple[str, str], int]:
        """A plain Trainer's user sets the rows of a step as a product."""
        rows = max(1, self.values["batch_size"] // self.devices)
        passes = math.ceil(rows / self.values["micro_batch"])
        return {
            ("TrainingArguments", "per_device_train_batch_size"): math.ceil(rows / passes),
            ("TrainingArguments", "gradient_accumulation_steps"): passes,
        }


def user_settings(trainer, max_length: int | None = None) -> UserSettings:
    """What the user of a Trainer has set.

    Args:
        max_length: tokens of the longest sequence, which is where longer ones were cut.
    """
    args, model = trainer.args, trainer.model
    devices = max(1, args.n_gpu) * args.world_size
    values = {
        "epochs": args.num_train_epochs,
        "warmup": args.warmup_steps,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "lr": args.learning_rate,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * devices,
        "micro_batch": args.per_device_train_batch_size,
        "precision": "fp16" if args.fp16 else "bf16" if args.bf16 else "fp32",
    }
    if ours(trainer):
        built = getattr(getattr(model, "architecture", None), "settings", None)
        kept = ("label_smoothing", "dropout", "encoder_dropout", "freeze_layers", "freeze_embeddings")
        values |= {name: getattr(built, name) for name in kept if hasattr(built, name)}
        given = getattr(trainer, "job", {}).get("settings", {})
        values |= {name: given[name] for name in (*values, "head_lr", "layer_decay") if name in given}
        values["micro_batch"] = trainer.micro_batch
    else:
        values |= {
            "max_steps": args.max_steps,
            "label_smoothing": args.label_smoothing_factor,
            "drop_last": args.dataloader_drop_last,
            "nan_filter": args.logging_nan_inf_filter,
            "beta1": args.adam_beta1,
            "epsilon": args.adam_epsilon,
            "optim": str(getattr(args.optim, "value", args.optim)),
            "greater_is_better": args.greater_is_better,
        }
        config: Any = getattr(model, "config", None)
        stated = config.to_dict() if hasattr(config, "to_dict") else {}
        values |= {f"{name}_config": value for name, value in stated.items() if is_dropout(name, value)}
        values = {name: value for name, value in values.items() if name not in _given(trainer)}
    if max_length is not None:
        values["max_length"] = max_length
    kinds = [p.dtype for p in model.parameters() if p.requires_grad]
    values["dtype"] = next((kind for kind in kinds if kind != torch.float32), torch.float32)
    values["accepts_loss_kwargs"] = bool(getattr(trainer, "model_accepts_loss_kwargs", False))
    return UserSettings(ours(trainer), values, devices)


def is_dropout(name: str, value: Any) -> bool:
    """Whether a field of a model's config is a share of dropout."""
    return "dropout" in name and isinstance(value, float)


def _given(trainer) -> dict[str, str]:
    """Settings of an optimizer and a scheduler that a plain Trainer was given, and what their user calls them."""
    given: dict[str, str] = {}
    optimizer = trainer.optimizer
    if optimizer is not None:
        # The Trainer's own optimizer, once it has made one, has the rate of its arguments.
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        given |= {} if trainer.args.learning_rate in rates else _OF_OPTIMIZER
    if trainer.lr_scheduler is not None and not getattr(trainer, "_created_lr_scheduler", False):
        given |= _OF_SCHEDULER
    return given
