"""Healthy set-ups with code of their own: losses, collators, datasets, optimizers, and late learners."""

import numpy as np
import torch
from datasets import IterableDataset
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.data import Dataset as TorchDataset
from transformers import Trainer
from transformers.optimization import Adafactor

from benchmarks.doctor_bench import world
from benchmarks.doctor_bench.case import OURS, PLAIN, Case
from benchmarks.doctor_bench.fault import accumulated, imbalanced, joint
from benchmarks.doctor_bench.faults.data import texts
from benchmarks.doctor_bench.faults.model import encoder_of
from benchmarks.doctor_bench.faults.optimisation import Callback
from benchmarks.doctor_bench.healthy import BOTH, healthy
from src_py.model.encoder import encoder_embeddings, encoder_layers


@healthy(OURS, encoder="bert")
def both_answers_in_one_sequence(case):
    joint(case)
    case.set(epochs=4)


@healthy(OURS, encoder="bert")
def low_rank_adapters(case):
    case.model_settings.update(lora_rank=8)
    case.set(lr=2e-3, head_lr=2e-3)


@healthy(OURS)
def longer_answers_win(case):
    case.tables = world.pairs(case.folder / "tables", case.seed, length_scale=1.0)


@healthy(PLAIN)
def accumulation(case):
    accumulated(case)


@healthy(PLAIN)
def gradient_checkpointing(case):
    case.set(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})


@healthy(PLAIN)
def embeddings_frozen(case):
    case.edit_model.append(lambda model: encoder_embeddings(encoder_of(model)).requires_grad_(False) and None)


@healthy(PLAIN)
def lower_layer_frozen(case):
    case.edit_model.append(lambda model: encoder_layers(encoder_of(model))[0].requires_grad_(False) and None)


class WeightedLoss(Trainer):
    """Classes weighted by the inverse of their share."""

    weights = torch.tensor([0.4, 1.6, 1.6])

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits, labels, weight=self.weights)
        return (loss, outputs) if return_outputs else loss


class FocalLoss(Trainer):
    """Lin et al., arXiv 1708.02002."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        each = cross_entropy(outputs.logits, labels, reduction="none")
        loss = ((1 - (-each).exp()) * each).mean()
        return (loss, outputs) if return_outputs else loss


class RDrop(Trainer):
    """Two passes with other dropout, drawn together (arXiv 2106.14448)."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs["labels"]
        first = model(**inputs)
        loss = cross_entropy(first.logits, labels)
        if model.training:
            second = model(**inputs)
            apart = kl_div(first.logits.log_softmax(-1), second.logits.softmax(-1), reduction="batchmean")
            loss = (loss + cross_entropy(second.logits, labels)) / 2 + apart
        return (loss, first) if return_outputs else loss


@healthy(PLAIN)
def loss_with_class_weights(case):
    imbalanced(case)
    case.trainer_class = WeightedLoss


@healthy(PLAIN)
def focal_loss(case):
    case.trainer_class = FocalLoss


@healthy(PLAIN)
def two_passes_drawn_together(case):
    case.trainer_class = RDrop


@healthy(PLAIN)
def accuracy_as_the_only_metric(case):
    def edit(trainer):
        trainer.compute_metrics = lambda p: {"accuracy": float((np.argmax(p.predictions, 1) == p.label_ids).mean())}

    case.edit_trainer.append(edit)


@healthy(PLAIN)
def padded_to_a_fixed_length(case):
    def pad(data, part):
        pad_id = case.tokenizer.pad_token_id

        def one(row):
            missing = case.max_length - len(row["input_ids"])
            mask = row["attention_mask"] + [0] * missing
            return {"input_ids": row["input_ids"] + [pad_id] * missing, "attention_mask": mask}

        return data.map(one)

    case.edit_rows.append(pad)


@healthy(PLAIN)
def torch_format(case):
    case.edit_rows.append(lambda data, part: data.with_format("torch"))


class Lazy(TorchDataset):
    """Rows of a dataset without its columns."""

    def __init__(self, data):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> dict:
        return self.data[number]


@healthy(PLAIN)
def torch_dataset(case):
    case.edit_rows.append(lambda data, part: Lazy(data))


@healthy(PLAIN)
def list_of_rows(case):
    case.edit_rows.append(lambda data, part: [data[i] for i in range(len(data))])


@healthy(PLAIN)
def streamed_rows(case):
    def stream(data, part):
        if part != "train":
            return data
        rows = [data[i] for i in range(len(data))]
        return IterableDataset.from_generator(lambda: iter(rows))

    case.edit_rows.append(stream)
    case.set(max_steps=105)


