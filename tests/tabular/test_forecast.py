"""The forecast of features counts the encoder calls that embedding really makes, and says what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src_py.kaggle.clock import Clock
from src_py.pairs.encode import encode_pairs
from src_py.tabular import embeddings
from src_py.tabular.forecast import FeatureForecast, embedding_work, forecast_features
from src_py.tabular.groups import FeatureSettings, pair_sequences

HOUR = 3600.0


def test_calls_and_tokens_are_those_of_the_real_embedding(pairs, tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("src_py.tabular.forecast.TOKENS", 500)
    features, made = FeatureSettings(groups=("embeddings",), max_length=48), np.zeros(3, int)

    def counts(module, args, kwargs):
        rows, length = kwargs["input_ids"].shape
        made.__iadd__([1, rows * length, rows * length**2])

    real = embeddings.embedding_encoder

    def hooked(*words):
        encoder = real(*words)
        encoder.register_forward_pre_hook(counts, with_kwargs=True)
        return encoder

    monkeypatch.setattr(embeddings, "embedding_encoder", hooked)
    sequences = pair_sequences(encode_pairs(pairs[:40], tokenizer, features.reading), tokenizer)
    embeddings.embed_sequences(sequences, tiny, tokenizer, tmp_path, tokens=500)
    assert embedding_work(np.array([len(ids) for ids in sequences])).tolist() == made.tolist()


def test_a_forecast_of_all_features_leaves_the_random_state(pairs, tiny, tokenizer):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    features = FeatureSettings(groups=("length", "embeddings"), max_length=48)
    found = forecast_features(pairs[:40], 3, features, Clock(8.5), tiny, tokenizer, seconds=0.0)
    assert found.rows == (40, 3, 25_000)
    assert min(*found.embeddings, *found.others) > 0
    assert found.embeddings[0] < found.embeddings[2]
    assert found.problems == []
    assert "scoring run: 25,000 test rows" in repr(found)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.fixture
def fits():
    return FeatureForecast((57_477, 3, 25_000), (2 * HOUR, 0.1, HOUR), (0.5 * HOUR, 0.1, 0.2 * HOUR), 60.0, 8.5 * HOUR)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embeddings": (9 * HOUR, 0.1, HOUR)}, "would take 9.5 hours, and CFG.hours is 8.5: lower"),
        ({"embeddings": (HOUR, 0.1, 10 * HOUR)}, "scoring run would take 10.2 hours for the features of 25,000"),
    ],
)  # fmt: skip
def test_one_sentence_for_each_thing_that_does_not_fit(fits, changes, said):
    assert fits.problems == []
    (sentence,) = replace(fits, **changes).problems
    assert said in sentence
    assert sentence in replace(fits, **changes)._repr_html_()


def test_forecast_and_truth_stand_side_by_side(fits):
    clock = Clock(8.5)
    clock.stages = [("Features", clock.begun + 1.25 * HOUR)]
    assert fits.against(clock).loc["Features"].tolist() == pytest.approx([150, 75, 0.5])
