"""A set-up: everything that a Trainer is made of, healthy until a fault changes one thing in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from benchmarks.doctor_bench import world
from src_py.evaluation import class_shares
from src_py.evaluation.metrics import evaluation_metrics
from src_py.kaggle import start_session
from src_py.model import build_model
from src_py.model.preference import ModelSettings
from src_py.pairs import Reading, encode_pairs, load_tokenizer
from src_py.training import TrainingSettings, make_trainer

OURS, PLAIN = "ours", "plain"
EVALUATIONS = 10
PARTS = ("train", "valid", "test")
# Names that both Trainers' settings have, and what each calls them.
_ARGUMENTS = {"lr": "learning_rate", "epochs": "num_train_epochs", "warmup": "warmup_steps"}
_ARGUMENTS |= {"schedule": "lr_scheduler_type", "batch_size": "per_device_train_batch_size"}


@dataclass
class Case:
    """A set-up in the making; `build` makes the Trainer.

    Attributes:
        kind: `OURS` (this project's Trainer, on pairs) or `PLAIN` (Hugging Face's, on single texts).
        family: of the encoder, one of `world.FAMILIES`.
        folder: where the tiny encoders are kept.
        tables: train, valid and test; test rows are what the true loss is measured on.
        options: of `TrainingSettings` or `TrainingArguments`.
        edit_*: functions that are applied to what is made, in the order they were added.
    """

    kind: str
    family: str
    folder: Path
    seed: int = 0
    classes: int = 3
    style: str = "pairwise"
    max_length: int = 64
    cut: str = "parts"
    resumed: bool = False  # training goes on from a checkpoint that was made half-way
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    model_settings: dict[str, Any] = field(default_factory=dict)
    trainer_class: type = Trainer
    from_tokenizer: Callable | None = None  # how the tokenizer is loaded, by its folder
    from_model: Callable | None = None  # how a plain model is loaded, by its folder and number of classes
    collator: Callable | None = None
    optimizer: Callable | None = None  # model -> optimizer, for a plain Trainer
    edit_tables: list[Callable] = field(default_factory=list)
    edit_tokenizer: list[Callable] = field(default_factory=list)
    edit_rows: list[Callable] = field(default_factory=list)  # (dataset, part) -> dataset
    edit_model: list[Callable] = field(default_factory=list)
    edit_arguments: list[Callable] = field(default_factory=list)
    edit_trainer: list[Callable] = field(default_factory=list)
    tokenizer: Any = None  # from here on what `build` has made
    trainer: Any = None
    datasets: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tables:
            if self.kind == OURS:
                self.tables = world.pairs(self.folder / "tables", self.seed)
            else:
                self.tables = world.classification(self.classes, self.seed)
        common = {"lr": 1e-3, "epochs": 2.5, "warmup": 0.1, "batch_size": 16, "weight_decay": 0.01}
        self.options = common | self.options

    @property
    def encoder(self) -> Path:
        return world.encoder(self.folder / "models", self.family)

    def set(self, **options) -> None:
        """Change settings by the names of `TrainingSettings`, whichever Trainer it is."""
        self.options.update(options)

    def make_collator(self, wrap: Callable) -> None:
        """Wrap the collator: `wrap` gets the batch, and returns what the model gets."""
        self.edit_trainer.append(partial(_wrap_collator, wrap))

    def make_loss(self, loss: Callable) -> None:
        """Another loss: `loss` gets logits and labels, in training only."""
        self.edit_trainer.append(partial(_replace_loss, loss))

    def build(self) -> "Case":
        """Make tokenizer, datasets, model and Trainer, seeded."""
        start_session(self.seed)
        for edit in self.edit_tables:
            edit(self.tables)
        self.tokenizer = (self.from_tokenizer or self._load_tokenizer)(self.encoder)
        for edit in self.edit_tokenizer:
            self.tokenizer = edit(self.tokenizer) or self.tokenizer
        for part in PARTS:
            data = self._encode(self.tables[part])
            for edit in self.edit_rows:
                data = edit(data, part)
            self.datasets[part] = data
        make = self._ours if self.kind == OURS else self._plain
        start_session(self.seed)  # the same random head, whatever encoding has drawn
        self.trainer = make()
        for edit in self.edit_trainer:
            edit(self.trainer)
        return self

    def _load_tokenizer(self, folder: Path):
        return load_tokenizer(folder) if self.kind == OURS else AutoTokenizer.from_pretrained(folder)

    def _encode(self, table: pd.DataFrame) -> Dataset:
        if self.kind == OURS:
            return encode_pairs(table, self.tokenizer, Reading(self.style, self.max_length), cut=self.cut)
        texts = [turns[0] if turns else "" for turns in table["response_a"]]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        columns = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        # The text stays beside its tokens, as `datasets.map` leaves it.
        return Dataset.from_dict({"text": texts} | columns | {"labels": table["label"].tolist()})

    def _edited_model(self, model):
        for edit in self.edit_model:
            model = edit(model) or model
        return model

    def _ours(self) -> Trainer:
        shares = list(class_shares(self.tables["train"]["label"], self.classes))
        settings = ModelSettings(**self.model_settings)
        model = self._edited_model(build_model(self.encoder, self.tokenizer, self.style, shares, settings))
        defaults = {"micro_batch": 8, "layer_decay": 1.0, "head_lr": self.options["lr"]}
        trainer = make_trainer(
            model,
            self.datasets["train"],
            self.datasets["valid"],
            pad_token_id=self.tokenizer.pad_token_id,
            output_dir=self.folder / "run",
            settings=TrainingSettings(**defaults | self.options | {"evals_per_epoch": 0}),
            seed=self.seed,
        )
        self._rhythm(trainer.args, len(self.datasets["train"]))
        for edit in self.edit_arguments:
            edit(trainer.args)
        return trainer

    def _plain(self) -> Trainer:
        load = self.from_model or _load_model
        model = self._edited_model(load(self.encoder, self.classes))
        given = {_ARGUMENTS.get(name, name): value for name, value in self.options.items()}
        arguments = TrainingArguments(
            **{
                "output_dir": str(self.folder / "run"),
                "per_device_eval_batch_size": 64,
                "eval_strategy": "steps",
                "eval_steps": EVALUATIONS,  # until `_rhythm` knows the steps
                "logging_nan_inf_filter": False,
                "save_strategy": "no",
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
                "seed": self.seed,
            }
            | given
        )
        self._rhythm(arguments, len(self.tables["train"]))
        for edit in self.edit_arguments:
            edit(arguments)
        return self.trainer_class(
            model=model,
            args=arguments,
            train_dataset=self.datasets["train"],
            eval_dataset=self.datasets["valid"],
            data_collator=self.collator or DataCollatorWithPadding(self.tokenizer),
            compute_metrics=evaluation_metrics,
            **({"optimizers": (self.optimizer(model), None)} if self.optimizer else {}),
        )

    def _rhythm(self, args: TrainingArguments, rows: int) -> None:
        """Ten evaluations a run, whatever its length; nothing is saved."""
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        steps = args.max_steps if args.max_steps > 0 else int(np.ceil(rows / step * args.num_train_epochs))
        every = max(1, steps // EVALUATIONS)
        args.eval_strategy = args.logging_strategy = "steps"
        args.eval_steps = args.logging_steps = every


def _load_model(folder: Path, classes: int):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes, dtype=torch.float32)
    model.accepts_loss_kwargs = False
    return model


def _wrap_collator(wrap: Callable, trainer) -> None:
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: wrap(collate(rows))


def _replace_loss(loss: Callable, trainer) -> None:
    compute = trainer.compute_loss

    def replaced(model, inputs, return_outputs=False, **kwargs):
        if not model.training:
            return compute(model, inputs, return_outputs=return_outputs, **kwargs)
        _, outputs = compute(model, dict(inputs), return_outputs=True, **kwargs)
        value = loss(outputs["logits"], inputs["labels"])
        return (value, outputs) if return_outputs else value

    trainer.compute_loss = replaced
