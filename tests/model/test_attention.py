"""The fast attention gives what the stock one gives, in outputs and in all gradients."""

import copy
import random
import sys

import pytest
import torch
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2 import modeling_deberta_v2

from src_py.errors import InputError
from src_py.model import attention, attention_chunked
from src_py.model.attention import aligned, attention_of, distance_table, use_attention
from src_py.model.attention_chunked import ChunkedCore


def make_encoder(heads=2, size=8, layers=2, dropout=0.0, **changes) -> DebertaV2Model:
    settings = {
        "vocab_size": 50,
        "hidden_size": heads * size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 16,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "relative_attention": True,
        "position_buckets": 8,
        "max_position_embeddings": 16,
        "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    encoder = DebertaV2Model(DebertaV2Config(**settings | changes))
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):  # with zeros, a sequence of nothing but padding would stay zero whatever is computed
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def make_batch(batch, length, padding, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        cut = int(torch.randint(1, length + 1, (1,), generator=generator))
        if padding == "right":
            mask[row, cut:] = 0
        elif padding == "left":
            mask[row, : length - cut] = 0
        elif padding == "holes":
            mask[row] = torch.randint(0, 2, (length,), generator=generator)
    if padding == "a row of padding":
        mask[0] = 0
    return ids, mask


KINDS = ("chunked", "lean", "sdpa")


def outputs_and_gradients(encoder, ids, mask, autocast=None):
    """Vectors of tokens, and all of a sequence that has none; gradients of those of tokens alone: the others are
    vectors of zeros before the first layer norm, whose gradient is too large to be compared."""
    encoder.zero_grad()
    with torch.autocast("cpu", autocast or torch.float16, enabled=autocast is not None):
        hidden = encoder(input_ids=ids, attention_mask=mask)[0]
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    hidden = hidden * (mask.bool() | ~mask.bool().any(1, keepdim=True))[..., None]
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).to(hidden.dtype)
    (hidden * weights * mask[..., None]).sum().backward()
    return hidden.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_equal_to_stock(encoder, ids, mask, recompute=False, tolerance=1e-5):
    expected, gradients = outputs_and_gradients(encoder, ids, mask)
    for kind in KINDS:
        assert use_attention(encoder, kind, recompute)
        found, mine = outputs_and_gradients(encoder, ids, mask)
        use_attention(encoder, "stock")
        assert (found - expected).abs().max() <= tolerance * max(1, float(expected.abs().max())), kind
        assert mine.keys() == gradients.keys()
        for name, gradient in gradients.items():
            error = (mine[name] - gradient).abs().max()
            assert error <= tolerance * max(1, float(gradient.abs().max())), (kind, name)


@pytest.mark.parametrize("padding", ["none", "right", "left", "holes", "a row of padding"])
@pytest.mark.parametrize("kinds", [["c2p"], ["p2c"], ["p2c", "c2p"], []])
@pytest.mark.parametrize("share", [True, False])
def test_outputs_and_gradients_are_those_of_the_stock_attention(padding, kinds, share):
    assert_equal_to_stock(make_encoder(pos_att_type=kinds, share_att_key=share), *make_batch(3, 21, padding))


@pytest.mark.parametrize("case", range(25))
def test_any_shape_is_equal(case):
    draw = random.Random(case)
    encoder = make_encoder(
        heads=draw.choice([1, 2, 3]),
        size=draw.choice([4, 8]),
        layers=draw.choice([1, 3]),
        position_buckets=draw.choice([-1, 4, 8, 32]),
        max_relative_positions=draw.choice([-1, 6, 40]),
        share_att_key=draw.random() < 0.5,
        pos_att_type=draw.choice([["c2p"], ["p2c"], ["c2p", "p2c"]]),
        conv_kernel_size=draw.choice([0, 3]),
    )
    padding = draw.choice(["none", "right", "left", "holes", "a row of padding"])
    batch = make_batch(draw.randint(1, 4), draw.choice([1, 2, 7, 16, 33, 64]), padding, case)
    assert_equal_to_stock(encoder, *batch, recompute=draw.random() < 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "heads"), [(384, 6), (768, 12), (1024, 16)])
