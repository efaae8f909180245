"""Tiny random models of many kinds and tasks on rows that can be learned, each ready for `learners.plain_trainer`."""

from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn.functional import cross_entropy, pad
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from tests.doctor.learners import WORDS, collate, make_model, make_rows

ROWS = make_rows(160, 1)
VALID = make_rows(60, 2)
NAMES = ("a", "b", "c")
VOCABULARY = WORDS + 4
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_BERT |= {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "initializer_range": 0.05}
_LLAMA = _BERT | {"num_key_value_heads": 1, "num_labels": 3, **_IDS}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "num_labels": 3, "initializer_range": 0.05, **_IDS}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "num_labels": 3, **_IDS}
_T5 |= {"decoder_start_token_id": 0}
_BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_labels": 3, **_IDS}
_BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 40}
_BART |= {"decoder_start_token_id": 2, "forced_eos_token_id": None, "init_std": 0.05}


def seeded(kind, config, **options):
    torch.manual_seed(0)
    return kind(config, **options)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: w3, w4, ..."""
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2} | {f"w{i}": i for i in range(3, VOCABULARY - 1)}
    words |= {"[UNK]": VOCABULARY - 1}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="[UNK]", **names)


# --- Other inputs and other outputs ---


def images(rows: list[dict]) -> list[dict]:
    """Noise of 8 x 8 in one channel, brighter in the part that the label names."""
    noise = torch.randn(len(rows), 1, 8, 8, generator=torch.Generator().manual_seed(len(rows)))
    for image, row in zip(noise, rows):
        image[:, 3 * row["labels"] : 3 * row["labels"] + 2] += 1.0
    return [{"pixel_values": image, "labels": row["labels"]} for image, row in zip(noise, rows)]


def image_collator(rows):
    images = torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])
    return {"pixel_values": images, "labels": torch.tensor([row["labels"] for row in rows])}


def vit():
    config = ViTConfig(**_BERT | {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3})
    return {
        "model": seeded(ViTForImageClassification, config),
        "train": images(ROWS),
        "valid": images(VALID),
        "collator": image_collator,
    }


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


class Pixels(nn.Module):
    """Images without a config; tuples."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3))

    def forward(self, pixel_values, labels=None):
        logits = self.layers(pixel_values)
        return (logits,) if labels is None else (cross_entropy(logits, labels), logits)


def bag(kind):
    torch.manual_seed(0)
    return {"model": Bag(kind), "learning_rate": 1e-2}


def convolution():
    torch.manual_seed(0)
    return {"model": Pixels(), "train": images(ROWS), "valid": images(VALID), "collator": image_collator}


def token_labels():
    def labelled(rows):
        return [{"input_ids": r["input_ids"], "labels": [-100, *(i % 3 for i in r["input_ids"][1:])]} for r in rows]

    return {
        "model": seeded(BertForTokenClassification, BertConfig(**_BERT | {"num_labels": 3})),
        "train": Dataset.from_list(labelled(ROWS)),
        "valid": Dataset.from_list(labelled(VALID)),
        "collator": DataCollatorForTokenClassification(make_tokenizer()),
    }


def without_labels(rows):
    return Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])


def language_model(masked):
    kind, config = (BertForMaskedLM, BertConfig(**_BERT)) if masked else (GPT2LMHeadModel, GPT2Config(**_GPT2))
    return {
        "model": seeded(kind, config),
        "train": without_labels(ROWS),
        "valid": without_labels(VALID),
        "collator": DataCollatorForLanguageModeling(make_tokenizer(), mlm=masked),
    }


def translation():
    """The text backwards."""

    def collator(rows):
        batch = collate([{"input_ids": row["input_ids"]} for row in rows])
        answers = [torch.tensor(row["input_ids"][::-1]) for row in rows]
        longest = batch["input_ids"].shape[1]
        return batch | {"labels": torch.stack([pad(x, (0, longest - len(x)), value=-100) for x in answers])}

    return {
        "model": seeded(T5ForConditionalGeneration, T5Config(**_T5)),
        "train": without_labels(ROWS),
        "valid": without_labels(VALID),
        "collator": collator,
    }


def answers():
    """Start and end of the answer in place of labels."""

    def positions(rows):
        places = [row["labels"] + 1 for row in rows]
        return [{"input_ids": r["input_ids"], "start_positions": p, "end_positions": p} for r, p in zip(rows, places)]

    def collator(rows):
        names = ("start_positions", "end_positions")
        return collate([{"input_ids": row["input_ids"]} for row in rows]) | {
            name: torch.tensor([row[name] for row in rows]) for name in names
        }

    return {
        "model": seeded(BertForQuestionAnswering, BertConfig(**_BERT)),
        "train": positions(ROWS),
        "valid": positions(VALID),
        "collator": collator,
    }


