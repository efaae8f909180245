"""Trainers of all kinds on rows that can be learned: `TASKS` makes the options of `learners.plain_trainer`."""

from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    Trainer,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from tests.doctor.learners import collate, make_model
from tests.doctor.other_tasks import (
    BART,
    GPT2,
    LLAMA,
    ROWS,
    T5,
    VALID,
    VOCABULARY,
    answers,
    batch_norm,
    choices,
    convolution,
    generated,
    language_model,
    make_tokenizer,
    pairs_without_labels,
    pixel_labels,
    seeded,
    token_labels,
    transformed_images,
    translation,
    vit,
)

NAMES = ("a", "b", "c")


class Bag(nn.Module):
    """A mean of word vectors and a linear head: no config, no base_model, and outputs as `kind` says."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.words = nn.Embedding(VOCABULARY, 32, padding_idx=0)
        self.score = nn.Linear(32, 3)

    def forward(self, input_ids, attention_mask=None, labels=None):
        mask = (input_ids != 0).unsqueeze(-1)
        logits = self.score((self.words(input_ids) * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else cross_entropy(logits, labels)
        if self.kind == "output":
            return SequenceClassifierOutput(loss=loss, logits=logits)
        if self.kind == "dict":
            return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}
        return (logits,) if loss is None else (loss, logits)


def bag(kind):
    torch.manual_seed(0)
    return {"model": Bag(kind), "learning_rate": 1e-2}


class Own(nn.Module):
    """As many wrap an encoder: its config is the encoder's, which knows nothing of the head."""

    def __init__(self, outputs: int):
        super().__init__()
        self.backbone = make_model().bert
        self.config = self.backbone.config
        self.config.num_labels = 2
        self.fc = nn.Linear(32, outputs)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.fc(self.backbone(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0])
        if labels is None:
            return {"logits": logits}
        outputs = logits.shape[1]
        loss = nn.functional.mse_loss(logits[:, 0], labels) if outputs == 1 else cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def own_regression():
    torch.manual_seed(0)
    rows, valid = ([row | {"labels": row["labels"] / 2.0} for row in rows] for rows in (ROWS, VALID))
    return {"model": Own(1), "train": rows, "valid": valid}


def own_classes():
    torch.manual_seed(0)
    return {"model": Own(3)}


def tuples():
    """Batches without names, for a loss of the user's own; without evaluation, which Trainer cannot do so."""

    class Positional(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            ids, labels = inputs
            loss, logits = model(ids, labels=labels)
            return (loss, {"logits": logits}) if return_outputs else loss

    def collator(rows):
        batch = collate(rows)
        return batch["input_ids"], batch["labels"]

    return bag("tuple") | {"collator": collator, "kind": Positional, "eval_strategy": "no", "train": ROWS}


class OwnLoss(Trainer):
    """As many write it: labels are taken out of the inputs."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 1.2, 1.0]))
        return (loss, outputs) if return_outputs else loss


class OnlyLoss(Trainer):
    """Good enough to train, though not to evaluate."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return cross_entropy(model(inputs["input_ids"], inputs["attention_mask"]).logits, inputs["labels"])


def loss_function(outputs, labels, num_items_in_batch=None):
    return cross_entropy(outputs.logits, labels)


def accuracy(prediction):
    return {"own_accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def numbers(prediction):
    return {"own_accuracy": float((prediction.predictions == prediction.label_ids).mean())}


def first_of_tuple(prediction):
    return {"own_accuracy": float((prediction.predictions[0].argmax(1) == prediction.label_ids).mean())}


def encodings(torch_format=False):
    """Rows from a tokenizer, a column "label", and a collator of transformers that returns a BatchEncoding."""
    tokenizer = make_tokenizer()

    def encode(rows):
        found = Dataset.from_list([{"input_ids": row["input_ids"], "label": row["labels"]} for row in rows])
        return found.with_format("torch") if torch_format else found

    return {
        "train": encode(ROWS),
        "valid": encode(VALID),
        "collator": DataCollatorWithPadding(tokenizer),
        "tokenizer": tokenizer,
    }


def named():
    """Names of classes, which the collator makes numbers of."""

    def collator(rows):
        return collate([row | {"labels": NAMES.index(row["labels"])} for row in rows])

    train, valid = (Dataset.from_list([row | {"labels": NAMES[row["labels"]]} for row in r]) for r in (ROWS, VALID))
    return {"train": train, "valid": valid, "collator": collator}


def padded_left(rows):
    batch = collate(rows)
    lengths = batch["attention_mask"].sum(1).tolist()
    for ids, length in zip(batch["input_ids"], lengths):
        ids.copy_(ids.roll(len(ids) - length))
    return batch | {"attention_mask": (batch["input_ids"] != 0).long()}


def adapters(model, *targets):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=list(targets))
    return {"model": get_peft_model(model, config), "learning_rate": 1e-2}


def gpt2():
    return seeded(GPT2ForSequenceClassification, GPT2Config(**GPT2))


TASKS: dict[str, Any] = {
    "GPT-2": lambda: {"model": gpt2()},
    "Llama": lambda: {"model": seeded(LlamaForSequenceClassification, LlamaConfig(**LLAMA))},
    "Llama, padded on the left": lambda: {
        "model": seeded(LlamaForSequenceClassification, LlamaConfig(**LLAMA)), "collator": padded_left,
    },
    "Qwen2": lambda: {"model": seeded(Qwen2ForSequenceClassification, Qwen2Config(**LLAMA))},
    "BART": lambda: {"model": seeded(BartForSequenceClassification, BartConfig(**BART))},
    "T5": lambda: {"model": seeded(T5ForSequenceClassification, T5Config(**T5))},
    "images, ViT": vit,
    "images, no config": convolution,
    "no config, tuple": lambda: bag("tuple"),
    "no config, dict": lambda: bag("dict"),
    "no config, ModelOutput": lambda: bag("output"),
    "labels of tokens": token_labels,
    "masked language model": lambda: language_model(True),
    "causal language model": lambda: language_model(False),
    "translation": translation,
    "question answering": answers,
    "multiple choice": choices,
    "reward model": pairs_without_labels,
    "generated text": generated,
    "own head, classes": own_classes,
    "own head, regression": own_regression,
    "images, transformed": transformed_images,
    "images, batch norm": batch_norm,
    "labels of pixels": pixel_labels,
    "tuples as batches": tuples,
    "own compute_loss": lambda: {"kind": OwnLoss},
    "loss without outputs": lambda: {"kind": OnlyLoss, "eval_strategy": "no"},
    "compute_loss_func": lambda: {"trainer_options": {"compute_loss_func": loss_function}},
    "own metrics": lambda: {"trainer_options": {"compute_metrics": accuracy}},
    "metrics of class numbers": lambda: {
        "trainer_options": {"compute_metrics": numbers, "preprocess_logits_for_metrics": lambda x, _: x.argmax(-1)},
    },
    "BART with metrics of its tuple": lambda: {
        "model": seeded(BartForSequenceClassification, BartConfig(**BART)),
        "trainer_options": {"compute_metrics": first_of_tuple},
    },
    "names as labels": named,
    "model_init": lambda: {"trainer_options": {"model_init": lambda: make_model()}},
    "BatchEncoding": encodings,
    "torch format": lambda: encodings(torch_format=True),
    "LoRA": lambda: adapters(make_model(), "query", "value"),
    "LoRA, activations computed again": lambda: {
        **adapters(make_model(), "query", "value"), "gradient_checkpointing": True,
    },
    "LoRA on GPT-2": lambda: adapters(gpt2(), "c_attn"),
}  # fmt: skip
