"""Outputs of `finetune_deberta` as members of a blend."""

import hashlib
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from src_py.blend.member import Job, Member, encoder_name, folder_size
from src_py.errors import InputError
from src_py.kaggle.resume import edited_helpers, recorded_run, run_problem
from src_py.kaggle.session import all_devices
from src_py.model.fine_tuned import RECIPE, read_fine_tuned
from src_py.model.pace import Part, measure_paces, part_work, seconds_like, sequence_lengths, typical
from src_py.model.predict import batch_logits, prediction_parts
from src_py.model.saved import load_to_predict, predict_saved, read_settings
from src_py.pairs.encode import encode_pairs
from src_py.pairs.tokenizer import load_tokenizer

PREDICTING = ("src_py.model.saved", "src_py.pairs.encode")  # helpers that its predictions depend on


@dataclass(frozen=True, kw_only=True)
class FineTunedMember(Member):
    """Fine-tuned encoders in `folders`, one or more a fold; `run` is the key of the run that they are from."""

    folders: list[Path]
    run: str

    @classmethod
    def read(cls, name: str, output: Path, table: pd.DataFrame, classes: tuple[str, ...]) -> "FineTunedMember":
        """The member in an output folder of the recipe.

        Raises:
            InputError: the run did not end or learn, or as for `read_fine_tuned`.
        """
        if problem := run_problem(output, RECIPE):
            raise InputError(f"{output} cannot take part: {problem}.")
        found, (key, _) = read_fine_tuned(output, table, classes), recorded_run(output, RECIPE)
        for folder in found.folders:
            if read_settings(folder).run not in ("", key):
                raise InputError(f"{folder} is not from the run that {output.name} records; attach one whole output.")
        folds = len({folder.name.split("_seed_")[0] for folder in found.folders})
        return cls(
            name=name,
            folder=output,
            oof=found.oof,
            digest=found.digest,
            folds=folds,
            edited=edited_helpers(output, RECIPE, PREDICTING),
            folders=found.folders,
            run=key,
        )

    def join(self, other: "FineTunedMember") -> "FineTunedMember":
        """Both as one member: folds of the same run that were trained in different sessions."""
        return replace(
            self,
            name=f"{self.name} + {other.name}",
            oof=np.where(self.known[:, None], self.oof, other.oof),
            digest=hashlib.sha256((self.digest + other.digest).encode()).hexdigest()[:24],
            folds=self.folds + other.folds,
            folders=[*self.folders, *other.folders],
        )

    @property
    def recipe(self) -> str:
        return RECIPE

    @property
    def encoder(self) -> str:
        return encoder_name(self.folders[0])

    @property
    def temperature(self) -> float:
        return float(np.mean([read_settings(folder).calibration.temperature for folder in self.folders]))

    @property
    def size(self) -> int:
        return folder_size(self.folders)

    def predict(self, job: Job) -> np.ndarray:
        return predict_saved(self.folders, job.table, job.classes, job.precision, cache_dir=job.scratch / "tokens")

    def seconds(self, sample: pd.DataFrame, rows: int, precision: str, budget: float = 3.0) -> float:
        """As in `Member`: its first model is measured for about `budget` seconds, the others are taken to be alike."""
        begun = time.perf_counter()
        model, settings = load_to_predict(self.folders[0], precision)
        load = time.perf_counter() - begun
        tokenizer, device = load_tokenizer(self.folders[0]), all_devices()[0]
        begun = time.perf_counter()
        encoded = encode_pairs(sample, tokenizer, settings.reading)
        row = (time.perf_counter() - begun) / len(sample)
        lengths = sequence_lengths(encoded)
        model.to(device)

        def ready(some: np.ndarray) -> partial:
            return partial(batch_logits, model, encoded, some, tokenizer.pad_token_id, device, precision)

        def work(some: np.ndarray) -> np.ndarray:
            return part_work(lengths[some].ravel().tolist(), device.split(":")[0])

        batches = prediction_parts(lengths.max(1), lengths.shape[1])
        chosen = typical(np.array([work(batch) for batch in batches]))
        parts = [Part(batches[number], ready, work) for number in chosen]
        pace = measure_paces([parts], budget, torch.device(device))[0]
        return len(self.folders) * (load + seconds_like(lengths, rows, pace, row))


def join_folds(members: list[FineTunedMember]) -> list[FineTunedMember]:
    """Members of one run that know no row in common, joined; the others as they are."""
    joined: list[FineTunedMember] = []
    for member in members:
        apart = (n for n, one in enumerate(joined) if one.run == member.run and not (one.known & member.known).any())
        place = next(apart, None)
        if place is None:
            joined.append(member)
        else:
            joined[place] = joined[place].join(member)
    return joined
