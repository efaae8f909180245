"""A small problem, and outcomes as if they had been trained."""

import numpy as np
import pytest

from src_py.ablation.trials import Outcome, Problem, TrialSettings
from src_py.pairs import prompt_key


@pytest.fixture
def problem(pairs, tiny) -> Problem:
    settings = TrialSettings(
        max_length=32, epochs=1.0, batch_size=8, micro_batch=8, lr=0.002, head_lr=0.002, evaluations=2
    )
    train, valid = pairs.iloc[:240], pairs.iloc[240:].reset_index(drop=True)
    return Problem(train, valid, prompt_key(valid), tiny, ("a", "b", "tie"), settings)


@pytest.fixture
def outcome(problem):
    """A function: the constant predictor, moved by `sharpness` towards the truth on a random two thirds of the rows."""

    def make(sharpness: float, seed: int = 0) -> Outcome:
        rng = np.random.default_rng(seed)
        labels = problem.valid["label"].to_numpy()
        shares = np.bincount(problem.train["label"], minlength=3) / len(problem.train)
        logits = np.tile(np.log(shares), (len(labels), 1)) + rng.normal(0, 0.002, (len(labels), 3))
        lucky = rng.random(len(labels)) < 0.67
        logits[np.arange(len(labels)), np.where(lucky, labels, (labels + 1) % 3)] += sharpness
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return Outcome(probabilities[None], [1], 6.0, 0.1, 3.0)

    return make


@pytest.fixture
def diverged(problem) -> Outcome:
    return Outcome(np.full((2, len(problem.valid), 3), np.nan), [1, 2], 1.0, 1.0, 1.0)
