"""The notebook of the forum thread "DeBERTa is not learning patterns?", reproduced as posted, so that its faults can be
measured and repaired one by one."""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from transformers import (
    AddedToken,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from src_py.config import check_choice
from src_py.pairs.contest import TEXT_COLUMNS
from src_py.pairs.counts import count_features
from src_py.pairs.encode import CUTS, STYLES, cut_right, share_budget

MARKERS = ("<[PROMPT]>", "<[RESP_A]>", "<[RESP_B]>")


@dataclass(frozen=True)
class PostedConfig:
    """What the posted notebook really trained with; the last group is what remedies change beside that.

    Attributes:
        cut: "right", the end of the sequence; "parts", prompt and answers separately.
        shrink: give the matrix as many rows as the tokenizer has tokens, even where it had more.
        copy_rows: added tokens begin with the row of the separator, not with the mean of all.
        float32: load the weights in float32, in whatever precision they are stored.
        accepts_loss_kwargs: False makes transformers 5 divide the loss by the accumulation steps.
        one_gpu: False is DataParallel where several GPUs are visible.
        evaluations: of the validation rows in a training, equally far apart; 0 is one after each epoch.
    """

    added_tokens: tuple[str | AddedToken, ...] = (*MARKERS, "<[...]>", "\n")
    max_length: int = 2048
    batch_size: int = 2
    accumulation: int = 1
    lr: float = 2e-5
    epochs: float = 2.0
    warmup: float = 0.0  # its CFG said 0.1, which never reached TrainingArguments
    weight_decay: float = 0.01
    train_share: float = 0.1
    precision: str = "fp16"
    cut: str = "right"
    shrink: bool = True
    copy_rows: bool = False
    float32: bool = False
    accepts_loss_kwargs: bool = True
    one_gpu: bool = False
    evaluations: int = 0
    seed: int = 42


def posted_config() -> PostedConfig:
    """The posted settings."""
    return PostedConfig()


def posted_tokenizer(folder: str | Path, config: PostedConfig):
    """With its tokens added as plain strings: "\\n" is normalized to nothing and then matches everywhere."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.add_tokens(list(config.added_tokens))
    return tokenizer


def encode_posted(
    table: pd.DataFrame,
    tokenizer,
    max_length: int,
    style: str = "joint",
    cut: str = "right",
    features: str = "off",
) -> Dataset:
    """The posted reading: each part behind its marker, no separators.

    As posted (`joint`, cut from the `right`) a row is one sequence, and what is over `max_length` is missing at its
    end. One repair at a time: `pairwise` makes P+A and P+B of it; `parts` cuts prompt and answers separately, head
    and tail, as the recipe does.

    Characters beyond ASCII are left out: with the posted tokens, tokenizers 0.23.3 crashes on them ("AddedVocabulary
    bad split").

    Returns:
        Columns `sequences` (1 or 2 lists of token ids), `length` (tokens of the longest), `labels` (if the table has
        them), `features` (unless "off", as in `encode_pairs`), and `<part>_tokens`, `<part>_kept` for each part.
    """
    check_choice("style", style, STYLES)
    check_choice("cut", cut, CUTS)
    parts = {}
    for marker, column in zip(MARKERS, TEXT_COLUMNS):
        texts = [marker + "\n".join(turns).encode("ascii", "ignore").decode() for turns in table[column]]
        parts[column] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    columns: dict[str, list] = {"sequences": []} | {f"{column}_kept": [] for column in TEXT_COLUMNS}
    for prompt, a, b in zip(*parts.values()):
        readings = [[prompt, a, b]] if style == "joint" else [[prompt, a], [prompt, b]]
        fitted = [_fit(reading, max_length - 2, cut) for reading in readings]
        columns["sequences"].append(
            [[tokenizer.cls_token_id, *(i for ids in kept for i in ids), tokenizer.sep_token_id] for kept in fitted]
        )
        kept = [*fitted[0], *(fitted[1][1:] if style == "pairwise" else [])]
        for column, ids in zip(TEXT_COLUMNS, kept):
            columns[f"{column}_kept"].append(len(ids))
    for column in TEXT_COLUMNS:
        columns[f"{column}_tokens"] = [len(ids) for ids in parts[column]]
    columns["length"] = [max(map(len, sequences)) for sequences in columns["sequences"]]
    if "label" in table:
        columns["labels"] = table["label"].tolist()
    if features != "off":
        columns["features"] = count_features(table)
    return Dataset.from_dict(columns)


def resize_posted(encoder, tokenizer) -> None:
    """As posted: this *shrinks* deberta-v3's matrix (128,100 rows) to the tokenizer's length, and gives the new tokens
    near-zero rows."""
    encoder.resize_token_embeddings(len(tokenizer))


def posted_trainer(
    folder: str | Path,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    output_dir: str | Path,
    config: PostedConfig,
    n_classes: int = 3,
) -> tuple[Trainer, object]:
    """The posted Trainer and its tokenizer, on tables from `load_pairs`."""
    tokenizer = posted_tokenizer(folder, config)
    trainer = Trainer(
        model=_posted_model(folder, tokenizer, config, n_classes),
        args=_posted_arguments(output_dir, config, len(train)),
        train_dataset=_flat(encode_posted(train, tokenizer, config.max_length, cut=config.cut)),
        eval_dataset=_flat(encode_posted(valid, tokenizer, config.max_length, cut=config.cut)),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    return trainer, tokenizer


def _posted_model(folder: str | Path, tokenizer, config: PostedConfig, n_classes: int):
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=n_classes,
        local_files_only=True,
        trust_remote_code=False,
        **({"dtype": torch.float32} if config.float32 else {}),
    )
    rows = model.get_input_embeddings().num_embeddings
    if config.shrink or len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    if config.copy_rows:
        added = sorted(set(tokenizer.get_added_vocab().values()) - set(tokenizer.all_special_ids))
        with torch.no_grad():
            weight = model.get_input_embeddings().weight
            weight[added] = weight[tokenizer.sep_token_id].clone()
    model.config.pad_token_id = tokenizer.pad_token_id
    if not config.accepts_loss_kwargs:
        model.accepts_loss_kwargs = False
    return model


def _posted_arguments(output_dir: str | Path, config: PostedConfig, rows: int) -> TrainingArguments:
    rhythm: dict = {"eval_strategy": "epoch"}
    if config.evaluations:
        gpus = 1 if config.one_gpu else max(1, torch.cuda.device_count())
        steps = math.ceil(rows / (config.batch_size * config.accumulation * gpus)) * config.epochs
        every = max(1, int(steps / config.evaluations))
        rhythm = {"eval_strategy": "steps", "eval_steps": every, "logging_steps": every}
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        fp16=config.precision == "fp16" and torch.cuda.is_available(),
        bf16=config.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        **rhythm,
    )
    if config.one_gpu:
        arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _fit(parts: list[list[int]], budget: int, cut: str) -> list[list[int]]:
    if cut == "parts":
        answers = len(parts) - 1
        budgets = share_budget([len(ids) for ids in parts], budget, [0.3] + [0.7 / answers] * answers)
        return [_head_and_tail(ids, room) for ids, room in zip(parts, budgets)]
    return cut_right(parts, budget)


def _head_and_tail(ids: list[int], room: int, head_share: float = 0.6) -> list[int]:
    if len(ids) <= room:
        return ids
    head = round(room * head_share)
    return ids[:head] + ids[len(ids) - (room - head) :]


def _flat(encoded: Dataset) -> Dataset:
    """The columns Hugging Face's own collator and model want."""
    ids = [sequences[0] for sequences in encoded["sequences"]]
    encoded = encoded.remove_columns(["sequences", "length"]).add_column("input_ids", ids)
    return encoded.add_column("attention_mask", [[1] * len(row) for row in ids])
