"""The arms, and the posted reading that their repairs start from."""

import numpy as np
import pytest

from src_py.ablation.arms import REPAIRS, label, parse_arm, single_repairs, submission_arm
from src_py.ablation.posted import MARKERS, encode_posted, posted_config, posted_tokenizer
from src_py.errors import InputError
from src_py.pairs import Reading, encode_pairs


def test_posted_has_no_repair_and_the_recipe_has_all():
    assert parse_arm("posted").repairs == frozenset()
    assert parse_arm("recipe").repairs == frozenset(REPAIRS)
    assert parse_arm("posted+batch+rates").repairs == {"batch", "rates"}
    assert parse_arm("recipe-batch").repairs == set(REPAIRS) - {"batch"}
    assert label("recipe-pairwise-cut") == "recipe without pairwise and cut"
    assert label("posted") == "posted"
    assert single_repairs(("cut",)) == ["posted+cut", "recipe-cut"]


@pytest.mark.parametrize("name", ["posted-batch", "recipe+batch", "recipe-bath", "", "mine", "posted+cut+cut"])
def test_an_unknown_arm_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match="write posted, recipe"):
        parse_arm(name)


def test_only_an_arm_that_reads_as_the_saved_model_does_can_answer_the_test_rows():
    assert submission_arm(("posted", "recipe")) == "recipe"
    assert submission_arm(("recipe", "recipe-batch", "recipe-cut")) == "recipe-batch"
    assert submission_arm(("posted", "posted+cut")) is None


def test_the_posted_reading_is_the_posted_notebooks(pairs, tiny):
    """Part by part, and yet what the tokenizer makes of the whole concatenated text."""
    tokenizer = posted_tokenizer(tiny, posted_config())
    encoded = encode_posted(pairs, tokenizer, max_length=256)
    columns = zip(*(pairs[column] for column in ("prompt", "response_a", "response_b")))
    texts = [
        "".join(m + "\n".join(turns).encode("ascii", "ignore").decode() for m, turns in zip(MARKERS, row))
        for row in columns
    ]
    # Without the special tokens, which transformers 5.0.0 does not add for this folder.
    whole = [ids[:254] for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    same = [parts[0][1:-1] == ids for parts, ids in zip(encoded["sequences"], whole)]
    assert np.mean(same) > 0.95  # white space at the end of a part may count differently


@pytest.mark.parametrize(("reading", "length"), [("posted", 128), ("recipe", 24)])
def test_cutting_from_the_right_removes_answer_b(pairs, tiny, tokenizer, reading, length):
    kept = {}
    for cut in ("right", "parts"):
        if reading == "posted":
            encoded = encode_posted(pairs, posted_tokenizer(tiny, posted_config()), length, "joint", cut)
        else:
            encoded = encode_pairs(pairs, tokenizer, Reading("joint", length), cut=cut)
        kept[cut] = encoded.to_pandas()
    assert kept["right"]["response_b_kept"].sum() < 0.2 * kept["right"]["response_a_kept"].sum()
    assert kept["parts"]["response_b_kept"].sum() > 0.8 * kept["parts"]["response_a_kept"].sum()
    assert max(len(sequence[0]) for sequence in kept["right"]["sequences"]) <= length
