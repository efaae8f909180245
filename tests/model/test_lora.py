"""Low-rank adapters: the only thing that is trained, the same with every attention, and gone after merging."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from src_py.errors import InputError
from src_py.model import families
from src_py.model.attention import KINDS, use_attention
from src_py.model.encoder import encoder_embeddings, encoder_layers, load_encoder, reference_lr
from src_py.model.families import FAMILIES, family_of
from src_py.model.lora import add_lora, lora_of, merge_lora
from src_py.model.predict import predict_pairs
from src_py.model.preference import ModelSettings, architecture_of, build_model, rebuild
from src_py.model.saved import SavedSettings, load_trained, save_trained
from src_py.pairs.encode import Reading
from tests.model.test_attention import make_batch, make_encoder
from tools.demo_data import write_tiny

ALL = tuple(kind for kind in KINDS if kind != "flash")


def drawn(encoder, seed=0):
    """Adapters as after a training: the second factor starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return encoder


def outputs(encoder, ids, mask):
    return encoder.eval()(input_ids=ids, attention_mask=mask)[0][mask.bool()]


def trained(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_adapters_that_merge_into_a_plain_encoder(family, tmp_path):
    folder = write_tiny(tmp_path / family, family, hidden_size=32)
    encoder, plain = load_encoder(folder), load_encoder(folder)
    kind = type(encoder)
    ids, mask = torch.randint(5, 60, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    before = outputs(plain, ids, mask)
    add_lora(encoder, rank=4)
    assert torch.equal(outputs(encoder, ids, mask), before), "adapters change nothing at first"
    assert type(encoder) is kind
    linear = [one for one in encoder_layers(plain).modules() if isinstance(one, torch.nn.Linear)]
    assert len(trained(encoder)) == 2 * len(linear), "all linear layers of the blocks, and nothing else"
    assert all("lora_" in name for name in trained(encoder))
    assert not any(parameter.requires_grad for parameter in encoder_embeddings(encoder).parameters())
    adapted = outputs(drawn(encoder), ids, mask)
    assert (adapted - before).abs().max() > 1e-2
    adapted.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters() if p.requires_grad)
    merge_lora(encoder)
    torch.testing.assert_close(outputs(encoder, ids, mask), adapted, atol=2e-6, rtol=1e-5)
    assert {name: value.shape for name, value in encoder.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    encoder.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(outputs(load_encoder(tmp_path / "saved"), ids, mask), adapted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("padding", ["none", "right"])
def test_every_attention_gives_the_same_outputs_and_gradients(share, padding):
    ids, mask = make_batch(3, 12, padding)
    encoder = make_encoder(layers=3, share_att_key=share)
    add_lora(encoder, rank=4, freeze_layers=1)
    drawn(encoder)
    found = {}
    for kind in ALL:
        use_attention(encoder, kind)
        encoder.zero_grad()
        hidden = outputs(encoder, ids, mask)
        hidden.square().sum().backward()
        found[kind] = hidden.detach(), {n: p.grad.clone() for n, p in encoder.named_parameters() if p.requires_grad}
    for kind in ALL[1:]:
        torch.testing.assert_close(found[kind][0], found["stock"][0], atol=1e-5, rtol=1e-5)
        for name, gradient in found["stock"][1].items():
            torch.testing.assert_close(found[kind][1][name], gradient, atol=1e-4, rtol=1e-4, msg=f"{kind} {name}")


def test_the_backward_pass_ends_at_the_lowest_adapters():
    encoder = make_encoder(layers=3)
    add_lora(encoder, rank=2, freeze_layers=1)
    crossed = []
    for number, layer in enumerate(encoder_layers(encoder)):
        layer.register_forward_hook(lambda module, inputs, output, at=number: crossed.append((at, output[0])))
    positions = []
    use_attention(encoder, "lean")
    encoder.encoder.LayerNorm.register_forward_hook(lambda module, inputs, output: positions.append(output))
    ids, mask = make_batch(2, 12, "none")
    encoder(input_ids=ids, attention_mask=mask)
    assert [hidden.requires_grad for _, hidden in crossed] == [False, True, True]
    assert positions
    assert not any(one.requires_grad for one in positions), "frozen position embeddings get no gradient"


def test_rank_and_frozen_layers_are_read_from_the_encoder():
    encoder = make_encoder(layers=3)
    assert lora_of(encoder) == (0, 0)
    add_lora(encoder, rank=4, freeze_layers=2)
    assert lora_of(encoder) == (4, 2)
    again = make_encoder(layers=3)
    add_lora(again, *lora_of(encoder))
    again.load_state_dict(encoder.state_dict())  # all names and shapes
    assert trained(again) == trained(encoder)
    merge_lora(encoder)
    assert lora_of(encoder) == (0, 0)
    merge_lora(encoder)  # nothing is left to do


def test_adapters_stay_float32_and_are_not_cast_back_and_forth_under_autocast():
    encoder = make_encoder()
    add_lora(encoder, rank=4)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    seen = set()
    for name, module in encoder.named_modules():
        if name.endswith("lora_B.default"):
            module.register_forward_hook(lambda module, inputs, output: seen.add((inputs[0].dtype, output.dtype)))
        if name.endswith("value_proj"):  # its input is cast once for three projections
            module.lora_A["default"].register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].dtype))
    ids, mask = make_batch(2, 12, "none")
    use_attention(encoder, "lean")
    with torch.autocast("cpu", torch.bfloat16):
        encoder(input_ids=ids, attention_mask=mask)
    assert seen == {torch.bfloat16, (torch.bfloat16, torch.bfloat16)}


