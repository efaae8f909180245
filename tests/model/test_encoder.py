"""Encoders of every family are found, loaded whole, limited and used alike; everything else is refused in words."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2ForMaskedLM,
    GPT2Config,
    GPT2Model,
)

from src_py.doctor.check import check_before_training
from src_py.errors import InputError
from src_py.model.encoder import encoder_embeddings, encoder_layers, fit_embeddings, load_encoder
from src_py.model.families import FAMILIES, check_max_length, check_precision, family_of, max_tokens
from src_py.model.find import find_encoder
from src_py.model.predict import predict_pairs
from src_py.model.preference import ModelSettings, architecture_of, build_model, rebuild
from src_py.model.saved import SavedSettings, find_trained, load_trained, save_trained
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer, newline_added, newline_id, single_token_id
from src_py.tabular.embeddings import embed_sequences
from src_py.training.trainer import TrainingSettings, make_trainer
from tools.demo_data import write_tiny

READING = Reading(max_length=48)
SAVED = SavedSettings("finetune_deberta", ("a", "b", "tie"), READING)
SHARES = [0.35, 0.34, 0.31]


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """A function that makes the tiny model of a family, each once."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(family):
        if family not in made:
            made[family] = write_tiny(root / family, family, hidden_size=32)
        return made[family]

    return folder


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def folder(families, family):
    return families(family)


@pytest.fixture
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture
def model(folder, tokenizer):
    return build_model(folder, tokenizer, "pairwise", SHARES, ModelSettings(dropout=0.0))


def batch_of(pairs, tokenizer, rows=6, **changes):
    encoded = encode_pairs(pairs[:rows], tokenizer, replace(READING, **changes))
    return PairCollator(tokenizer.pad_token_id)(list(encoded)), encoded


# --- Every family ---


def test_it_is_found_and_loaded_by_what_its_config_says(folder, family):
    assert find_encoder(folder.parent, folder.name) == folder
    encoder = load_encoder(folder)
    assert family_of(encoder.config) is FAMILIES[family]
    stored = load_file(folder / "model.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, stored[name]), name
        assert "pooler" not in name  # what a checkpoint for masked words lacks
    assert len(encoder_layers(encoder)) == 2


def test_it_learns_in_the_parts_that_are_not_frozen(folder, tokenizer, pairs):
    untouched = build_model(folder, tokenizer, "pairwise", SHARES)
    model = build_model(folder, tokenizer, "pairwise", SHARES, ModelSettings(freeze_layers=1, reinit_layers=1))
    layers, old = encoder_layers(model.encoder), encoder_layers(untouched.encoder)
    weights = [[p for p in layer.parameters() if p.ndim == 2] for layer in (*layers, *old)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights[1], weights[3], strict=True))
    batch, _ = batch_of(pairs, tokenizer)
    torch.nn.init.normal_(model.head.score.weight)
    loss = model.train()(**batch)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3), abs=0.8)
    assert not any(p.grad is not None for p in encoder_embeddings(model.encoder).parameters())
    assert not any(p.grad is not None for p in layers[0].parameters())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layers[1].parameters() if p.ndim == 2)


def test_padding_changes_nothing(tokenizer, model, pairs):
    batch, encoded = batch_of(pairs, tokenizer)
    more = torch.nn.functional.pad
    ids = more(batch["input_ids"], (0, 60), value=tokenizer.pad_token_id)
    mask = more(batch["attention_mask"], (0, 60))
    with torch.inference_mode():
        padded, grouped = model.eval().encode(ids, mask), model.encode(ids, mask, batch["lengths"])
        for i in range(len(encoded)):
            for j, sequence in enumerate(encoded[i]["sequences"]):
                one = torch.tensor(sequence)[None, None]
                alone = model.encode(one, torch.ones_like(one))[0, 0]
                torch.testing.assert_close(padded[i, j], alone, atol=1e-5, rtol=0)
                torch.testing.assert_close(grouped[i, j], alone, atol=1e-5, rtol=0)
    assert padded.std() > 0.01


