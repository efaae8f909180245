"""The model: symmetric, in fp32, frozen where set, saved and loaded as one folder; unusable folders are refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from src_py.errors import InputError
from src_py.kaggle.session import share_out
from src_py.model.encoder import encoder_layers
from src_py.model.predict import predict_logits, predict_pairs
from src_py.model.preference import ModelSettings, build_model
from src_py.model.saved import SavedSettings, load_trained, save_trained
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.pairs.load import swap_sides
from src_py.pairs.tokenizer import newline_id

READING = Reading(max_length=48)
SHARES = [0.35, 0.34, 0.31]


@pytest.fixture
def model(tiny, tokenizer):
    return build_model(tiny, tokenizer, "pairwise", SHARES)


@pytest.mark.parametrize(("style", "tolerance"), [("pairwise", 1e-6), ("joint", 1e-12)])
def test_swapping_a_and_b_swaps_the_probabilities(tiny, tokenizer, pairs, style, tolerance):
    model = build_model(tiny, tokenizer, style, SHARES)
    torch.nn.init.normal_(model.head.tie[-1].weight if style == "pairwise" else model.head.classifier.weight)
    reading = replace(READING, style=style)
    straight = predict_pairs(model, tokenizer, pairs[:40], reading)
    swapped = predict_pairs(model, tokenizer, swap_sides(pairs[:40]), reading)
    assert np.abs(straight - swapped[:, [1, 0, 2]]).max() <= tolerance
    assert straight[:, 0].std() > 1e-4


def test_a_side_bias_breaks_the_symmetry(tiny, tokenizer, pairs):
    model = build_model(tiny, tokenizer, "pairwise", SHARES, ModelSettings(side_bias=True))
    model.head.bias.data.fill_(0.5)
    probabilities = predict_pairs(model, tokenizer, pairs[:20], READING)
    assert (probabilities[:, 0] > probabilities[:, 1]).mean() > 0.9


@pytest.mark.parametrize("style", ["pairwise", "joint"])
def test_the_model_starts_near_the_constant_predictor(tiny, tokenizer, pairs, style):
    model = build_model(tiny, tokenizer, style, [0.2, 0.2, 0.6])
    probabilities = predict_pairs(model, tokenizer, pairs[:40], replace(READING, style=style))
    assert probabilities.mean(0) == pytest.approx([0.2, 0.2, 0.6], abs=0.05)


def test_two_classes_have_no_tie(tiny, tokenizer, pairs):
    model = build_model(tiny, tokenizer, "pairwise", [0.5, 0.5])
    assert predict_pairs(model, tokenizer, pairs[:3], READING).shape == (3, 2)


def test_half_precision_checkpoints_become_fp32(tiny, tmp_path, tokenizer):
    half = shutil.copytree(tiny, tmp_path / "half")
    build_model(tiny, tokenizer, "pairwise", SHARES).encoder.half().save_pretrained(half)
    model = build_model(half, tokenizer, "pairwise", SHARES)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_embedding_matrix_never_shrinks_and_the_line_break_has_a_vector(model, tokenizer):
    weight = model.encoder.get_input_embeddings().weight
    assert weight.shape[0] == 704 > len(tokenizer)
    norms = weight[: len(tokenizer)].norm(dim=1)
    assert norms[newline_id(tokenizer)] > 0.5 * norms.median()


@pytest.mark.parametrize(("freeze_layers", "frozen"), [(0, True), (1, True), (2, True), (2, False)])
@pytest.mark.parametrize("attention", ["stock", "chunked", "sdpa"])
def test_every_trained_weight_gets_a_gradient(tiny, tokenizer, pairs, freeze_layers, frozen, attention):
    """Of several processes each waits for the gradients of all of them."""
    settings = ModelSettings(freeze_layers=freeze_layers, freeze_embeddings=frozen, attention=attention)
    model = build_model(tiny, tokenizer, "pairwise", SHARES, settings)
    torch.nn.init.ones_(model.head.score.weight)
    rows = encode_pairs(pairs[:4], tokenizer, READING)
    batch = PairCollator(tokenizer.pad_token_id)([rows[i] for i in range(4)])
    model(**batch)["loss"].backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in trained.items() if gradient is None]
    assert any("rel_embeddings" in name for name in trained) == (freeze_layers < 2)


def test_frozen_parts_are_frozen_and_reset_layers_are_new(tiny, tokenizer):
    untouched = build_model(tiny, tokenizer, "pairwise", SHARES)
    model = build_model(tiny, tokenizer, "pairwise", SHARES, ModelSettings(freeze_layers=1, reinit_layers=1))
    layers, old = encoder_layers(model.encoder), encoder_layers(untouched.encoder)
    assert not any(p.requires_grad for p in model.encoder.embeddings.parameters())
    assert not any(p.requires_grad for p in layers[0].parameters())
    assert all(p.requires_grad for p in layers[1].parameters())
    assert torch.equal(layers[0].output.dense.weight, old[0].output.dense.weight)
    assert not torch.equal(layers[1].output.dense.weight, old[1].output.dense.weight)
    with pytest.raises(InputError, match="2 layers"):
        build_model(tiny, tokenizer, "pairwise", SHARES, ModelSettings(freeze_layers=2, reinit_layers=1))


def test_a_trained_folder_predicts_the_same(tmp_path, model, tokenizer, pairs):
    torch.nn.init.normal_(model.head.tie[-1].weight)
    save_trained(model, tokenizer, tmp_path, SavedSettings("finetune_deberta", ("a", "b", "tie"), READING))
    again, settings = load_trained(tmp_path)
    assert settings.reading == READING
    reading = READING
    np.testing.assert_array_equal(
        predict_pairs(model, tokenizer, pairs[:9], reading), predict_pairs(again, tokenizer, pairs[:9], reading)
    )
    assert not list(tmp_path.glob("*.bin"))
    (tmp_path / "head.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="trained folder"):
        load_trained(tmp_path)


def test_folders_that_hold_no_usable_encoder_are_refused(tmp_path, tiny, tokenizer):
    GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=1, vocab_size=50)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(InputError, match="a gpt2 model, which is a decoder"):
        build_model(tmp_path / "gpt2", tokenizer, "pairwise", SHARES)
    cut = shutil.copytree(tiny, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cut short"):
        build_model(cut, tokenizer, "pairwise", SHARES)
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        build_model(tmp_path, tokenizer, "pairwise", SHARES)


def test_a_bert_works(tmp_path, tokenizer, pairs):
    config = BertConfig(
        vocab_size=len(tokenizer) - 1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    model = build_model(tmp_path, tokenizer, "pairwise", SHARES)
    assert model.encoder.get_input_embeddings().num_embeddings == len(tokenizer)
    assert predict_pairs(model, tokenizer, pairs[:3], READING).shape == (3, 3)


def test_a_model_that_has_diverged_is_refused_in_one_sentence(model, tokenizer, pairs):
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=r"of validation rows are NaN or infinite in 6 of 6 rows; lower CFG.lr"):
        predict_pairs(model, tokenizer, pairs[:6], READING, what="validation rows")


def test_two_devices_predict_what_one_does(model, tokenizer, pairs):
    encoded = encode_pairs(pairs[:30], tokenizer, Reading(max_length=48))
    one = predict_logits(model, encoded, tokenizer.pad_token_id, 400, progress=False)
    two = predict_logits(model, encoded, tokenizer.pad_token_id, 400, progress=False, devices=("cpu", "cpu"))
    np.testing.assert_array_equal(one, two)


def test_what_fails_on_one_device_is_told():
    def fails(item):
        raise ZeroDivisionError

    done = []
    with pytest.raises(ZeroDivisionError):
        share_out(range(1000), [fails, done.append])
    share_out(range(5), [done.append])
    assert done[-5:] == [0, 1, 2, 3, 4]
