"""Faults of what stands in a batch, and in which order."""

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.doctor_bench.case import PLAIN, Case
from benchmarks.doctor_bench.fault import fault
from benchmarks.doctor_bench.faults.data import training_rows

STEPS, PAIRS = ("optimizer steps",), ("pairs in a step",)


def order(case: Case, choose) -> None:
    """Take the training rows of every step by `choose`, from the labels and the number of rows in a step."""

    def edit(trainer):
        data, args = trainer.train_dataset, trainer.args
        labels = np.asarray(data["labels"])
        loader = type(trainer).get_train_dataloader(trainer)
        steps = [[int(i) for i in rows] for rows in choose(labels, args.train_batch_size)]
        # As the Trainer's own loader, without the columns that the model does not take.
        made = DataLoader(loader.dataset, batch_sampler=_Steps(steps), collate_fn=loader.collate_fn)
        trainer.get_train_dataloader = lambda: made
        if not hasattr(trainer, "sampler"):
            return
        trainer.sampler.set_epoch = lambda epoch: None

    case.edit_trainer.append(edit)


class _Steps:
    def __init__(self, steps: list[list[int]]):
        self.steps, self.batch_size, self.drop_last = steps, len(steps[0]), False

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self):
        yield from self.steps


def _parts(rows, size: int) -> list:
    return [rows[at : at + size] for at in range(0, len(rows), size)]


@fault("batch", before=PAIRS)
def two_rows_a_step(case):
    case.set(batch_size=2)


@fault("batch", before=("classes in a step",))
def rows_sorted_by_label(case):
    order(case, lambda labels, size: _parts(np.argsort(labels, kind="stable"), size))


@fault("batch", before=("classes in a step",))
def a_step_of_one_class(case):
    """Steps in random order, but each holds rows of one class."""

    def choose(labels, size):
        steps = [part for k in np.unique(labels) for part in _parts(np.flatnonzero(labels == k), size)]
        return [steps[i] for i in np.random.default_rng(0).permutation(len(steps))]

    order(case, choose)


@fault("batch", before=("rows used",))
def the_same_rows_every_step(case):
    order(case, lambda labels, size: [np.arange(size)] * (len(labels) // size))


@fault("batch", before=("rows used",))
def a_tenth_of_the_rows_is_used(case):
    """A subset for debugging that was left in."""
    order(case, lambda labels, size: [np.arange(size) + size * (i % 4) for i in range(len(labels) // size)])


@fault("batch", kinds=(PLAIN,), before=STEPS)
def incomplete_steps_dropped_on_few_rows(case):
    training_rows(case, lambda table: table.iloc[:40])
    case.set(batch_size=32, dataloader_drop_last=True)


@fault("batch", before=STEPS)
def all_rows_in_one_step(case):
    case.set(batch_size=case_rows(case))


def case_rows(case: Case) -> int:
    return len(case.tables["train"])


@fault("batch", before=("rows used",))
def both_ranks_take_the_same_rows(case):
    """Each step holds every row twice: half of what it should see."""
    order(case, lambda labels, size: [np.repeat(part, 2) for part in _parts(np.arange(len(labels)), size // 2)])


@fault("batch", before=("labels in a batch",))
def collator_mixes_rows_and_labels(case):
    def wrap(batch):
        batch["labels"] = batch["labels"][torch.randperm(len(batch["labels"]))]
        return batch

    case.make_collator(wrap)


@fault("batch", before=("rows cut", "rows mostly cut", "tokens in a batch"))
def collator_cuts_to_eight_tokens(case):
    def wrap(batch):
        for name in ("input_ids", "attention_mask"):
            batch[name] = batch[name][..., :8]
        if "lengths" in batch:
            batch["lengths"] = [[min(8, length) for length in row] for row in batch["lengths"]]
        return batch

    case.make_collator(wrap)


@fault("batch", before=("tokens in a batch",))
def collator_drops_the_first_tokens(case):
    def wrap(batch):
        kept = batch["input_ids"].shape[-1] // 2
        for name in ("input_ids", "attention_mask"):
            batch[name] = torch.cat([batch[name][..., :1], batch[name][..., -kept:]], -1)
        if "lengths" in batch:
            batch["lengths"] = [[kept + 1] * len(row) for row in batch["lengths"]]
        return batch

    case.make_collator(wrap)
