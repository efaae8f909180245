"""Tiny models of several families on generated rows that can be learned, each in a plain Trainer."""

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainingArguments,
)

WORDS, LENGTH = 60, 12
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SIZES |= {"vocab_size": WORDS + 4, "max_position_embeddings": 40, "pad_token_id": 0, "initializer_range": 0.05}
FAMILIES = {
    "bert": (BertConfig, BertForSequenceClassification, {}),
    "roberta": (RobertaConfig, RobertaForSequenceClassification, {}),
    "electra": (ElectraConfig, ElectraForSequenceClassification, {"embedding_size": 32}),
    "deberta": (
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
        | {"type_vocab_size": 0, "max_relative_positions": 16, "pooler_hidden_size": 32},
    ),
}


def make_rows(count: int, seed: int, classes: int = 3, noise: float = 0.3) -> list[dict]:
    """Rows whose label is the group of words that occurs most, but for a share of `noise`."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = rng.integers(3, WORDS + 3, size=rng.integers(LENGTH // 2, LENGTH))
        label = int(np.bincount((ids - 3) % classes, minlength=classes).argmax())
        if rng.random() < noise:
            label = int(rng.integers(classes))
        rows.append({"input_ids": [1, *ids.tolist(), 2], "labels": label})
    return rows


def make_model(family: str = "bert", seed: int = 0, **config):
    """A random classifier; its size and outputs can be changed by `config`."""
    kind, model, extra = FAMILIES[family]
    torch.manual_seed(seed)
    return model(kind(**_SIZES | {"num_labels": 3} | extra | config))


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Pads to the longest row."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def plain_trainer(
    folder, model=None, train=None, valid=None, collator=collate, trainer_options=None, kind=Trainer,
    settings_of=TrainingArguments, **arguments
):  # fmt: skip
    """A Trainer of a `kind` that learns: 320 rows, 16 a step, four epochs, with warmup."""
    torch.manual_seed(arguments.get("seed", 0))
    settings = {"num_train_epochs": 4, "learning_rate": 2e-3, "per_device_train_batch_size": 16, "warmup_steps": 0.1}
    settings |= {"eval_strategy": "steps", "eval_steps": 10, "logging_steps": 10, "save_strategy": "no"}
    settings |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_nan_inf_filter": False}
    settings |= {"output_dir": str(folder), "per_device_eval_batch_size": 64}
    return kind(
        model=make_model() if model is None and "model_init" not in (trainer_options or {}) else model,
        args=settings_of(**settings | arguments),
        train_dataset=Dataset.from_list(make_rows(320, 1)) if train is None else train,
        eval_dataset=Dataset.from_list(make_rows(120, 2)) if valid is None else valid,
        data_collator=collator,
        **trainer_options or {},
    )
