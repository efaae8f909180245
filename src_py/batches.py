"""Optimizer steps of equally long pairs, each split into forward passes of equally many tokens."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer

from src_py.errors import InputError
from src_py.predict import PairCollator
from src_py.session import free_memory

POOL = 50  # optimizer steps whose pairs are sorted together: enough that neighbours are equally long


class PooledBatches(Sampler):
    """Row numbers of every optimizer step: pairs of one step are about equally long, the steps come in random order.

    Rows are shuffled, cut into pools, sorted by length inside their pool, and cut into steps (bucketing, as in
    Vaswani et al. 2017). The step with the longest row comes first: if memory is short, it shows at once.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch, self.drop_last = lengths, batch_size, seed, 0, False

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        self.epoch += 1
        lengths, order = np.asarray(self.lengths), rng.permutation(len(self.lengths))
        steps = []
        for start in range(0, len(order), POOL * self.batch_size):
            pool = order[start : start + POOL * self.batch_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            steps += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        rng.shuffle(steps)
        longest = max(range(len(steps)), key=lambda step: lengths[steps[step]].max())
        steps[0], steps[longest] = steps[longest], steps[0]
        yield from (rows.tolist() for rows in steps)


class TokenBudget:
    """Splits the rows of an optimizer step into parts of at most `tokens` tokens, padding included, or one row.

    Returns {"parts": batches of `PairCollator`}.
    """

    def __init__(self, collate: PairCollator, tokens: int):
        self.collate, self.tokens = collate, tokens

    def __call__(self, rows: list[dict]) -> dict[str, list[dict]]:
        parts: list[list[dict]] = []
        longest = 0
        for row in sorted(rows, key=lambda row: -row["length"]):
            if not parts or (len(parts[-1]) + 1) * longest > self.tokens:
                parts.append([])
                longest = row["length"] * len(row["sequences"])
            parts[-1].append(row)
        return {"parts": [self.collate(part) for part in parts]}


class BudgetTrainer(Trainer):
    """A Trainer whose batch is a whole optimizer step, run part by part.

    The parts' losses are weighted by their pairs, so that loss and gradient are the mean over the pairs of the step,
    however they were split.

    Args:
        micro_batch: pairs in a forward pass when they are as long as the longest; of shorter ones as many more.
    """

    def __init__(self, *args, micro_batch: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.micro_batch, self.most = micro_batch, self.args.train_batch_size

    def get_train_dataloader(self) -> DataLoader:
        data, collate = self.train_dataset, self.data_collator
        tokens = self.micro_batch * max(data["length"]) * len(data[0]["sequences"])
        sampler = PooledBatches(data["length"], self.args.train_batch_size, self.args.seed)
        pinned = torch.cuda.is_available()
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=TokenBudget(collate, tokens), pin_memory=pinned)
        return self.accelerator.prepare(loader)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Gradients of the mean loss over all pairs of `inputs`; returns that loss.

        If the GPU's memory is short, the step is repeated in parts of half the size, and so are all later ones.

        Raises:
            InputError: when the memory does not hold even one pair.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        parts = inputs.get("parts", [inputs])
        while True:
            parts = [half for part in parts for half in _at_most(part, self.most)]
            try:
                return self._gradients(model, parts)
            except torch.OutOfMemoryError:
                model.zero_grad(set_to_none=True)  # what the broken step has added
            largest = max(len(part["labels"]) for part in parts)
            if largest == 1:
                raise InputError(
                    "The GPU's memory does not hold one pair: lower CFG.max_length or raise freeze_layers."
                )
            self.most = largest // 2
            free_memory()
            print(f"Out of memory: from here on at most {self.most} pairs in a forward pass; a step stays what it was.")

    def _gradients(self, model, parts: list[dict]) -> torch.Tensor:
        pairs, losses = sum(len(part["labels"]) for part in parts), []
        for part in parts:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, part) * (len(part["labels"]) / pairs)
            self.accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()


def _at_most(part: dict, rows: int) -> list[dict]:
    size = len(part["labels"])
    return [{name: value[at : at + rows] for name, value in part.items()} for at in range(0, size, rows)]
