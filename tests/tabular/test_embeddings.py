"""Embeddings: right, sorted into even batches, cached under all that they depend on, resumed, and checked."""

import numpy as np
import pytest
import torch

from src_py.errors import InputError
from src_py.model.encoder import load_encoder
from src_py.pairs.encode import Reading, encode_pairs
from src_py.tabular import embeddings
from src_py.tabular.embeddings import embed_sequences, token_batches
from tools.demo_data import write_tiny_deberta


@pytest.fixture
def sequences(pairs, tokenizer):
    """Token ids of 600 texts."""
    return [ids for row in encode_pairs(pairs, tokenizer, Reading(max_length=64))["sequences"] for ids in row]


@pytest.fixture
def calls(monkeypatch):
    """Blocks that were really embedded."""
    real, made = embeddings.embed_block, []

    def counts(*words):
        made.append(1)
        return real(*words)

    monkeypatch.setattr(embeddings, "embed_block", counts)
    return made


def test_the_vectors_are_those_of_one_text_at_a_time(sequences, tiny, tokenizer, tmp_path):
    few = sequences[:40]
    found = embed_sequences(few, tiny, tokenizer, tmp_path, tokens=300)
    encoder = load_encoder(tiny).eval()
    encoder.resize_token_embeddings(max(encoder.config.vocab_size, len(tokenizer)))
    for ids, vector in zip(few, found):
        if tokenizer.convert_tokens_to_ids("\n") in ids:
            continue  # its vector is set when the encoder is fitted to the tokenizer
        with torch.inference_mode():
            hidden = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), atol=1e-4)


def test_batches_hold_about_equally_many_tokens():
    lengths = sorted(np.random.default_rng(0).integers(5, 500, 1000).tolist(), reverse=True)
    slices = token_batches(lengths, 4000)
    assert sum(s.stop - s.start for s in slices) == 1000
    costs = [lengths[s.start] * (s.stop - s.start) for s in slices]
    assert max(costs) <= 4000
    assert sum(lengths) / sum(costs) > 0.95, "padding under 5 %"
    assert token_batches([9000], 4000) == [slice(0, 1)]


@pytest.mark.parametrize("pooling", ["cls", "last4"])
def test_other_poolings_give_other_vectors_in_their_own_folder(sequences, tiny, tokenizer, tmp_path, pooling):
    few = sequences[:20]
    mean = embed_sequences(few, tiny, tokenizer, tmp_path)
    other = embed_sequences(few, tiny, tokenizer, tmp_path, pooling=pooling)
    assert np.abs(mean - other).max() > 1e-3
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_run_resumes_and_gives_the_same(sequences, tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 100)
    whole = np.array(embed_sequences(sequences, tiny, tokenizer, tmp_path / "whole"))
    real, calls = embeddings.embed_block, []

    def breaks(*words):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(embeddings, "embed_block", breaks)
    with pytest.raises(KeyboardInterrupt):
        embed_sequences(sequences, tiny, tokenizer, tmp_path / "broken")
    (folder,) = (tmp_path / "broken").iterdir()
    with open(folder / "done.txt", "a", encoding="utf-8") as file:
        file.write("5")  # a kill in the middle of a line
    np.testing.assert_array_equal(embed_sequences(sequences, tiny, tokenizer, tmp_path / "broken"), whole)
    assert len(calls) == 3 + 4, "two of six blocks were read back"
    embed_sequences(sequences, tiny, tokenizer, tmp_path / "broken")
    assert len(calls) == 7, "a second run reads everything"


@pytest.mark.parametrize("damage", ["a changed vector", "block numbers that do not exist", "another shape", "bytes"])
def test_a_damaged_cache_is_never_believed(sequences, tiny, tokenizer, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(embeddings, "BLOCK", 20)
    few = sequences[:60]
    right = np.array(embed_sequences(few, tiny, tokenizer, tmp_path))
    (folder,) = tmp_path.iterdir()
    if damage == "a changed vector":
        vectors = np.load(folder / "vectors.npy")
        vectors[7] += 1
        np.save(folder / "vectors.npy", vectors)
    elif damage == "block numbers that do not exist":
        (folder / "done.txt").write_text("99 1\n-1 1\nx\n²  1\n0\n")
    elif damage == "another shape":
        np.save(folder / "vectors.npy", np.zeros((60, 3), np.float32))
    else:
        (folder / "done.txt").write_bytes(b"\xff\xfe0 1\n")
    np.testing.assert_array_equal(embed_sequences(few, tiny, tokenizer, tmp_path), right)


def test_another_text_or_encoder_never_uses_the_cache(sequences, tiny, tokenizer, tmp_path):
    few = sequences[:10]
    first = np.array(embed_sequences(few, tiny, tokenizer, tmp_path))
    other = write_tiny_deberta(tmp_path / "other", seed=1, hidden_size=32)
    assert np.abs(np.array(embed_sequences(few, other, tokenizer, tmp_path)) - first).max() > 1e-3
    swapped = embed_sequences([few[1], few[0], *few[2:]], tiny, tokenizer, tmp_path)
    np.testing.assert_allclose(swapped[0], first[1], atol=1e-6)


def test_other_code_never_uses_the_cache(sequences, tiny, tokenizer, tmp_path, monkeypatch, calls):
    few = sequences[:10]
    for _ in "ab":
        embed_sequences(few, tiny, tokenizer, tmp_path)
    assert len(calls) == 1
    monkeypatch.setattr(embeddings, "module_digest", {"src_py.tabular.embeddings": "edited"}.get)
    embed_sequences(few, tiny, tokenizer, tmp_path)
    assert len(calls) == 2


def test_vectors_that_are_not_finite_are_refused_and_not_stored(sequences, tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "embed_block", lambda texts, *words: np.full((len(texts), 32), np.nan, np.float32))
    with pytest.raises(InputError, match=r"not finite in fp16; set CFG.precision = 'fp32'"):
        embed_sequences(sequences[:5], tiny, tokenizer, tmp_path, precision="fp16")
    (folder,) = tmp_path.iterdir()
    assert (folder / "done.txt").read_text() == ""


def test_two_devices_share_the_work(sequences, tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 50)
    single = embed_sequences(sequences, tiny, tokenizer, tmp_path / "one", devices=("cpu",))
    both = embed_sequences(sequences, tiny, tokenizer, tmp_path / "two", devices=("cpu", "cpu"))
    np.testing.assert_allclose(single, both, atol=1e-6)
