"""Rows to learn from, and a fitted fold."""

import numpy as np
import pandas as pd
import pytest

from src_py.pairs import assign_folds, find_contest, load_pairs, load_tokenizer, prompt_key
from src_py.tabular.folds import FoldResult, fit_fold
from src_py.tabular.groups import GROUPS, Counted, FeatureSettings, embed_pairs
from src_py.tabular.models import MODELS
from tools.demo_data import make_pairs


class Rows:
    """Training rows with everything that is counted of them."""

    def __init__(self, table: pd.DataFrame, embed):
        self.table, self.embed = table, embed
        self.counted = Counted.of(table, GROUPS, embed)
        self.labels = table["label"].to_numpy()
        self.prompts = pd.factorize(prompt_key(table))[0]
        self.fold_of = assign_folds(table, 5, 0)


@pytest.fixture(scope="session")
def data(tmp_path_factory, tiny) -> Rows:
    """600 rows whose winner shows in words and in length."""
    folder, tokenizer = tmp_path_factory.mktemp("tabular"), load_tokenizer(tiny)
    features = FeatureSettings(max_length=48)

    def embed(rows):
        return embed_pairs(rows, tiny, tokenizer, folder / "cache", features, "fp32")

    frame = make_pairs(600, seed=1, quality_scale=3.0, length_scale=5.0)[0]
    frame.to_csv(folder / "train.csv", index=False)
    frame[["id", "prompt", "response_a", "response_b"]].head(3).to_csv(folder / "test.csv", index=False)
    files = find_contest(folder)
    return Rows(load_pairs(files.train, files.contest)[0], embed)


@pytest.fixture(scope="session")
def fold(data) -> FoldResult:
    """All models on all groups, outside the first fold."""
    return fit_fold(data.counted, data.labels, data.prompts, data.fold_of, 0, MODELS, 3, seed=0)


@pytest.fixture(scope="session")
def held(fold, data) -> dict:
    """Features of the rows that the fold holds out, by group."""
    return fold.features.transform(data.counted.take(np.flatnonzero(data.fold_of == 0)))


@pytest.fixture(scope="session")
def loss():
    """Log loss of probabilities (rows, classes)."""
    return lambda probabilities, labels: float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
