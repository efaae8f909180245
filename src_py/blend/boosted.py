"""Outputs of `embed_deberta_lightgbm` as members of a blend."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from src_py.blend.member import Job, Member, encoder_config, encoder_name, folder_size
from src_py.blend.trained import FineTunedMember
from src_py.errors import InputError
from src_py.kaggle.clock import Clock
from src_py.kaggle.resume import run_problem
from src_py.pairs.oof import read_oof
from src_py.pairs.tokenizer import load_tokenizer
from src_py.tabular.forecast import SAMPLE, forecast_features
from src_py.tabular.groups import Counted, embed_pairs
from src_py.tabular.predict import predict_blend
from src_py.tabular.saved import MARKER, OOF, RECIPE, SavedBlend, predict_folds, read_blend

_ATTACH = f"attach the complete output of a run of {RECIPE} that ended, or none"


@dataclass(frozen=True, kw_only=True)
class BoostedMember(Member):
    """LightGBM and other models on features of the pair, blended.

    Attributes:
        blend: what they are.
        model_dir: the encoder of its embeddings; None when it has none.
        fine_tuned: the fine-tuned model in its blend; None when it has none.
    """

    blend: SavedBlend
    model_dir: Path | None
    fine_tuned: FineTunedMember | None

    @classmethod
    def read(
        cls,
        name: str,
        output: Path,
        table: pd.DataFrame,
        classes: tuple[str, ...],
        encoders: Mapping[str, Path],
        fine_tuned: Mapping[str, FineTunedMember],
    ) -> "BoostedMember":
        """The member in an output folder of the recipe.

        Args:
            encoders: attached encoders by their digest.
            fine_tuned: members that this one may have in its own blend, by their digest.

        Raises:
            InputError: the run did not end, a file is missing or damaged, its encoder or the fine-tuned model of its
                blend is not attached, or as for `read_oof`.
        """
        if problem := run_problem(output, RECIPE):
            raise InputError(f"{output} cannot take part: {problem}.")
        folder = output / "tabular"
        blend = read_blend(folder)
        if blend.classes != tuple(classes):
            raise InputError(
                f"{folder} was trained for the classes {', '.join(blend.classes)}, but this contest has "
                f"{', '.join(classes)}; attach a run on this data, or none."
            )
        if blend.encoder and blend.encoder not in encoders:
            raise InputError(f"{output} needs the encoder that it was trained with; attach that one too.")
        if blend.fine_tuned and blend.fine_tuned not in fine_tuned:
            raise InputError(
                f"{output} blends an output of finetune_deberta that is not attached, or cannot take part; attach the "
                "one that was attached when it was trained."
            )
        oof = read_oof(output / OOF, table, classes, _ATTACH)
        digest = hashlib.sha256((folder / MARKER).read_bytes()).hexdigest()[:24]
        return cls(
            name=name,
            folder=output,
            oof=oof.probabilities,
            digest=digest,
            folds=len(blend.folds),
            blend=blend,
            model_dir=encoders.get(blend.encoder),
            fine_tuned=fine_tuned.get(blend.fine_tuned),
        )

    @property
    def recipe(self) -> str:
        return RECIPE

    @property
    def encoder(self) -> str:
        return encoder_name(self.model_dir) if self.model_dir else ""

    @property
    def temperature(self) -> float:
        return self.blend.temperature

    @property
    def size(self) -> int:
        return folder_size([self.folder / "tabular", *([self.model_dir] if self.model_dir else [])])

    def predict(self, job: Job) -> np.ndarray:
        embed = fine_tuned = None
        if self.model_dir:
            options = {"model_dir": self.model_dir, "tokenizer": load_tokenizer(self.model_dir)}
            options |= {"features": self.blend.features, "precision": job.precision}
            embed = partial(embed_pairs, cache_dir=job.scratch / "embeddings", **options)
        if self.fine_tuned:
            fine_tuned = job.predictions_of(self.fine_tuned)
        return predict_blend(self.folder / "tabular", job.table, embed, fine_tuned)

    def seconds(self, sample: pd.DataFrame, rows: int, precision: str) -> float:
        """As in `Member`. A fine-tuned model in its blend counts in full, though it may have predicted already."""
        features, sample = self.blend.features, sample.head(SAMPLE)
        tokenizer = load_tokenizer(self.model_dir) if self.model_dir else None
        forecast = forecast_features(sample, rows, features, Clock(), self.model_dir, tokenizer, precision, 3.0)
        width = encoder_config(self.model_dir)["hidden_size"] if self.model_dir else 1
        counted = Counted.of(sample, features.groups, lambda some: np.zeros((len(some), 3, width), np.float32))
        begun = time.perf_counter()
        predict_folds(self.folder / "tabular", self.blend, counted)
        models = (time.perf_counter() - begun) / len(sample) * rows
        member = self.fine_tuned.seconds(sample, rows, precision) if self.fine_tuned else 0.0
        return forecast.embeddings[1] + forecast.others[1] + models + member
