"""The names under which a user sets things: fields of CFG in this project's recipes, else TrainingArguments."""

_NAMES = {
    "lr": ("CFG.lr", "TrainingArguments.learning_rate"),
    "warmup": ("CFG.warmup", "TrainingArguments.warmup_steps"),
    "epochs": ("CFG.epochs", "TrainingArguments.num_train_epochs"),
    "seed": ("CFG.seed", "TrainingArguments.seed"),
    "batch_size": ("CFG.batch_size", "TrainingArguments.gradient_accumulation_steps"),
    "micro_batch": ("CFG.micro_batch", "TrainingArguments.per_device_train_batch_size"),
    "fp32": ("CFG.precision='fp32'", "TrainingArguments(fp16=False, bf16=False)"),
    "fp16": ("CFG.precision='fp16'", "TrainingArguments(fp16=True, bf16=False)"),
    "bf16": ("CFG.precision='bf16'", "TrainingArguments(bf16=True)"),
    "max_length": ("CFG.max_length", "max_length of the tokenizer"),
    "prompt_share": ("CFG.prompt_share", "the prompt's share of the tokens"),
    "freeze_layers": ("CFG.freeze_layers", "the number of frozen layers"),
    "model_dir": ("CFG.model_dir", "the model"),
}


def ours(trainer) -> bool:
    """Whether a Trainer was made by this project's recipes, so that CFG is what its user edits."""
    return hasattr(trainer, "micro_batch")


def setting(trainer, name: str) -> str:
    """What the user of this Trainer calls a setting."""
    return _NAMES[name][0 if ours(trainer) else 1]
