"""What the features of all rows will take, said before they are made."""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from src_py.kaggle.clock import COMPETITION_HOURS, HIDDEN_ROWS, Clock
from src_py.kaggle.session import all_devices, free_memory
from src_py.model.pace import Pace, Part, machine_line, matrix_rate, measure_paces, traffic_rate, typical
from src_py.model.predict import token_batches
from src_py.pairs.encode import encode_pairs, round_up
from src_py.tabular.embeddings import BLOCK, TOKENS, embed_block, embedding_encoder
from src_py.tabular.groups import Counted, FeatureSettings, pair_sequences

SAMPLE = 500  # rows that stand for all


@dataclass(frozen=True)
class FeatureForecast:
    """Seconds of embeddings and of all other features by rows; in a notebook a table, and what does not fit.

    Attributes:
        rows, embeddings, others: three each: training rows, test rows, and the scoring run's `HIDDEN_ROWS`.
        spent, seconds: of the run so far, and what it may take, from CFG.hours.
        machine: what was measured, in one line.
    """

    rows: tuple[int, ...]
    embeddings: tuple[float, ...]
    others: tuple[float, ...]
    spent: float
    seconds: float
    machine: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """Minutes of both kinds of features, their sum, and its limit (NaN where there is none): of the run so far, the
        training rows, the test rows, these together, and the scoring run's rows."""
        train, test, hidden = (f"{rows:,} {kind}" for rows, kind in zip(self.rows, ("training rows", "test rows", "")))
        names = ["so far", train, test, "the run with its features", f"scoring run: {hidden}test rows"]

        def column(three: tuple[float, ...], spent: float = 0.0) -> list[float]:
            return [spent, three[0], three[1], spent + three[0] + three[1], three[2]]

        columns = {"embeddings": column(self.embeddings), "other features": column(self.others)}
        both = tuple(a + b for a, b in zip(self.embeddings, self.others))
        limits = [math.nan] * 3 + [self.seconds, 3600 * COMPETITION_HOURS]
        table = pd.DataFrame(columns | {"sum": column(both, self.spent), "limit": limits}, index=names) / 60
        return table.rename_axis("minutes")

    @property
    def problems(self) -> list[str]:
        """One sentence for each thing that does not fit, with the field of CFG to change."""
        train, test, hidden = (a + b for a, b in zip(self.embeddings, self.others))
        found = []
        if self.spent + train + test > self.seconds:
            found.append(
                f"With the features the run would take {(self.spent + train + test) / 3600:.1f} hours, and CFG.hours "
                f"is {self.seconds / 3600:g}: lower CFG.max_length, leave some of CFG.groups out, or take a smaller "
                "encoder."
            )
        if hidden > 3600 * COMPETITION_HOURS:
            found.append(
                f"Kaggle's scoring run would take {hidden / 3600:.1f} hours for the features of {HIDDEN_ROWS:,} test "
                f"rows, and is ended after {COMPETITION_HOURS}: lower CFG.max_length, or take a smaller encoder."
            )
        return found

    def against(self, clock: Clock) -> pd.DataFrame:
        """Forecast and truth of the stage Features, in minutes, once `clock` has marked it."""
        forecast, truth = (self.embeddings[0] + self.others[0]) / 60, clock.spent("Features") / 60
        row = {"forecast": forecast, "truth": truth, "truth / forecast": truth / forecast}
        return pd.DataFrame(row, index=pd.Index(["Features"], name="minutes"))

    def __repr__(self) -> str:
        return "\n".join(
            [self.machine, self.table.to_string(na_rep="-", float_format="{:,.2f}".format), *self.problems]
        )

    def _repr_html_(self) -> str:
        said = "".join(f"<p><b>{sentence}</b></p>" for sentence in self.problems)
        return f"<p>{self.machine}</p>{self.table.to_html(na_rep='-', float_format='{:,.2f}'.format)}{said}"


