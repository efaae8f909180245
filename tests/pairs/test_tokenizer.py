"""The tokenizer of every family keeps line breaks, and no text is shattered."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from src_py.errors import InputError
from src_py.model.families import FAMILIES
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.tokenizer import load_tokenizer, newline_added, newline_id, single_token_id
from tools.demo_data import write_tiny

TEXT = "pebasi lihe\nmonu\n\n- zora bavu"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tokenizer") / request.param, request.param, hidden_size=8)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_line_breaks_survive_without_shattering_the_text(folder, pairs):
    tokenizer = load_tokenizer(folder)
    assert ids_of(tokenizer, TEXT).count(newline_id(tokenizer)) == 3
    assert len(set(ids_of(tokenizer, "\n"))) == 1
    plain = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for turns in pairs["response_a"][:40]:
        text = " ".join(" ".join(turns).split())
        assert ids_of(tokenizer, text) == ids_of(plain, text)


def test_a_byte_level_vocabulary_gets_no_further_token(folder):
    tokenizer = load_tokenizer(folder)
    before = len(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    byte_level = folder.name in ("roberta", "modernbert")
    assert newline_added(tokenizer) is not byte_level
    assert len(tokenizer) == before + (not byte_level)


def test_a_saved_tokenizer_reads_the_same_and_adds_nothing(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert ids_of(again, TEXT) == ids_of(tokenizer, TEXT)
    assert len(again) == len(tokenizer)
    assert newline_id(again) == newline_id(tokenizer)
    assert not newline_added(again)


def test_a_sequence_begins_and_ends_with_the_familys_own_tokens(folder, pairs):
    tokenizer = load_tokenizer(folder)
    cls, sep, pad = (tokenizer.convert_tokens_to_ids(t) for t in (("[CLS]", "[SEP]", "[PAD]") if (
        tokenizer.cls_token == "[CLS]") else ("<s>", "</s>", "<pad>")))  # fmt: skip
    assert len({cls, sep, pad, tokenizer.unk_token_id} - {None}) >= 3
    for row in encode_pairs(pairs[:20], tokenizer, Reading(max_length=40)):
        for ids in row["sequences"]:
            assert ids[0] == cls
            assert ids[-1] == sep
            assert ids.count(sep) == 2
            assert pad not in ids


def test_a_single_token_is_the_first_text_that_is_one(folder):
    tokenizer = load_tokenizer(folder)
    assert single_token_id(tokenizer, ("zora bavu", "\n")) == newline_id(tokenizer)
    assert single_token_id(tokenizer, ("zora bavu",)) is None


def test_a_line_break_that_shatters_the_text_is_refused(folder, tmp_path):
    """Saved as a plain string it is normalized to nothing or to a space, and matches there (tokenizers#1043)."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.add_tokens(["\n"])
    tokenizer.save_pretrained(tmp_path)
    if folder.name in ("roberta", "modernbert"):  # nothing is normalized there
        mended = load_tokenizer(tmp_path)
        assert ids_of(mended, TEXT).count(newline_id(mended)) == 3
    else:
        with pytest.raises(InputError, match="splits all text into single characters"):
            load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path, tmp_path_factory):
    made = write_tiny(tmp_path_factory.mktemp("bare") / "modernbert", "modernbert", hidden_size=8)
    folder = shutil.copytree(made, tmp_path / "bare")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(InputError, match="no cls_token and no sep_token and no pad_token"):
        load_tokenizer(folder)