def test_a_trained_folder_predicts_the_same_and_is_not_taken_for_an_encoder(tmp_path, tokenizer, model, pairs):
    torch.nn.init.normal_(model.head.tie[-1].weight)
    save_trained(model, tokenizer, tmp_path / "run", SAVED)
    again, _ = load_trained(tmp_path / "run")
    same = load_tokenizer(tmp_path / "run")
    expected = predict_pairs(model, tokenizer, pairs[:9], READING)
    np.testing.assert_array_equal(expected, predict_pairs(again, same, pairs[:9], READING))
    rebuilt = rebuild(tmp_path / "run", architecture_of(model))
    rebuilt.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(expected, predict_pairs(rebuilt, same, pairs[:9], READING))
    assert find_trained(tmp_path) == [tmp_path / "run"]
    with pytest.raises(InputError, match="No folder below"):
        find_encoder(tmp_path)
    assert find_encoder(tmp_path, str(tmp_path / "run")) == tmp_path / "run"


def test_the_line_break_has_a_vector_of_its_own(folder, tokenizer):
    encoder = load_encoder(folder)
    before = encoder.get_input_embeddings().weight.detach().clone()
    fit_embeddings(encoder, tokenizer)
    after = encoder.get_input_embeddings().weight
    assert len(after) >= max(len(before), len(tokenizer))
    source = single_token_id(tokenizer, ("|", ";", "."))
    changed = source is not None and newline_added(tokenizer)
    assert torch.equal(after[newline_id(tokenizer)], before[source if changed else newline_id(tokenizer)])


def test_it_embeds(folder, tokenizer, model, pairs, tmp_path):
    _, encoded = batch_of(pairs, tokenizer)
    sequences = [sequence for row in encoded for sequence in row["sequences"]]
    vectors = embed_sequences(sequences, folder, tokenizer, tmp_path, pooling="mean")
    batch = PairCollator(tokenizer.pad_token_id)(list(encoded))
    with torch.inference_mode():
        expected = model.eval().encode(batch["input_ids"], batch["attention_mask"]).flatten(0, 1)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert np.isfinite(embed_sequences(sequences, folder, tokenizer, tmp_path, pooling="last4")).all()


@pytest.mark.slow
def test_the_doctor_finds_nothing_against_it(tokenizer, model, pairs, tmp_path):
    folds = assign_folds(pairs, 5, seed=0)
    train, valid = pairs[folds != 0].reset_index(drop=True), pairs[folds == 0].reset_index(drop=True)
    sets = [encode_pairs(table, tokenizer, replace(READING, max_length=128)) for table in (train, valid)]
    settings = TrainingSettings(epochs=4.0, lr=1e-3, head_lr=1e-3, micro_batch=8, evals_per_epoch=2)
    trainer = make_trainer(model, *sets, tokenizer.pad_token_id, tmp_path, settings)
    report = check_before_training(trainer, tokenizer, train, valid)
    assert report.failed() == [], report
    assert not [f for f in report.findings if "Error" in str(f.measured)], report


# --- What differs ---


@pytest.mark.parametrize(
    ("family", "limit"),
    [("deberta", None), ("mdeberta", None), ("bert", 512), ("roberta", 512), ("xlm-roberta", 512), ("electra", 512),
     ("modernbert", 8192)],
)  # fmt: skip
def test_the_longest_sequence_is_the_one_that_can_be_read(families, family, limit):
    folder = families(family)
    assert max_tokens(folder) == limit
    encoder = load_encoder(folder).eval()
    check_max_length(folder, limit or 100_000)
    length = min(limit or 600, 600)
    ids = torch.full((1, length), 7)
    assert torch.isfinite(encoder(input_ids=ids, attention_mask=torch.ones_like(ids))[0]).all()
    if limit:
        with pytest.raises(InputError, match=f"CFG.max_length to {limit}"):
            check_max_length(encoder.config, limit + 1)
        with pytest.raises(InputError, match=f"CFG.predict_max_length is {limit + 1}.*CFG.predict_max_length to"):
            check_max_length(encoder.config, limit + 1, "predict_max_length")
    if limit == 512:
        ids = torch.full((1, limit + 1), 7)
        with pytest.raises((IndexError, RuntimeError)):
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_only_mdeberta_is_refused_in_fp16(families):
    for family in FAMILIES:
        check_precision(families(family), "fp32")
        check_precision(families(family), "bf16")
        if family != "mdeberta":
            check_precision(families(family), "fp16")
    with pytest.raises(InputError, match=r"mDeBERTa overflows.*set CFG\.precision to 'fp32'"):
        check_precision(families("mdeberta"), "fp16")


