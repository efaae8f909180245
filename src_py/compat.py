"""The one place where library versions differ."""

import inspect

from transformers import TrainingArguments


def training_arguments(**settings) -> TrainingArguments:
    """`TrainingArguments` under the newest names, on transformers 5.0 and later.

    `train_sampling_strategy="group_by_length"` was `group_by_length=True` before 5.2.0.
    """
    known = inspect.signature(TrainingArguments).parameters
    if "train_sampling_strategy" not in known and "train_sampling_strategy" in settings:
        settings["group_by_length"] = settings.pop("train_sampling_strategy") == "group_by_length"
    return TrainingArguments(**settings)
