"""A generated contest and a tiny DeBERTa, made once for all tests."""

import gc
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from src_py.kaggle.session import start_session
from src_py.pairs.contest import LMSYS
from src_py.pairs.load import load_pairs
from src_py.pairs.tokenizer import load_tokenizer
from tools.demo_data import write_contest, write_tiny_deberta

# The models are tiny: more threads only wait for each other, and on a busy machine for a long time.
torch.set_num_threads(1)

# Trainers collect garbage often. What the libraries made while they were imported stays, and need not be looked at.
gc.freeze()


def seeds(count: int, gated: int = 2) -> list:
    """Seeds 0 to `count`, of which the gate runs the first few and `make test-all` all."""
    return [pytest.param(seed, marks=pytest.mark.slow if seed < gated else pytest.mark.long) for seed in range(count)]


@pytest.fixture(autouse=True)
def _session():
    start_session(0)


@pytest.fixture(scope="session")
def contest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "competitions" / "llm-classification-finetuning"
    write_contest(folder, train_rows=300, test_rows=40)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_deberta(tmp_path_factory.mktemp("models") / "tiny", hidden_size=32)


@pytest.fixture
def tokenizer(tiny):
    return load_tokenizer(tiny)


@pytest.fixture
def pairs(contest) -> pd.DataFrame:
    return load_pairs(contest / "train.csv", LMSYS)[0]


@pytest.fixture
def rows() -> pd.DataFrame:
    """Four healthy training rows in the contest's file format, to be broken one at a time."""
    frame = pd.DataFrame({"id": [11, 12, 13, 14], "model_a": "x", "model_b": "y"})
    for column in ("prompt", "response_a", "response_b"):
        frame[column] = [json.dumps([f"{column} {i}"]) for i in range(4)]
    for k, column in enumerate(("winner_model_a", "winner_model_b", "winner_tie")):
        frame[column] = [int(i % 3 == k) for i in range(4)]
    return frame
