"""Every option of the model: swapping A and B stays exact, and a model that is saved or rebuilt is the same."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from src_py.errors import InputError
from src_py.model.predict import PredictionSettings, predict_pairs
from src_py.model.preference import Architecture, ModelSettings, architecture_of, build_model, check_options, rebuild
from src_py.model.saved import SavedSettings, load_trained, save_trained
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.pairs.load import swap_sides

READING, SHARES, CLASSES = Reading(max_length=48), [0.35, 0.34, 0.31], ("a", "b", "tie")
OPTIONS = {
    "network head": ({"head": "network"}, {}),
    "attention pooling": ({"pooling": "attention"}, {}),
    "last four layers": ({"pooling": "last4"}, {}),
    "no dropout": ({"encoder_dropout": 0.0}, {}),
    "counts": ({}, {"features": "on"}),
    "counts alone": ({}, {"features": "alone"}),
    "adapters": ({"lora_rank": 4}, {}),
    "chatbots": ({"names_loss": 0.3}, {}),
    "all": ({"head": "network", "pooling": "attention", "names_loss": 0.3, "encoder_dropout": 0.0}, {"features": "on"}),
    "joint with counts": ({}, {"features": "on", "style": "joint"}),
}


@pytest.fixture
def named(pairs):
    """Sixty rows with the names of three chatbots and, on half of them, a teacher's probabilities."""
    table = pairs[:60].copy()
    names = np.array(["x", "y", "z", "seldom"])
    table["model_a"] = names[np.r_[np.arange(57) % 3, 3, 3, 3]]
    table["model_b"] = names[np.r_[(np.arange(57) + 1) % 3, 0, 1, 2]]
    table["soft"] = [[0.2, 0.3, 0.5] if i % 2 else [float("nan")] * 3 for i in range(60)]
    table["soft_weight"] = [0.5 * (i % 2) for i in range(60)]
    return table


def build(tiny, tokenizer, table, option):
    settings, changes = OPTIONS[option]
    reading = replace(READING, **changes)
    train = encode_pairs(table, tokenizer, reading)
    options = {"features": reading.features, "train": train}
    model = build_model(tiny, tokenizer, reading.style, SHARES, ModelSettings(**settings), **options)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (not name.startswith("encoder.") or "lora_B" in name):
            nn.init.normal_(parameter, std=0.3)
    return model, reading, train


@pytest.mark.parametrize(
    "settings",
    [{"pooling": "cls"}, {"head": "network"}, {"encoder_dropout": 0.0}, {"side_bias": True}, {"reinit_layers": 1}],
    ids=str,
)
def test_what_counts_alone_would_ignore_is_refused(settings):
    [field] = settings
    with pytest.raises(
        InputError, match=f"CFG.{field} changes how the text is read, and .*'alone' reads none; leave it at"
    ):
        check_options("pairwise", "alone", ModelSettings(**settings))
    check_options("pairwise", "alone", ModelSettings(freeze_layers=2, dropout=0.2))