def test_a_model_outside_the_families_counts_by_its_positions():
    assert max_tokens(GPT2Config(n_positions=64)) == 64
    assert max_tokens(BertConfig(max_position_embeddings=32)) == 32


# --- Which folder ---


@pytest.fixture
def attach(families, tmp_path):
    """A function that attaches the tiny model of a family at a path below tmp_path."""

    def attached(path, family="bert"):
        return shutil.copytree(families(family), tmp_path / path)

    return attached


def test_the_only_encoder_is_taken_and_several_are_named(attach, tmp_path):
    first = attach("models/google/electra/transformers/small/1", "electra")
    (tmp_path / "notes").mkdir()
    assert find_encoder(tmp_path) == first
    second = attach("datasets/someone/my-roberta", "roberta")
    with pytest.raises(InputError, match="Several encoders") as refused:
        find_encoder(tmp_path)
    assert str(first) in str(refused.value)
    assert str(second) in str(refused.value)


PLACES = (
    "models/microsoft/deberta-v3/transformers/base/1",
    "models/microsoft/deberta-v3/transformers/xsmall/1",
    "datasets/someone/database/debertav3large",
    "datasets/someone/deberta-v3-base-mnli",
)


@pytest.mark.parametrize(
    ("wanted", "place"),
    [("base", 0), ("BASE", 0), ("transformers/base", 0), ("base/1/", 0), ("xsmall", 1), ("large", 2), ("Large", 2),
     ("debertav3", 2), ("database", 2), ("mnli", 3), ("deberta-v3-base-mnli", 3)],
)  # fmt: skip
def test_a_part_of_the_path_picks(attach, tmp_path, wanted, place):
    folders = [attach(path) for path in PLACES]
    assert find_encoder(tmp_path, wanted) == folders[place]


@pytest.mark.parametrize("wanted", ["small", "arge", "huge", "base/2", "eberta", "base.1"])
def test_a_part_that_matches_nothing_is_never_another_model(attach, tmp_path, wanted):
    only = attach("models/microsoft/deberta-v3/transformers/xsmall/1")
    attach("datasets/database/large")
    with pytest.raises(InputError, match="matches no encoder") as refused:
        find_encoder(tmp_path, wanted)
    assert str(only) in str(refused.value)


def test_a_part_that_fits_two_names_both(attach, tmp_path):
    for path in PLACES:
        attach(path)
    with pytest.raises(InputError, match=r"Several encoders are attached.*base/1, .*xsmall/1"):
        find_encoder(tmp_path, "transformers")


def test_a_whole_path_is_taken_as_it_is(attach, tmp_path):
    folder = attach("x/deberta/1")
    attach("x/other/1")
    assert find_encoder(tmp_path, str(folder)) == folder
    assert find_encoder(tmp_path / "x", str(folder.parent)) == folder
    with pytest.raises(InputError, match=r"CFG\.model_dir is .*nowhere.* not a folder"):
        find_encoder(tmp_path, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="Several encoders"):
        find_encoder(tmp_path / "x", str(tmp_path / "x"))


def _write(folder, **files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))


