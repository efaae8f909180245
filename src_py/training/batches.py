"""Optimizer steps of equally long pairs, each split over processes and into forward passes of equally many tokens."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback

from src_py.errors import InputError
from src_py.kaggle.files import require_space
from src_py.kaggle.session import free_memory, to_device
from src_py.pairs.encode import round_up
from src_py.training.checkpoints import checkpoint_bytes
from src_py.training.ema import AveragingTrainer

ONE_PAIR_TOO_MANY = "The GPU's memory does not hold one pair: lower CFG.max_length or raise CFG.freeze_layers."
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

    Of several processes each takes its share of every step: rows are dealt out by length, so that all have equal work.

    Returns {"parts": what `collate` makes of each, "weights": what each part's mean loss counts in that of the step}.

    Args:
        collate: a `PairCollator`; or what only counts the rows of a part.
    """

    def __init__(self, collate: Callable[[list[dict]], Any], tokens: int, process: int = 0, processes: int = 1):
        self.collate, self.tokens, self.process, self.processes = collate, tokens, process, processes

    def __call__(self, rows: list[dict]) -> dict[str, list]:
        ordered = sorted(rows, key=lambda row: -row["length"])
        # A process that gets no row takes one without weight: it has to take part in averaging the gradients.
        own_rows = ordered[self.process :: self.processes] or ordered[-1:]
        parts: list[list[dict]] = []
        longest = 0
        for row in own_rows:
            if not parts or (len(parts[-1]) + 1) * longest > self.tokens:
                parts.append([])
                longest = round_up(row["length"]) * len(row["sequences"])
            parts[-1].append(row)
        idle = self.process >= len(rows)
        weights = [0.0 if idle else len(part) / len(rows) for part in parts]
        return {"parts": [self.collate(part) for part in parts], "weights": weights}


class BudgetTrainer(AveragingTrainer):
    """A Trainer whose batch is a whole optimizer step, run part by part, on one process or several.

    The parts' losses are weighted by their pairs, so that loss and gradient are the mean over the pairs of the step,
    however they were split.

    Args:
        micro_batch: pairs in a forward pass when they are as long as the longest; of shorter ones as many more.
        most: pairs in a forward pass at most, of whatever length.
        ema: as in `AveragingTrainer`.
    """

    def __init__(self, *args, micro_batch: int, most: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.micro_batch, self.most = micro_batch, most or self.args.train_batch_size
        self.largest = 0  # pairs in the largest part of the latest step
        self.add_callback(_EpochToSampler(self))

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: that would hand whole steps to the processes in turn, n times the batch.
        data, collate = self.train_dataset, self.data_collator
        tokens = self.micro_batch * round_up(max(data["length"])) * len(data[0]["sequences"])
        self.sampler = PooledBatches(data["length"], self.args.train_batch_size, self.args.seed)
        split = TokenBudget(collate, tokens, self.args.process_index, self.args.world_size)
        return DataLoader(data, batch_sampler=self.sampler, collate_fn=split, pin_memory=torch.cuda.is_available())

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Gradients of the mean loss over all pairs of `inputs`; returns that loss.

        If the GPU's memory is short, the step is repeated in parts of half the size, and so are all later ones.

        Raises:
            InputError: when the memory does not hold even one pair.
            OutOfMemoryError: of one process among several; `smaller` says what to start all of them again with.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        parts, weights = inputs.get("parts", [inputs]), inputs.get("weights", [1.0])
        while True:
            parts, weights = _at_most(parts, weights, self.most)
            self.largest = max(len(part["labels"]) for part in parts)
            try:
                return self._gradients(model, parts, weights)
            except torch.OutOfMemoryError:
                model.zero_grad(set_to_none=True)  # what the broken step has added
                if self.args.world_size > 1:
                    raise  # the other processes wait for this one's gradients: `run_workers` starts all again
                self.most = self.smaller()
                if not self.most:
                    raise InputError(ONE_PAIR_TOO_MANY) from None
            free_memory()
            print(f"Out of memory: from here on at most {self.most} pairs in a forward pass; a step stays what it was.")

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in `Trainer`; a batch that the GPU's memory does not hold is evaluated in halves.

        Raises:
            InputError: when the memory does not hold even one pair.
        """
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        except torch.OutOfMemoryError:
            rows = len(inputs["labels"])
            if rows == 1:
                raise InputError(ONE_PAIR_TOO_MANY) from None
        free_memory()
        found, shares = [], (rows // 2, rows - rows // 2)
        for part in (slice(shares[0]), slice(shares[0], None)):
            half = {name: value[part] for name, value in inputs.items()}
            found.append(self.prediction_step(model, half, prediction_loss_only, ignore_keys))
        losses, logits, labels = zip(*found)
        loss = None if losses[0] is None else sum(one * share / rows for one, share in zip(losses, shares))
        return loss, *(None if both[0] is None else torch.cat(both) for both in (logits, labels))

    def smaller(self) -> int:
        """Pairs in a forward pass to try next when memory was short: half of the largest part that was really tried.

        `most` is only a limit, and parts may be smaller than that. 0: there is nothing left to try.
        """
        return (self.largest or self.most) // 2

    def _prepare_input(self, data):
        """Moves the parts of a step while the host goes on; `lengths` and weights are lists and stay on the host."""
        if isinstance(data, torch.Tensor):
            return to_device(data, self.args.device)
        return super()._prepare_input(data)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        """Raises InputError when the disk is full or the folder cannot be written."""
        needed = checkpoint_bytes(self.model, self.ema > 0)
        require_space(self.args.output_dir, needed, "The next checkpoint")
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own
            raise InputError(
                f"No checkpoint could be written to {self.args.output_dir} ({str(error).splitlines()[0][:150]}); free "
                "some space or set CFG.output_dir. Earlier checkpoints are still there."
            ) from error

    def _gradients(self, model, parts: list[dict], weights: list[float]) -> torch.Tensor:
        processes, losses = self.args.world_size, []
        for number, (part, weight) in enumerate(zip(parts, weights), 1):
            # Processes average their gradients once a step, after the last part; an average, hence the factor.
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, part) * (weight * processes)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()


class _EpochToSampler(TrainerCallback):
    """Passes the epoch to the sampler, which a Trainer that resumes within an epoch does not do itself."""

    def __init__(self, trainer: BudgetTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **_):
        self.trainer.sampler.set_epoch(math.floor(state.epoch + 1e-6))


def _at_most(parts: list[dict], weights: list[float], rows: int) -> tuple[list[dict], list[float]]:
    """The same parts and weights, cut to at most `rows` rows each."""
    cut, cut_weights = [], []
    for part, weight in zip(parts, weights):
        size = len(part["labels"])
        for at in range(0, size, rows):
            cut.append({name: value[at : at + rows] for name, value in part.items()})
            cut_weights.append(weight * len(cut[-1]["labels"]) / size)
    return cut, cut_weights
