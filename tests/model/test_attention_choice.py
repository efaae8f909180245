"""The fastest attention that is right is taken, and the line says which and why."""

import pytest
import torch
from transformers import BertConfig, DebertaV2Config

from src_py.model import attention, attention_choice
from src_py.model.attention_choice import Measured, attention_line, fastest, measure_attention
from src_py.model.attention_choice import choose_attention as choose
from src_py.model.attention_cores import CORES, lean

KINDS = ("stock", "chunked", "lean", "sdpa")


@pytest.fixture
def config():
    return DebertaV2Config(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        position_buckets=8, max_position_embeddings=32, pos_att_type=["p2c", "c2p"], relative_attention=True,
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("training", [True, False])
def test_every_kind_is_measured_and_right(config, precision, training):
    before = torch.random.get_rng_state()
    found = measure_attention(config, 4, 24, precision, "cpu", training, KINDS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [one.kind for one in found] == list(KINDS)
    for one in found:
        assert not one.problem
        assert 0 < one.seconds < float("inf")
        assert one.difference < attention_choice.TOLERANCE[precision]
    assert fastest(found).seconds == min(one.seconds for one in found)
    assert config.num_hidden_layers == 3


def test_a_gradient_that_is_nothing_but_rounding_is_no_difference(config):
    config.pos_att_type = ["c2p"]  # the key's bias then adds the same to all scores of a query
    found = measure_attention(config, 4, 24, "fp16", "cpu", True, KINDS)
    assert not [one for one in found if one.problem]


def slightly_wrong(*arguments):
    return 1.05 * lean(*arguments)


def short_of_memory(*arguments):
    raise torch.OutOfMemoryError("CUDA out of memory")


class NotANumber(torch.autograd.Function):
    """The gradient of what is right."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("nan")


def wrong_gradient(*arguments):
    return NotANumber.apply(lean(*arguments))


class FailsLater(NotANumber):
    @staticmethod
    def backward(ctx, grad):
        raise torch.OutOfMemoryError("CUDA out of memory")


def short_of_memory_in_the_backward_pass(*arguments):
    return FailsLater.apply(lean(*arguments))


def not_compiled(*arguments):
    raise RuntimeError("no kernel image is available\nand more lines")


@pytest.mark.parametrize(
    ("core", "said"),
    [
        (slightly_wrong, "lean is left out: it differs from stock by"),
        (wrong_gradient, "lean is left out: it differs from stock by nan"),
        (short_of_memory, "lean is left out: out of memory"),
        (short_of_memory_in_the_backward_pass, "lean is left out: out of memory"),
        (not_compiled, "lean is left out: RuntimeError: no kernel image is available"),
    ],
)
def test_what_is_wrong_or_fails_is_left_out_with_its_reason(config, monkeypatch, core, said):
    monkeypatch.setitem(CORES, "lean", core)
    found = measure_attention(config, 4, 24, "fp16", "cpu", True, KINDS)
    assert [one.kind for one in found if one.problem] == ["lean"]
    assert fastest(found).kind != "lean"
    line = attention_line(found, "fp16")
    assert said in line
    assert "\n" not in line


def test_the_line_gives_times_against_stock():
    stock, lean, sdpa = Measured("stock", 0.2, 0.0), Measured("lean", 0.19, 1e-3), Measured("sdpa", 0.142, 2e-3)
    line = attention_line((stock, lean, sdpa), "fp16")
    assert line == (
        "attention: sdpa, the fastest (time against stock: lean 0.95, sdpa 0.71), all equal within 2e-03 in fp16"
    )
    short = Measured("stock", problem="out of memory")
    line = attention_line((short, lean, sdpa), "fp16")
    assert line == (
        "attention: sdpa, the fastest (time against lean: sdpa 0.75), all equal within 2e-03 in fp16; "
        "stock is left out: out of memory"
    )
    assert attention_line((stock,), "fp32") == "attention: stock"


def test_a_cpu_a_choice_and_another_architecture_are_not_measured(config, tmp_path, capsys, monkeypatch):
    def measured(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(attention_choice, "measure_attention", measured)
    config.save_pretrained(tmp_path / "deberta")
    BertConfig().save_pretrained(tmp_path / "bert")
    assert choose(tmp_path / "deberta", "auto", 4, 24, "fp32", "cpu") == attention.default_attention()
    assert choose(tmp_path / "deberta", "lean", 4, 24, "fp32", "cpu") == "lean"
    assert choose(tmp_path / "bert", "auto", 4, 24, "fp32", "cuda:0") == "stock"
    assert capsys.readouterr().out == ""
