"""Tiny random models of tasks that are not the classification of a text, ready for `learners.plain_trainer`."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn.functional import cross_entropy, pad
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    ViTConfig,
    ViTForImageClassification,
)

from tests.doctor.learners import WORDS, collate, make_model, make_rows

ROWS = make_rows(160, 1)
VALID = make_rows(60, 2)
VOCABULARY = WORDS + 4
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCABULARY}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
BERT |= {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "initializer_range": 0.05}
LLAMA = BERT | {"num_key_value_heads": 1, "num_labels": 3, **IDS}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "num_labels": 3, "initializer_range": 0.05, **IDS}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "num_labels": 3, **IDS}
T5 |= {"decoder_start_token_id": 0}
BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "num_labels": 3, **IDS}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 40}
BART |= {"decoder_start_token_id": 2, "forced_eos_token_id": None, "init_std": 0.05}


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
    config = ViTConfig(**BERT | {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3})
    return {
        "model": seeded(ViTForImageClassification, config),
        "train": images(ROWS),
        "valid": images(VALID),
        "collator": image_collator,
    }


class Pixels(nn.Module):
    """Images without a config; tuples."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3))

    def forward(self, pixel_values, labels=None):
        logits = self.layers(pixel_values)
        return (logits,) if labels is None else (cross_entropy(logits, labels), logits)


def convolution():
    torch.manual_seed(0)
    return {"model": Pixels(), "train": images(ROWS), "valid": images(VALID), "collator": image_collator}


def token_labels():
    def labelled(rows):
        return [{"input_ids": r["input_ids"], "labels": [-100, *(i % 3 for i in r["input_ids"][1:])]} for r in rows]

    return {
        "model": seeded(BertForTokenClassification, BertConfig(**BERT | {"num_labels": 3})),
        "train": Dataset.from_list(labelled(ROWS)),
        "valid": Dataset.from_list(labelled(VALID)),
        "collator": DataCollatorForTokenClassification(make_tokenizer()),
    }


def without_labels(rows):
    return Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])


def language_model(masked):
    kind, config = (BertForMaskedLM, BertConfig(**BERT)) if masked else (GPT2LMHeadModel, GPT2Config(**GPT2))
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
        "model": seeded(T5ForConditionalGeneration, T5Config(**T5)),
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
        "model": seeded(BertForQuestionAnswering, BertConfig(**BERT)),
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
        "model": seeded(BertForMultipleChoice, BertConfig(**BERT)),
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