@pytest.mark.parametrize("option", OPTIONS)
def test_swapping_swaps_and_a_saved_or_rebuilt_model_is_the_same(tmp_path, tiny, tokenizer, named, option):
    model, reading, _ = build(tiny, tokenizer, named, option)
    table = named.drop(columns=["soft", "soft_weight"])
    straight = predict_pairs(model, tokenizer, table, reading)
    swapped = predict_pairs(model, tokenizer, swap_sides(table), reading)
    assert np.abs(straight - swapped[:, [1, 0, 2]]).max() <= 1e-6
    assert straight.std(0).min() > 1e-4

    rebuilt = rebuild(tiny, Architecture.from_dict(json.loads(json.dumps(asdict(architecture_of(model))))))
    rebuilt.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(predict_pairs(rebuilt, tokenizer, table, reading), straight)

    save_trained(model, tokenizer, tmp_path, SavedSettings("r", CLASSES, reading, model.architecture.settings))
    again, settings = load_trained(tmp_path)
    assert settings.reading == reading
    predicted = predict_pairs(again, tokenizer, table, settings.reading)
    np.testing.assert_allclose(predicted, straight, rtol=0, atol=1e-6 if option == "adapters" else 0)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_trained_weight_gets_a_gradient(tiny, tokenizer, named, option):
    """Of several processes each waits for the gradients of all of them."""
    model, _, train = build(tiny, tokenizer, named, option)
    batch = PairCollator(tokenizer.pad_token_id)([train[i] for i in range(8)])
    model.train()(**batch)["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert any(p.requires_grad for p in model.parameters())


def test_counts_alone_do_not_read_the_text(tiny, tokenizer, named):
    model, _, train = build(tiny, tokenizer, named, "counts alone")
    collate = PairCollator(tokenizer.pad_token_id)
    batch = collate([train[i] for i in range(4)])
    other = copy.copy(batch) | {"input_ids": batch["input_ids"].flip(0)}
    with torch.no_grad():
        assert torch.equal(model(**batch)["logits"], model(**other)["logits"])
    assert not any(p.requires_grad for p in model.encoder.parameters())


def test_counts_start_where_counts_end(tiny, tokenizer, pairs):
    """The longer answer wins: the new model knows it before its first training step, beyond its training rows too."""
    table = pairs.copy()
    sizes = [table[side].map(lambda turns: len("".join(turns))) for side in ("response_a", "response_b")]
    table["label"] = (sizes[0] < sizes[1]).astype(int)
    train = encode_pairs(table[:200], tokenizer, replace(READING, features="on"))
    model = build_model(tiny, tokenizer, "pairwise", [0.5, 0.5, 1e-3], features="on", train=train)
    predicted = predict_pairs(model, tokenizer, table[200:], replace(READING, features="on"))
    assert (predicted[:, :2].argmax(1) == table["label"][200:]).mean() > 0.85


def test_two_models_with_the_same_seed_are_equal_and_building_one_draws_nothing_more(tiny, tokenizer, named):
    """Fitting the counts has random numbers of its own, so that the text's head starts as it does without them."""
    train = encode_pairs(named, tokenizer, replace(READING, features="on"))
    states = []
    for features in ("on", "on", "off"):
        torch.manual_seed(3)
        model = build_model(tiny, tokenizer, "pairwise", [1 / 3] * 3, features=features, train=train)
        states.append({k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_dropout_of_the_encoder(tiny, tokenizer, named):
    """Without it and the head's, two passes in training mode agree."""
    for share, equal in ((0.0, True), (-1.0, False), (0.4, False)):
        settings = ModelSettings(encoder_dropout=share, dropout=0.0)
        model = build_model(tiny, tokenizer, "pairwise", SHARES, settings).train()
        nn.init.normal_(model.head.score.weight)
        batch = PairCollator(tokenizer.pad_token_id)([encode_pairs(named[:2], tokenizer, READING)[0]])
        losses = [model(**batch)["loss"].item() for _ in range(2)]
        assert (losses[0] == losses[1]) == equal, share


@pytest.mark.parametrize(
    ("style", "settings", "field"),
    [
        ("joint", {"head": "network"}, "CFG.head"),
        ("joint", {"names_loss": 0.1}, "CFG.names_loss"),
        ("pairwise", {"head": "network", "side_bias": True}, "CFG.side_bias"),
    ],
)
def test_settings_that_exclude_each_other_are_named(style, settings, field):
    with pytest.raises(InputError, match=field):
        Architecture(style, 3, ModelSettings(**settings))
    with pytest.raises(InputError, match=field):
        check_options(style, "off", ModelSettings(**settings))


@pytest.mark.parametrize("field", ["lora_rank", "names_loss"])
def test_an_encoder_that_is_not_used_is_not_trained(tiny, tokenizer, named, field):
    """It would be ignored in one process, and two could not rebuild the model."""
    settings, train = ModelSettings(**{field: 2}), encode_pairs(named, tokenizer, replace(READING, features="alone"))
    with pytest.raises(InputError, match=f"CFG.{field} .*'alone'"):
        build_model(tiny, tokenizer, "pairwise", SHARES, settings, features="alone", train=train)


def test_prediction_never_reads_less_than_training():
    assert PredictionSettings().reading(READING) == READING
    assert PredictionSettings(predict_max_length=64).reading(READING) == replace(READING, max_length=64)
    with pytest.raises(InputError, match=r"predict_max_length is 32, and CFG\.max_length 48"):
        PredictionSettings(predict_max_length=32).reading(READING)


def test_names_need_names(tiny, tokenizer, named):
    train = encode_pairs(named.drop(columns=["model_a", "model_b"]), tokenizer, READING)
    with pytest.raises(InputError, match="model_a and model_b"):
        build_model(tiny, tokenizer, "pairwise", SHARES, ModelSettings(names_loss=0.2), train=train)
    with pytest.raises(InputError, match="use a share from 0"):
        ModelSettings(encoder_dropout=-0.5)