def choices():
    """Four texts in a row, of which one is right: the model has one output, and there are four classes."""

    def grouped(rows):
        found = []
        for i in range(0, len(rows) - 3, 4):
            right = next((k for k in range(4) if rows[i + k]["labels"] == 0), 0)
            found.append({"input_ids": [row["input_ids"] for row in rows[i : i + 4]], "labels": right})
        return found

    def collator(rows):
        batch = collate([{"input_ids": ids} for row in rows for ids in row["input_ids"]])
        shaped = {name: value.view(len(rows), 4, -1) for name, value in batch.items()}
        return shaped | {"labels": torch.tensor([row["labels"] for row in rows])}

    return {
        "model": seeded(BertForMultipleChoice, BertConfig(**_BERT)),
        "train": grouped(make_rows(640, 1)),
        "valid": grouped(make_rows(240, 2)),
        "collator": collator,
    }


def pairs_without_labels():
    """A reward model: one of two texts is the better one, and its own Trainer compares them."""

    class Reward(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            scores = model(inputs["input_ids"], inputs["attention_mask"]).logits.view(-1, 2)
            loss = -nn.functional.logsigmoid(scores[:, 0] - scores[:, 1]).mean()
            return (loss, {"scores": scores}) if return_outputs else loss

    def twos(rows):
        better, worse = ([row for row in rows if (row["labels"] == 0) == is_first] for is_first in (True, False))
        return [{"chosen": a["input_ids"], "rejected": b["input_ids"]} for a, b in zip(better, worse)]

    def collator(rows):
        return collate([{"input_ids": row[name]} for row in rows for name in ("chosen", "rejected")])

    return {
        "model": make_model(num_labels=1),
        "train": twos(make_rows(500, 1)),
        "valid": twos(make_rows(200, 2)),
        "collator": collator,
        "kind": Reward,
        "remove_unused_columns": False,
    }


def generated():
    """Evaluated by generating text, as summaries are."""
    return translation() | {
        "kind": Seq2SeqTrainer,
        "predict_with_generate": True,
        "settings_of": Seq2SeqTrainingArguments,
    }


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


def transformed_images():
    """Images that are made when a row is read; the stored rows have other columns."""

    def make(batch):
        shift = torch.tensor(batch["place"]).view(-1, 1, 1, 1).float()
        return {"pixel_values": list(torch.rand(len(batch["place"]), 1, 8, 8) + shift), "labels": batch["label"]}

    sets = [
        Dataset.from_list([{"place": row["labels"], "label": row["labels"]} for row in rows]).with_transform(make)
        for rows in (ROWS, VALID)
    ]
    return vit() | {"train": sets[0], "valid": sets[1], "remove_unused_columns": False}


def batch_norm():
    torch.manual_seed(0)
    model = Pixels()
    model.layers.insert(1, nn.BatchNorm2d(8))
    return convolution() | {"model": model}


def pixel_labels():
    """Which pixels are bright."""

    class Bright(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, pixel_values, labels=None):
            logits = self.layer(pixel_values)
            return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}

    def bright(rows):
        return [{"pixel_values": r["pixel_values"], "labels": (r["pixel_values"][0] > 0).long()} for r in images(rows)]

    def collator(rows):
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    torch.manual_seed(0)
    return {"model": Bright(), "train": bright(ROWS), "valid": bright(VALID), "collator": collator}


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


# --- Other ways to train a classifier ---


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
    return seeded(GPT2ForSequenceClassification, GPT2Config(**_GPT2))


TASKS: dict[str, Any] = {
    "GPT-2": lambda: {"model": gpt2()},
    "Llama": lambda: {"model": seeded(LlamaForSequenceClassification, LlamaConfig(**_LLAMA))},
    "Llama, padded on the left": lambda: {
        "model": seeded(LlamaForSequenceClassification, LlamaConfig(**_LLAMA)), "collator": padded_left,
    },
    "Qwen2": lambda: {"model": seeded(Qwen2ForSequenceClassification, Qwen2Config(**_LLAMA))},
    "BART": lambda: {"model": seeded(BartForSequenceClassification, BartConfig(**_BART))},
    "T5": lambda: {"model": seeded(T5ForSequenceClassification, T5Config(**_T5))},
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
        "model": seeded(BartForSequenceClassification, BartConfig(**_BART)),
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
