"""A Trainer that evaluates, stores and returns an exponential moving average of the weights it trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback

from src_py.training.checkpoints import UNAVERAGED


class Average:
    """Exponential moving average of a model's trained weights, on their device.

    A fixed decay of 0.999 would leave more than nine tenths of the initial weights in the average of 60 steps. So the
    decay grows with the steps, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`: at step t it is
    (1 + t) / (10 + t), until `decay` is less. The average then spans about the last t / 9 steps, and after 60 steps
    less than 1e-9 of it are initial weights. A step that a GradScaler skips changes no weight: it counts the same
    weights once more.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in self.trained.items()}

    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.values.values()), list(self.trained.values()), share)

    def exchange(self) -> None:
        """The model gets the averaged weights, and what it had is kept here; nothing is copied."""
        for name, parameter in self.trained.items():
            parameter.data, self.values[name] = self.values[name], parameter.data

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()


class AveragingTrainer(Trainer):
    """A Trainer that averages the weights over the steps; without `ema` it is `Trainer`.

    Training goes on with the weights themselves. Evaluations, the weights of a checkpoint, and so the best ones, and
    the model after training are the average. A checkpoint holds the weights as well (`UNAVERAGED`), so that a training
    that was interrupted ends as if it had not been. Of several processes each keeps the same average.

    Args:
        ema: the decay, below 1, as in `Average`; 0 for no average.
    """

    def __init__(self, *args, ema: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.ema = ema
        self.average: Average | None = None  # while training: not before, when the model may still move
        if ema:
            self.add_callback(_EveryStep(self))

    def evaluation_loop(self, *args, **kwargs):
        if self.average is None:
            return super().evaluation_loop(*args, **kwargs)
        with self.average.used():
            return super().evaluation_loop(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.average is None:
            super()._save(output_dir, state_dict)
            return
        weights = {name: p.detach().contiguous() for name, p in self.average.trained.items()}
        with self.average.used():
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_file(weights, Path(output_dir or self.args.output_dir) / UNAVERAGED)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema:
            self.average = Average(self.model, self.ema)  # of what the checkpoint has as the model's weights
            self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / UNAVERAGED), strict=False)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.average = None  # the best weights are averaged ones


class _EveryStep(TrainerCallback):
    def __init__(self, trainer: AveragingTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:  # else it comes from the checkpoint
            self.trainer.average = Average(self.trainer.model, self.trainer.ema)

    def on_step_end(self, args, state, control, **_):
        self.trainer.average.update(state.global_step)

    def on_train_end(self, args, state, control, **_):
        if self.trainer.average is not None:
            self.trainer.average.exchange()
            self.trainer.average = None