VARIATION = "a Keras preset at .*choose the Transformers variation"
KERAS = {"module": "keras_hub.models", "class_name": "DebertaV3Backbone", "registered_name": "keras_hub>DebertaV3"}
REFUSED = {
    "gpt2": ({"config__json": {"model_type": "gpt2"}}, "a gpt2 model, which is a decoder"),
    "llama": ({"config__json": {"model_type": "llama"}}, "a llama model, which is a decoder"),
    "gemma": ({"config__json": {"model_type": "gemma2"}}, "a gemma2 model, which is a decoder"),
    "t5": ({"config__json": {"model_type": "t5"}}, "a t5 model, which is an encoder-decoder"),
    "bart": ({"config__json": {"model_type": "bart", "is_encoder_decoder": True}}, "an encoder-decoder"),
    "bert decoder": ({"config__json": {"model_type": "bert", "is_decoder": True}}, "set up as a decoder"),
    "albert": ({"config__json": {"model_type": "albert"}}, "an encoder of a family that is not supported"),
    "unknown": ({"config__json": {"model_type": "my_bert", "auto_map": {}}}, "not an encoder that"),
    "keras": ({"config__json": KERAS, "model__weights__h5": ""}, VARIATION),
    "old keras": ({"task__json": KERAS}, VARIATION),
    "keras weights": ({"model__weights__h5": ""}, VARIATION),
    "saved model": ({"saved_model__pb": ""}, "a TensorFlow SavedModel at .*choose the Transformers variation"),
    "tf": (
        {"config__json": {"model_type": "bert"}, "tf_model__h5": "", "vocab__txt": ""},
        "TensorFlow weights of a bert model at .*choose the Transformers variation",
    ),
    "bare": ({"config__json": {"model_type": "bert"}}, "a bert model without weights and tokenizer"),
    "no tokenizer": ({"config__json": {"model_type": "bert"}, "model__safetensors": ""}, "without tokenizer"),
    "lora": ({"adapter_config__json": {"peft_type": "LORA"}}, "a LoRA adapter.*merge it into the base model"),
    "no type": ({"config__json": {"hidden_size": 8}}, "a config.json without model_type"),
    "damaged": ({"config__json": '{"model_ty'}, "a config.json that cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_an_encoder_is_refused_in_one_sentence(tmp_path, attach, case):
    files, sentence = REFUSED[case]
    folder = tmp_path / "models" / case / "1"
    _write(folder, **files)
    for wanted in ("", case, str(folder)):
        with pytest.raises(InputError, match=sentence.split(" at ")[0]) as refused:
            find_encoder(tmp_path, wanted)
        assert str(folder) in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=sentence):
        find_encoder(tmp_path)
    # Beside an encoder it does not matter, unless it is what CFG.model_dir means.
    usable = attach("x/usable")
    assert find_encoder(tmp_path) == usable
    with pytest.raises(InputError, match=sentence.split(" at ")[0]):
        find_encoder(tmp_path, case)


# --- Weights that are not there ---


@pytest.fixture
def weights(families, family, tmp_path):
    """A copy of the family's folder, and a function that rewrites the names of its tensors."""
    folder = shutil.copytree(families(family), tmp_path / "copy")

    def rewrite(change):
        tensors = load_file(folder / "model.safetensors")
        made = {change(name): value.contiguous() for name, value in tensors.items()}
        made.pop(None, None)
        save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return rewrite


def test_names_with_a_prefix_are_refused_and_the_prefix_is_named(weights):
    with pytest.raises(InputError, match=r"tensors are missing.*'module\.net\.' before their name"):
        load_encoder(weights(lambda name: f"module.net.{name}"))


def test_a_missing_layer_is_refused_and_named(weights):
    with pytest.raises(InputError, match=r"of \d+ tensors are missing from .*layers?\.1\..*, \.\.\.\)"):
        load_encoder(weights(lambda name: None if "layer.1." in name or "layers.1." in name else name))


def test_one_missing_tensor_is_refused(weights, families, family):
    lost = next(name for name in load_file(families(family) / "model.safetensors") if "ayer" in name)
    with pytest.raises(InputError, match=r"1 of .* tensors are missing") as refused:
        load_encoder(weights(lambda name: None if name == lost else name))
    assert lost in str(refused.value)


def test_more_layers_than_the_config_says_are_refused(weights):
    folder = weights(lambda name: name)
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"more layers than the 1 of its config\.json"):
        load_encoder(folder)


def test_another_shape_is_refused_and_named(weights):
    folder = weights(lambda name: name)
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] //= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"\d tensors .* do not have the shape .*first: .*layers?\.0\..* is \(\d+,"):
        load_encoder(folder)


