"""How large the checks are: DeBERTa-v3's real shapes on a GPU, or toys on a CPU; and models and batches to work on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import DebertaV2Config, DebertaV2Model

from benchmarks.bench_training import SHARES, v3_config
from benchmarks.gpu import candidates
from src_py.kaggle.session import free_memory
from src_py.model.encoder import encoder_embeddings
from src_py.model.preference import Architecture, ModelSettings, PreferenceModel, build_model
from src_py.pairs.encode import PairCollator
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.batches import BudgetTrainer
from src_py.training.trainer import TrainingSettings, make_trainer
from tools.demo_data import write_tiny_deberta

CAP = 15e9  # bytes of a T4; a larger card is held to it, so that what fits here fits there
LOSS_SCALE = 1024.0  # near where GradScaler settles: small gradients do not vanish in fp16
_SHAPES = {"base": (12, 768), "large": (24, 1024)}
_TOYS = {"base": (2, 128), "large": (3, 128)}
_REAL_WORDS, _TOY_WORDS = 128_100, 704


@dataclass(frozen=True)
class Scale:
    """Where the checks run, and at which size.

    Args:
        toy: tiny models, on the CPU.
        device: of this process.
        gpus: how many can be used.
    """

    toy: bool
    device: str
    gpus: int

    @classmethod
    def here(cls, toy: bool) -> "Scale":
        """The first GPU of this machine, or for a toy the CPU."""
        return cls(True, "cpu", 0) if toy else cls(False, "cuda", torch.cuda.device_count())

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def precision(self) -> str:
        """What a Trainer runs in; accelerate has no fp16 on a CPU."""
        return "fp16" if self.cuda else "fp32"

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """(pairs, tokens) of the parts that are timed: 2,048 tokens a side or nearly so, one of an odd length."""
        return ((4, 24), (2, 48), (3, 19)) if self.toy else ((8, 256), (4, 512), (2, 1024), (6, 333))

    @property
    def cap(self) -> float:
        """Bytes that `capped` allows: those of a T4, or of a smaller card."""
        return min(CAP, torch.cuda.get_device_properties(0).total_memory) if self.cuda else CAP

    def tokens(self, length: int) -> int:
        """`length`, or what stands for it in a toy."""
        return max(16, length // 24) if self.toy else length

    def config(self, shape: str, layers: int | None = None, vocabulary: int | None = None, dropout: float = 0.1):
        """The configuration of DeBERTa-v3 "base" or "large"."""
        depth, hidden = (_TOYS if self.toy else _SHAPES)[shape]
        words = vocabulary or (_TOY_WORDS if self.toy else _REAL_WORDS)
        config: DebertaV2Config = v3_config(layers or depth, hidden, words)
        if self.toy:  # most of a toy's time would be its 512 positions
            config.position_buckets, config.max_position_embeddings = 16, 32
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        return config

    def encoder(self, shape: str, kind: str = "stock", **options) -> DebertaV2Model:
        """An encoder with random weights, the same ones every time, on the device."""
        torch.manual_seed(0)
        with torch.device(self.device):
            encoder = DebertaV2Model(self.config(shape, **options))
        candidates.switch(encoder, kind)
        return encoder.train()

    def model(self, shape: str, kind: str = "stock", **options) -> PreferenceModel:
        """A pairwise model as the recipe makes it: embeddings frozen, the head near the constant predictor."""
        encoder = self.encoder(shape, kind, **options)
        encoder_embeddings(encoder).requires_grad_(False)
        with torch.device(self.device):
            settings = ModelSettings(dropout=options.get("dropout", 0.1))
            model = PreferenceModel(encoder, Architecture("pairwise", 3, settings))
            model.head.set_prior(SHARES)
        return model.train()

    def built(self, shape: str, kind: str, freeze_layers: int) -> PreferenceModel:
        """The same through `build_model`, which freezes layers; with few tokens, since it reads a folder."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_tiny_deberta(scratch)
            self.encoder(shape, vocabulary=_TOY_WORDS).save_pretrained(folder)
            settings = ModelSettings(freeze_layers=freeze_layers)
            model = build_model(folder, load_tokenizer(folder), "pairwise", SHARES, settings)
        candidates.switch(model.encoder, kind)
        return model.to(self.device).train()

    def autocast(self):
        """fp16, as in training."""
        return torch.autocast(self.device, torch.float16)

    def part(self, pairs: int, tokens: int) -> dict:
        """A part of a step, as the recipe's collator makes it, on the device; every sequence has all its tokens."""
        batch = PairCollator(0)(list(self.dataset(pairs, tokens)))
        return {name: x.to(self.device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}

    def dataset(self, rows: int, tokens: int) -> Dataset:
        """Encoded pairs of random tokens, all of the same length."""
        draw = np.random.default_rng(0)
        sequences = draw.integers(4, 600, (rows, 2, tokens)).tolist()
        labels = draw.integers(0, 3, rows).tolist()
        return Dataset.from_dict({"sequences": sequences, "length": [tokens] * rows, "labels": labels})

    def trainer(self, model, folder: Path, train: Dataset, valid: Dataset, **settings) -> BudgetTrainer:
        """The recipe's Trainer, in the precision of the device."""
        chosen = TrainingSettings(**{"epochs": 1.0, "evals_per_epoch": 0} | settings)
        return make_trainer(model, train, valid, 0, folder, chosen, ("a", "b", "tie"), self.precision)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()


def step(scale: Scale, model, part: dict) -> torch.Tensor:
    """Forward and backward pass of a part, under autocast and a loss scale; returns the loss."""
    with scale.autocast():
        loss = model(**part)["loss"]
    (loss * LOSS_SCALE).backward()
    return loss.detach()


@contextmanager
def capped(scale: Scale, most: float = CAP) -> Iterator[None]:
    """Hold this process to `most` bytes of the card's memory."""
    free_memory()
    if not scale.cuda:
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        free_memory()


def lengthened(table: pd.DataFrame, times: int) -> pd.DataFrame:
    """The same pairs with longer answers: each turn's text `times` over."""
    longer = {side: table[side].map(lambda turns: [" ".join([text] * times) for text in turns]) for side in _ANSWERS}
    return table.assign(**longer)


_ANSWERS = ("response_a", "response_b")
