"""Pairs become token sequences in which line breaks, the prompt and both answers survive."""

import pandas as pd
import pytest
from transformers import AutoTokenizer

from src_py.errors import InputError
from src_py.pairs.encode import Reading, encode_pairs, share_budget, truncation_report
from src_py.pairs.tokenizer import load_tokenizer, newline_id


def table(prompt, a, b):
    return pd.DataFrame({"prompt": [prompt], "response_a": [a], "response_b": [b]})


def tokens_per_character(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) / len(text)


def test_line_breaks_survive_without_shattering_the_text(tiny, tokenizer, pairs):
    text = " ".join(" ".join(turn for turns in pairs["response_a"][:20] for turn in turns if turn.isascii()).split())
    assert tokens_per_character(tokenizer, text) < 0.5
    assert tokenizer("one\n\ntwo", add_special_tokens=False)["input_ids"].count(newline_id(tokenizer)) == 2
    # The posted notebook's way, to show that this test can fail: the plain string shatters the text.
    posted = AutoTokenizer.from_pretrained(tiny)
    posted.add_tokens(["\n"])
    assert tokens_per_character(posted, text) > 0.9


def test_a_saved_tokenizer_reads_the_same(tmp_path, tokenizer):
    text = "a line\nanother 😀 line\n\n- item"
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert len(again) == len(tokenizer)


@pytest.mark.parametrize(
    ("needs", "budget", "granted"),
    [([10, 10], 100, [10, 10]), ([10, 500], 100, [10, 90]), ([500, 500], 100, [30, 70]), ([0, 500], 9, [0, 9])],
)
def test_an_unused_budget_goes_to_whoever_needs_it(needs, budget, granted):
    assert share_budget(needs, budget, [0.3, 0.7]) == granted


@pytest.mark.parametrize("style", ["pairwise", "joint"])
def test_both_answers_survive_any_length(tokenizer, style):
    long = ["wort " * 3000]
    encoded = encode_pairs(table(long, long, ["kurz"]), tokenizer, Reading(style, 64))[0]
    assert all(len(ids) <= 64 for ids in encoded["sequences"])
    assert len(encoded["sequences"]) == (2 if style == "pairwise" else 1)
    assert encoded["response_b_kept"] == encoded["response_b_tokens"]
    assert encoded["response_a_kept"] >= 20
    assert encoded["prompt_kept"] >= 15


def test_a_cut_text_keeps_head_and_tail_and_the_last_turn_first(tokenizer):
    def kept(*turns):
        ids = encode_pairs(table([""], list(turns), ["x"]), tokenizer, Reading(max_length=32))[0]["sequences"][0]
        return tokenizer.decode(ids)

    beginning, end = "hebado", "zozozo"
    text = kept(f"{beginning} {'lilili ' * 300} {end}")
    assert beginning in text.replace(" ", "")
    assert end in text.replace(" ", "")
    text = kept(f"{beginning} " * 50, f"{end} {end}")
    assert text.replace(" ", "").count(end) == 2
    assert beginning in text.replace(" ", "")


def test_pairwise_reads_both_sides_alike(tokenizer, pairs):
    swapped = pairs.assign(response_a=pairs["response_b"], response_b=pairs["response_a"])
    reading = Reading(max_length=48)
    for one, two in zip(encode_pairs(pairs, tokenizer, reading), encode_pairs(swapped, tokenizer, reading)):
        assert one["sequences"] == two["sequences"][::-1]


def test_the_cache_is_used_for_the_same_input_only(tmp_path, tokenizer, pairs):
    first = encode_pairs(pairs, tokenizer, Reading(max_length=48), cache_dir=tmp_path)
    assert encode_pairs(pairs, tokenizer, Reading(max_length=48), cache_dir=tmp_path)["sequences"] == first["sequences"]
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    encode_pairs(pairs, tokenizer, Reading(max_length=40), cache_dir=tmp_path)
    encode_pairs(pairs[1:], tokenizer, Reading(max_length=48), cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 3


def test_the_report_shows_what_was_cut(tokenizer, pairs):
    whole = truncation_report(encode_pairs(pairs, tokenizer, Reading(max_length=512)))
    short = truncation_report(encode_pairs(pairs, tokenizer, Reading(max_length=24)))
    assert whole["tokens kept"].eq(1).all()
    assert short.loc["response_a", "rows cut"] > 0.5


@pytest.mark.parametrize("change", [{"style": "both"}, {"max_length": 4}, {"prompt_share": 1.0}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError, match=r"CFG\."):
        Reading(**change)