def test_heads_of_pretraining_and_the_models_own_prefix_are_no_fault(families, weights, family):
    model_prefix = load_encoder(families(family)).base_model_prefix
    folder = weights(lambda name: f"{model_prefix}.{name}")
    tensors = load_file(folder / "model.safetensors")
    heads = ("lm_predictions.lm_head.bias", "mask_predictions.dense.weight", "cls.predictions.bias",
             "lm_head.dense.bias", "discriminator_predictions.dense.weight", "decoder.bias")  # fmt: skip
    save_file(
        tensors | {name: torch.ones(3) for name in heads}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    expected = load_encoder(families(family)).state_dict()
    for name, value in load_encoder(folder).state_dict().items():
        assert torch.equal(value, expected[name])


# What somebody trained a head for is said; mDeBERTa, whose class is DeBERTa's, would only take time.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mdeberta"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_reward_model_or_classifier_is_taken_without_its_head_and_said_once(
    families, family, outputs, tmp_path, capsys
):
    folder = shutil.copytree(families(family), tmp_path / "reward-model")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.num_labels = outputs
    whole = AutoModelForSequenceClassification.from_config(config)
    whole.save_pretrained(folder)
    assert find_encoder(tmp_path) == folder
    expected = getattr(whole, whole.base_model_prefix).state_dict()
    for _ in range(2):
        found = load_encoder(folder).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    said = [line for line in capsys.readouterr().out.splitlines() if str(folder) in line]
    assert len(said) == 1
    assert f"the encoder of this {type(whole).__name__} is used, and its head is left out" in said[0]
    assert ("reward model" in said[0] and "overlap the contest's rows" in said[0]) == (outputs == 1)
    if outputs == 1:  # what is saved after training has no head to speak of
        tokenizer = load_tokenizer(folder)
        save_trained(build_model(folder, tokenizer, "pairwise", SHARES), tokenizer, tmp_path / "run", SAVED)
        load_trained(tmp_path / "run")
        assert "left out" not in capsys.readouterr().out


def test_the_heads_of_pretraining_are_not_worth_a_line(families, tmp_path, capsys):
    folder = shutil.copytree(families("deberta"), tmp_path / "deberta")
    DebertaV2ForMaskedLM(AutoConfig.from_pretrained(folder, trust_remote_code=False)).save_pretrained(folder)
    assert "ForMaskedLM" in (folder / "config.json").read_text()
    load_encoder(folder)
    assert "left out" not in capsys.readouterr().out


def test_names_of_old_checkpoints_are_read(tmp_path, families):
    """bert-base-uncased as of 2018: a prefix, LayerNorm.gamma and beta, position_ids, in a .bin."""
    folder = shutil.copytree(families("bert"), tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {"bert.embeddings.position_ids": torch.arange(512)[None]}
    for name, value in tensors.items():
        end = next((end for end in old if name.endswith(end)), "")
        renamed["bert." + name.removesuffix(end) + old.get(end, "")] = value
    torch.save(renamed, folder / "pytorch_model.bin")
    for name, value in load_encoder(folder).state_dict().items():
        assert torch.equal(value, tensors[name])


def test_a_trained_folder_with_lost_weights_is_refused(tmp_path, families):
    tokenizer = load_tokenizer(families("bert"))
    model = build_model(families("bert"), tokenizer, "pairwise", SHARES)
    save_trained(model, tokenizer, tmp_path, SAVED)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {f"module.net.{name}": value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.safetensors is missing or differs"):
        load_trained(tmp_path)


def test_a_decoder_is_not_loaded(tmp_path):
    GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=1, vocab_size=50)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a gpt2 model, which is a decoder"):
        load_encoder(tmp_path)


def test_code_in_a_folder_never_runs(attach, tmp_path, monkeypatch):
    """transformers would ask whether to trust it; "y" is what a hasty user types."""
    folder = attach("bert")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    described = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for read in (load_encoder, max_tokens, load_tokenizer):
        with suppress(InputError):  # a tokenizer of a standard class loads without that code
            read(folder)
    assert not (tmp_path / "ran").exists()