def test_the_learning_rate_of_adapters_is_their_own():
    full = {size: Sized(size) for size in (40e6, 90e6, 300e6)}
    assert [reference_lr(model) for model in full.values()] == [4.5e-5, 1.5e-5, 7e-6]
    assert {reference_lr(Sized(size, adapters=1e6)) for size in full} == {2.8e-4}
    assert reference_lr(Sized(1e5, adapters=1e4)) == 1e-3  # a random model of a demo


class Sized(torch.nn.Module):
    """Parameters that take no memory."""

    def __init__(self, size, adapters=0):
        super().__init__()
        self.layers = torch.nn.Linear(int(size), 1, bias=False, device="meta")
        self.embeddings = torch.nn.Linear(10**9, 1, bias=False, device="meta")
        if adapters:
            self.lora_A = torch.nn.Linear(int(adapters), 1, bias=False, device="meta")


def test_a_family_without_target_modules_is_refused(monkeypatch):
    encoder = make_encoder()
    monkeypatch.setitem(families.FAMILIES, "deberta", replace(family_of(encoder.config), adapted=()))
    with pytest.raises(InputError, match=r"adapters are not supported for DeBERTa-v2/v3; set CFG\.lora_rank to 0\.$"):
        add_lora(encoder, rank=8)
    assert lora_of(encoder) == (0, 0)


def test_no_layer_left_and_an_attention_past_the_adapters_are_refused():
    encoder = make_encoder(layers=2)
    with pytest.raises(InputError, match=r"CFG\.freeze_layers is 2, which leaves CFG\.lora_rank none of .* 2 layers"):
        add_lora(encoder, rank=8, freeze_layers=2)
    encoder.before_flash = encoder.encoder, []
    with pytest.raises(InputError, match=r"CFG\.lora_rank does not go with CFG\.attention 'flash'"):
        add_lora(encoder, rank=8)


@pytest.fixture
def torchao(tmp_path, monkeypatch):
    """A function that installs a torchao of some version, which peft looks up and remembers."""
    from peft.import_utils import is_torchao_available

    def install(version):
        (tmp_path / "torchao").mkdir()
        (tmp_path / "torchao/__init__.py").write_text("")
        described = tmp_path / f"torchao-{version}.dist-info"
        described.mkdir()
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)

    is_torchao_available.cache_clear()
    yield install
    sys.modules.pop("torchao", None)
    is_torchao_available.cache_clear()


def test_an_old_torchao_is_one_sentence_that_says_what_to_do(torchao):
    torchao("0.10.0")  # as in Kaggle's image
    with pytest.raises(InputError) as refused:
        add_lora(make_encoder(), rank=8)
    text = str(refused.value)
    assert "0.10.0" in text
    assert "!pip uninstall -y torchao" in text
    assert "CFG.lora_rank to 0" in text
    assert "\n" not in text


def test_without_peft_the_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"CFG\.lora_rank needs peft, which cannot be imported here .*lora_rank to 0"):
        add_lora(make_encoder(), rank=8)
    encoder = make_encoder()
    assert lora_of(encoder) == (0, 0)  # an encoder without adapters never needs it
    merge_lora(encoder)


def test_a_saved_folder_with_adapters_is_an_ordinary_one(tiny, tokenizer, pairs, tmp_path):
    model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(lora_rank=4, freeze_layers=1))
    assert lora_of(model.encoder) == (4, 1)
    drawn(model.encoder)
    torch.nn.init.normal_(model.head.tie[-1].weight)
    rebuilt = rebuild(tiny, architecture_of(model))
    rebuilt.load_state_dict(model.state_dict())
    reading = Reading(max_length=48)
    before = predict_pairs(model, tokenizer, pairs[:9], reading)
    np.testing.assert_allclose(predict_pairs(rebuilt, tokenizer, pairs[:9], reading), before, atol=1e-6)
    save_trained(model, tokenizer, tmp_path, SavedSettings("finetune_deberta", ("a", "b", "tie"), reading))
    assert set(load_file(tmp_path / "model.safetensors")) == set(load_encoder(tiny).state_dict())
    again, _ = load_trained(tmp_path)
    np.testing.assert_allclose(predict_pairs(again, tokenizer, pairs[:9], reading), before, atol=1e-6)
    np.testing.assert_allclose(predict_pairs(model, tokenizer, pairs[:9], reading), before, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [({"reinit_layers": 1}, "set CFG.reinit_layers to 0"), ({"freeze_embeddings": False}, "freeze_embeddings to True")],
)
def test_what_asks_for_other_weights_to_be_trained_is_refused(tiny, tokenizer, other, sentence):
    with pytest.raises(InputError, match=f"CFG.lora_rank is 4, which trains adapters alone.*{sentence}"):
        build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], ModelSettings(lora_rank=4, **other))
