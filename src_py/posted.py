"""The posted notebook that "does not learn", reproduced, so that its faults can be measured and repaired one by one."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer

from src_py.compat import training_arguments
from src_py.data import TEXT_COLUMNS

MARKERS = ("<[PROMPT]>", "<[RESP_A]>", "<[RESP_B]>")


@dataclass(frozen=True)
class PostedConfig:
    """What the posted notebook really trained with."""

    added_tokens: tuple[str, ...] = (*MARKERS, "<[...]>", "\n")
    max_length: int = 2048
    batch_size: int = 2
    accumulation: int = 1
    lr: float = 2e-5
    epochs: float = 2.0
    warmup: float = 0.0  # its CFG said 0.1, which never reached TrainingArguments
    weight_decay: float = 0.01
    train_share: float = 0.1
    precision: str = "fp16"


def posted_config() -> PostedConfig:
    """The posted settings."""
    return PostedConfig()


def posted_tokenizer(folder: str | Path, config: PostedConfig):
    """With its tokens added as plain strings: "\\n" is normalized to nothing and then matches everywhere."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens(list(config.added_tokens))
    return tokenizer


def encode_posted(table: pd.DataFrame, tokenizer, max_length: int) -> Dataset:
    """One concatenated text a row, cut from the right: columns input_ids, attention_mask, labels, and how many
    tokens of each part there were and are left.

    Characters beyond ASCII are left out: with the posted tokens, tokenizers 0.23.3 crashes on them ("AddedVocabulary
    bad split").
    """
    parts = {
        column: [marker + "\n".join(turns).encode("ascii", "ignore").decode() for turns in table[column]]
        for marker, column in zip(MARKERS, TEXT_COLUMNS)
    }
    joined = ["".join(row) for row in zip(*parts.values())]
    columns = dict(tokenizer(joined, truncation=True, max_length=max_length, return_token_type_ids=False))
    columns["labels"] = table["label"].tolist()
    room = [max_length - 2] * len(table)
    for column, texts in parts.items():
        tokens = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
        columns[f"{column}_tokens"] = tokens
        columns[f"{column}_kept"] = [max(0, min(t, r)) for t, r in zip(tokens, room)]
        room = [r - t for t, r in zip(tokens, room)]
    return Dataset.from_dict(columns)


def posted_trainer(
    folder: str | Path, train: pd.DataFrame, valid: pd.DataFrame, output_dir: str | Path, config: PostedConfig
) -> tuple[Trainer, object]:
    """The posted Trainer and its tokenizer, on tables from `load_pairs`."""
    tokenizer = posted_tokenizer(folder, config)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, local_files_only=True)
    model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    arguments = training_arguments(
        output_dir=str(output_dir),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        fp16=config.precision == "fp16" and torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encode_posted(train, tokenizer, config.max_length),
        eval_dataset=encode_posted(valid, tokenizer, config.max_length),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    return trainer, tokenizer