def forecast_features(
    table: pd.DataFrame,
    test_rows: int,
    features: FeatureSettings,
    clock: Clock,
    model_dir: Path | None = None,
    tokenizer=None,
    precision: str = "fp32",
    seconds: float = 10.0,
) -> FeatureForecast:
    """Measure this machine for about `seconds`, and say what the features of all rows will take.

    Embeddings are measured at three lengths, and their time is that of the encoder calls and tokens that `SAMPLE` rows,
    drawn as often as there are rows, make with the run's own batching. The other features are counted for the sample.
    Embeddings that are stored from an earlier run take no time; the forecast does not know them. What is fitted inside
    the folds is not counted.

    Args:
        table: training rows from `load_pairs`; test rows are taken to be like them.
        model_dir, tokenizer: of the encoder; None where `features.groups` has no embeddings.
    """
    sample = table.sample(min(len(table), SAMPLE), random_state=0)
    sizes = np.array([len(table), test_rows, HIDDEN_ROWS])
    device = torch.device(all_devices()[0])
    embeddings = np.zeros(3)
    begun = time.perf_counter()
    others = tuple(group for group in features.groups if group != "embeddings")
    if others:
        Counted.of(sample, others, None)
    other = (time.perf_counter() - begun) / len(sample) * sizes
    if model_dir is not None:
        begun = time.perf_counter()
        sequences = pair_sequences(encode_pairs(sample, tokenizer, features.reading), tokenizer)
        tokenise = (time.perf_counter() - begun) / len(sample)
        lengths = np.array([len(ids) for ids in sequences]).reshape(-1, 3)
        pace = _embedding_pace(sequences, model_dir, tokenizer, features.pooling, precision, device, 0.7 * seconds)
        draw = np.random.default_rng(0)
        drawn = [lengths[draw.integers(len(lengths), size=rows)].ravel() for rows in sizes]
        calls = [pace.seconds(embedding_work(some)) / len(all_devices()) for some in drawn]
        embeddings = np.array(calls) + tokenise * sizes
    rates = matrix_rate(device, precision, seconds / 20), traffic_rate(device, seconds / 20)
    free_memory()
    return FeatureForecast(
        rows=tuple(sizes.tolist()),
        embeddings=tuple(embeddings.tolist()),
        others=tuple(other.tolist()),
        spent=time.time() - clock.begun,
        seconds=clock.limit - clock.begun,
        machine=machine_line(*rates),
    )


def embedding_work(lengths: np.ndarray) -> np.ndarray:
    """Encoder calls, tokens with padding, and tokens times length, (3,), of embedding sequences of these lengths."""
    ordered = -np.sort(-lengths)
    blocks = [ordered[at : at + BLOCK] for at in range(0, len(ordered), BLOCK)]
    return sum((_block_work(block) for block in blocks), np.zeros(3, dtype=np.int64))


def _block_work(lengths: np.ndarray) -> np.ndarray:
    ordered = -np.sort(-lengths)
    calls = [ordered[rows] for rows in token_batches(ordered.tolist(), TOKENS)]
    return np.array([(1, len(call) * round_up(call[0]), len(call) * round_up(call[0]) ** 2) for call in calls]).sum(0)


def _embedding_pace(
    sequences: list[list[int]], model_dir: Path, tokenizer, pooling: str, precision: str, device, budget: float
) -> Pace:
    lengths = np.array([len(ids) for ids in sequences])
    model = embedding_encoder(model_dir, tokenizer, int(lengths.max()), precision).to(device)
    order = np.argsort(-lengths, kind="stable")
    calls = [order[rows] for rows in token_batches(lengths[order].tolist(), TOKENS)]

    def ready(rows: np.ndarray) -> partial:
        texts = [sequences[i] for i in rows]
        return partial(embed_block, texts, model, tokenizer, pooling, precision, TOKENS, str(device))

    work = np.array([_block_work(lengths[rows]) for rows in calls])
    parts = [Part(calls[i], ready, lambda rows: _block_work(lengths[rows])) for i in typical(work)]
    return measure_paces([parts], budget, device)[0]


def _number(value: float) -> str:
    return f"{value:,.2f}"