@healthy(PLAIN)
def tokenised_in_the_collator(case):
    def texts_only(data, part):
        found = case.tables[part]["response_a"].map(lambda turns: turns[0]).tolist()
        return [{"text": text, "labels": label} for text, label in zip(found, data["labels"])]

    def collate(batch):
        encoded = case.tokenizer([row["text"] for row in batch], padding=True, truncation=True, return_tensors="pt")
        encoded = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        return encoded | {"labels": torch.tensor([row["labels"] for row in batch])}

    case.edit_rows.append(texts_only)
    case.collator = collate
    case.set(remove_unused_columns=False)


@healthy(PLAIN)
def several_evaluation_sets(case):
    def edit(trainer):
        trainer.eval_dataset = {"one": trainer.eval_dataset.select(range(120)), "two": trainer.eval_dataset}

    case.edit_trainer.append(edit)


@healthy(PLAIN)
def no_evaluation_set(case):
    def edit(trainer):
        trainer.eval_dataset, trainer.args.eval_strategy = None, "no"

    case.edit_trainer.append(edit)


@healthy(PLAIN)
def momentum(case):
    case.optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    case.set(epochs=5)


@healthy(PLAIN)
def adafactor(case):
    case.optimizer = lambda model: Adafactor(
        model.parameters(), lr=1e-3, relative_step=False, scale_parameter=False, warmup_init=False
    )


@healthy(PLAIN)
def groups_with_rates_of_their_own(case):
    def make(model):
        inside = {id(p) for p in encoder_of(model).parameters()}
        head = [p for p in model.parameters() if id(p) not in inside]
        return torch.optim.AdamW([{"params": encoder_of(model).parameters(), "lr": 1e-3}, {"params": head, "lr": 5e-3}])

    case.optimizer = make


@healthy(*BOTH)
def few_rows_and_many_epochs(case):
    def edit(tables):
        tables["train"] = tables["train"].iloc[:200].reset_index(drop=True)

    case.edit_tables.append(edit)
    case.set(epochs=9)


def quarter_in(language: str):
    """Every fourth word of a text in another alphabet."""

    def change(text: str) -> str:
        letters = world.LANGUAGES[language]
        return " ".join(w if i % 4 else world.in_language(w, letters) for i, w in enumerate(text.split()))

    return change


@healthy(PLAIN, encoder="roberta")
def greek_words_among_the_others(case):
    """Bytes are known in every language; the encoder has to learn the words."""
    texts(case, quarter_in("greek"))
    case.max_length = 200
    case.set(epochs=4)


@healthy(PLAIN, encoder="modernbert")
def russian_words_among_the_others(case):
    texts(case, quarter_in("russian"))
    case.max_length = 200
    case.set(epochs=4)


def late(case: Case, lr: float, epochs: float, warmup: float) -> None:
    """A head of zeros on a low rate: nothing seems to happen for long."""

    def edit(model):
        for name, parameter in model.named_parameters():
            # The last layer alone: of two that are zero, neither would ever get a gradient.
            if name.rpartition(".")[0] in ("classifier", "score", "head.score", "classifier.out_proj"):
                torch.nn.init.zeros_(parameter)

    case.edit_model.append(edit)
    case.set(lr=lr, epochs=epochs, warmup=warmup)


@healthy(*BOTH)
def late_learner(case):
    late(case, 2.5e-4, 5, 0.3)


@healthy(PLAIN)
def late_learner_after_a_long_warmup(case):
    late(case, 5e-4, 6, 0.3)


@healthy(PLAIN)
def late_learner_with_noisy_labels(case):
    case.tables = world.classification(case.classes, case.seed, noise=0.4)
    late(case, 4e-4, 6, 0.2)


@healthy(PLAIN)
def resumed_from_a_checkpoint(case):
    """The first half was trained before; optimizer, schedule and random states come from the checkpoint."""
    case.resumed = True


@healthy(PLAIN)
def rate_lowered_on_a_plateau(case):
    case.set(schedule="reduce_lr_on_plateau", metric_for_best_model="eval_loss")


@healthy(*BOTH)
def a_callback_of_the_users_own(case):
    """One that does nothing wrong."""

    def end(state=None, **_):
        state.total_flos = 0

    case.edit_trainer.append(lambda trainer: trainer.add_callback(Callback(on_step_end=end)))