@pytest.mark.parametrize("length", [1, 300, 512])
def test_the_published_shapes_are_equal(hidden, heads, length):
    shape = {"position_buckets": 256, "max_position_embeddings": 512, "initializer_range": 0.02}
    encoder = make_encoder(heads, hidden // heads, layers=1, **shape)
    assert_equal_to_stock(encoder, *make_batch(2, length, "right"))


@pytest.mark.slow
def test_two_thousand_tokens_are_equal():
    shape = {"position_buckets": 256, "max_position_embeddings": 512, "initializer_range": 0.02}
    assert_equal_to_stock(make_encoder(2, 64, layers=1, **shape), *make_batch(2, 2048, "right"))


@pytest.mark.parametrize("chunk", [1, 700])
def test_the_size_of_a_chunk_changes_nothing(chunk, monkeypatch):
    monkeypatch.setitem(attention_chunked._CHUNK, "cpu", chunk)
    assert_equal_to_stock(make_encoder(heads=3), *make_batch(4, 16, "right"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_padding_gets_the_mean_of_its_values_in_half_precision_too(kind):
    """In 16 bits the least score is too small to make the others vanish. The layers get tokens that differ, as dropout
    makes them; from the embeddings all padding comes alike."""
    encoder = make_encoder(heads=4, size=16).eval()
    _, mask = make_batch(3, 24, "a row of padding")
    hidden, found = torch.randn(3, 24, 64, generator=torch.Generator().manual_seed(0)), {}
    for way in ("stock", kind):
        use_attention(encoder, way)
        with torch.no_grad(), torch.autocast("cpu", torch.float16):
            found[way] = encoder.encoder(hidden, mask)[0][0].float()
    torch.testing.assert_close(found[kind], found["stock"], atol=2e-2, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_nothing(kind):
    encoder = make_encoder(dropout=0.0).train()
    batch = make_batch(2, 12, "right")
    expected = outputs_and_gradients(encoder, *batch)
    use_attention(encoder, kind)
    encoder.gradient_checkpointing_enable({"use_reentrant": False})
    found = outputs_and_gradients(encoder, *batch)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=2e-5, rtol=1e-5)


def test_half_precision_is_no_further_from_the_truth_than_stock():
    encoder = make_encoder(heads=4, size=16, layers=1)
    batch = make_batch(2, 64, "right")
    exact = copy.deepcopy(encoder).double()
    truth, gradients = outputs_and_gradients(exact, *batch)
    errors = {}
    for way in ("stock", *KINDS):
        use_attention(encoder, way)
        hidden, mine = outputs_and_gradients(encoder, *batch, autocast=torch.float16)
        errors[way] = [float((hidden - truth).abs().mean())]
        for name, gradient in gradients.items():
            errors[way].append(float((mine[name] - gradient).abs().mean() / gradient.abs().mean().clamp(min=1e-9)))
    for kind in KINDS:
        assert errors[kind][0] <= 1.1 * errors["stock"][0], kind
        assert sum(errors[kind][1:]) <= 1.1 * sum(errors["stock"][1:]), kind


@pytest.mark.parametrize("recompute", [False, True])
def test_dropout_drops_the_share_it_should_and_the_gradient_knows_which(recompute):
    torch.manual_seed(0)
    n, length, size = 2, 20, 20
    query, key = (torch.randn(n, length, 4, dtype=torch.float64) for _ in range(2))
    values = torch.eye(length, dtype=torch.float64).repeat(n, 1, 1)  # what comes out are the probabilities themselves
    query = torch.nn.functional.pad(query, (0, size - 4))
    key = torch.nn.functional.pad(key, (0, size - 4))
    index = torch.zeros(length, length, dtype=torch.long)

    def run(q, k, v, p):
        torch.manual_seed(5)
        return ChunkedCore.apply(q, k, v, None, None, index, None, p, recompute)

    sure = run(query, key, values, 0.0)
    drawn = run(query, key, values, 0.3)
    assert abs(float((drawn == 0).double().mean()) - 0.3) < 0.06
    stays = drawn != 0
    torch.testing.assert_close(drawn[stays], sure[stays] / 0.7, atol=1e-5, rtol=1e-5)
    leaves = [x.clone().requires_grad_() for x in (query, key, values)]
    weights = torch.randn(n, length, size, dtype=torch.float64)
    (run(*leaves, 0.3) * weights).sum().backward()
    plain = [x.clone().requires_grad_() for x in (query, key, values)]
    probabilities = torch.softmax(plain[0] @ plain[1].transpose(1, 2), -1) * stays / 0.7
    ((probabilities @ plain[2]) * weights).sum().backward()
    for mine, theirs in zip(leaves, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_repeat_dropout_and_differ_from_each_other(kind):
    encoder = make_encoder(dropout=0.2).train()
    use_attention(encoder, kind)
    batch = make_batch(2, 12, "right")
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(encoder(input_ids=batch[0], attention_mask=batch[1])[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", KINDS)
def test_it_undoes_itself_copies_and_survives_saving(kind, tmp_path):
    encoder = make_encoder().eval()
    ids, mask = make_batch(2, 12, "none")
    before, names = type(encoder.encoder), list(encoder.state_dict())
    expected = encoder(input_ids=ids, attention_mask=mask)[0]
    assert use_attention(encoder, kind)
    assert attention_of(encoder) == kind
    assert list(encoder.state_dict()) == names
    copied = copy.deepcopy(encoder)
    encoder.save_pretrained(tmp_path)
    for one in (copied, DebertaV2Model.from_pretrained(tmp_path).eval()):
        torch.testing.assert_close(one(input_ids=ids, attention_mask=mask)[0], expected, atol=1e-5, rtol=0)
    assert attention_of(copied) == kind
    use_attention(encoder, "stock")
    assert type(encoder.encoder) is before
    assert attention_of(encoder) == "stock"
    assert torch.equal(encoder(input_ids=ids, attention_mask=mask)[0], expected)


@pytest.mark.parametrize("kind", ["lean", "sdpa"])
def test_it_trains_after_it_predicted(kind):
    encoder = make_encoder()
    use_attention(encoder, kind)
    ids, mask = make_batch(2, 12, "right")
    with torch.inference_mode():
        encoder(input_ids=ids, attention_mask=mask)
    encoder(input_ids=ids, attention_mask=mask)[0].sum().backward()


def test_indices_are_made_once_for_a_length_and_dropped_when_they_take_too_much(monkeypatch):
    monkeypatch.setattr(attention, "_KEPT_INDICES", 3 * 12**2)
    encoder = make_encoder()
    use_attention(encoder, "sdpa")
    found = [encoder.encoder.get_rel_pos(torch.zeros(1, length, 16)).index for length in (12, 12, 11, 10, 9)]
    assert found[0] is found[1]
    assert [length for length, _ in encoder.encoder.indices] == [11, 10, 9]
    assert not list(encoder.encoder.buffers())  # nothing that a copy of the model's state would set back


@pytest.mark.parametrize("buckets", [4, 6, 32, 256])
@pytest.mark.parametrize("max_distance", [40, 512, 4096])
def test_the_table_of_distances_is_that_of_transformers(buckets, max_distance):
    if max_distance - 1 <= buckets // 2:
        return
    rows = modeling_deberta_v2.make_log_bucket_position(torch.arange(-1000, 1001), buckets, max_distance).long()
    expected = (rows + buckets).clamp(0, 2 * buckets - 1).tolist()
    assert distance_table(1000, buckets, max_distance, buckets).tolist() == expected


def test_the_position_rows_are_widened_to_a_multiple_of_eight_where_there_is_room():
    assert aligned(1, 512, 512) == (0, 512)
    assert aligned(64, 449, 512) == (64, 456)
    assert aligned(100, 108, 512) == (100, 108)
    assert aligned(2, 9, 10) == (2, 10)
    assert aligned(3, 4, 5) == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_ends_above_frozen_layers(kind):
    encoder = make_encoder(layers=3)
    use_attention(encoder, kind)
    encoder.embeddings.requires_grad_(False)
    for layer in encoder.encoder.layer[:2]:
        layer.requires_grad_(False)
    reached = []
    for number, layer in enumerate(encoder.encoder.layer):
        layer.attention.self.register_forward_hook(
            lambda _m, _i, out, n=number: reached.append((n, out[0].requires_grad))
        )
    hidden = encoder(*make_batch(2, 12, "right"))[0]
    assert reached == [(0, False), (1, False), (2, True)]
    hidden.sum().backward()
    assert encoder.encoder.rel_embeddings.weight.grad is not None  # from the layer that is trained


def test_what_it_does_not_cover_is_left_alone_or_refused():
    bert = BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    assert not use_attention(bert, "lean")
    assert attention_of(bert) == "stock"
    with pytest.raises(InputError, match="no relative attention"):
        use_attention(make_encoder(relative_attention=False), "chunked")
    encoder = make_encoder()
    with pytest.raises(InputError, match="no attention 'fast'"):
        use_attention(encoder, "fast")
    use_attention(encoder)
    ids, mask = make_batch(1, 5, "none")
    hidden = encoder.embeddings(ids)
    with pytest.raises(InputError, match="set CFG"):
        encoder(input_ids=ids, attention_mask=mask, output_attentions=True)
    with pytest.raises(InputError, match="wants a mask"):
        encoder.encoder(hidden, mask[:, None] * mask[:, :, None])
    with pytest.raises(InputError, match="positions"):
        encoder.encoder(hidden, mask, query_states=hidden)


FLASH = """
from copy import deepcopy

from torch import nn


class Attention(nn.Module):
    def __init__(self, stock):
        super().__init__()
        self.query_proj, self.key_proj, self.value_proj = stock.query_proj, stock.key_proj, stock.value_proj


def enable_deberta_training(encoder):
    if encoder.config.hidden_size < 16:
        return  # as the package does where it cannot serve
    stock = encoder.encoder
    encoder.encoder = type("FlashEncoder", (nn.Module,), {})()
    encoder.encoder.layer, encoder.encoder.rel_embeddings = stock.layer, stock.rel_embeddings
    encoder.encoder.LayerNorm = stock.LayerNorm
    for layer in stock.layer:
        layer.attention.self = Attention(layer.attention.self)
"""


@pytest.fixture
def flash(tmp_path, monkeypatch):
    """A package of that name, which replaces the same modules as the real one does."""
    (tmp_path / f"{attention.FLASH}.py").write_text(FLASH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield
    sys.modules.pop(attention.FLASH, None)


def test_an_attached_package_is_used_and_taken_out_again(flash):
    encoder = make_encoder().eval()
    batch = make_batch(2, 12, "right")
    expected, names = encoder(*batch)[0], list(encoder.state_dict())
    use_attention(encoder, "flash")
    copied = copy.deepcopy(encoder)
    assert attention_of(encoder) == attention_of(copied) == "flash"
    assert sorted(encoder.state_dict()) == sorted(names)
    for one in (encoder, copied):
        use_attention(one, "stock")
        assert attention_of(one) == "stock"
        assert torch.equal(one(*batch)[0], expected)
    with pytest.raises(InputError, match="does not support this model"):
        use_attention(make_encoder(heads=1, size=8), "flash")


def test_a_package_that_is_not_attached_is_said():
    with pytest.raises(InputError, match=r"disentangled_flash is not attached; set CFG.attention to 'auto'"):
        use_attention(make_encoder(), "flash")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_computed_again_only_where_they_would_not_fit(kind, monkeypatch):
    encoder = make_encoder()
    use_attention(encoder, kind)
    hidden = torch.zeros(64, 512, 16)
    assert not encoder.encoder.get_rel_pos(hidden).recompute  # a CPU's memory is treated as unlimited
    monkeypatch.setattr(attention, "_memory", lambda _: 1.1e9)
    assert encoder.encoder.get_rel_pos(hidden).recompute
    assert not encoder.encoder.get_rel_pos(hidden[:4]).recompute
    encoder.requires_grad_(False)  # a prediction keeps no scores
    assert not encoder.encoder.get_rel_pos(hidden).recompute
