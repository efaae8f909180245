"""Feature groups: they leak nothing, swap exactly, come back from disk, and work with few rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src_py.config import check_config
from src_py.errors import InputError
from src_py.pairs.load import swap_sides
from src_py.tabular import word2vec
from src_py.tabular.groups import GROUP_CLASSES, GROUPS, Counted, FeatureSettings, FoldFeatures
from src_py.tabular.length import LengthFeatures
from src_py.tabular.sides import join, stack


def test_lengths_are_what_one_counts_by_hand():
    answer = ["# Title\n\n- one\n- two\n\nAs an AI, I can't say 42.", "See https://a.b!"]
    table = pd.DataFrame({"prompt": [["What is it?"]], "response_a": [answer], "response_b": [[""]]})
    sides = LengthFeatures.count(table)
    a = dict(zip(sides.names, np.expm1(sides.a[0])))
    for name, count in {"list items": 2, "headings": 1, "digits": 2, "refusals": 2, "links": 1, "lines": 6}.items():
        assert round(a[f"log {name}"]) == count, name
    b = dict(zip(sides.names, sides.b[0]))
    assert b["log characters"] == 0
    assert np.isfinite(sides.for_trees()).all()
    assert dict(zip(sides.shared_names, sides.shared[0]))["turns"] == 1


@pytest.mark.parametrize("group", GROUPS)
def test_swapping_the_answers_swaps_the_features(data, group):
    rows = np.arange(300)
    here = Counted.of(data.table, (group,), data.embed).take(rows)
    there = Counted.of(swap_sides(data.table), (group,), data.embed).take(rows)
    features, _ = FoldFeatures.fit(here, data.labels[rows], data.prompts[rows], seed=0)
    straight, swapped = features.transform(here)[group], features.transform(there)[group].swapped()
    for part in ("a", "b", "shared"):
        np.testing.assert_allclose(getattr(straight, part), getattr(swapped, part), atol=2e-5)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_comes_back_from_its_arrays(data, group):
    rows = np.arange(200)
    counted = data.counted.take(rows).parts[group]
    features, _ = GROUP_CLASSES[group].fit(counted, data.labels[rows], data.prompts[rows], 0)
    again = GROUP_CLASSES[group].from_arrays(features.arrays())
    np.testing.assert_allclose(again.transform(counted).for_trees(), features.transform(counted).for_trees(), atol=1e-5)


def test_a_word_of_the_held_out_rows_changes_nothing_that_is_fitted(data):
    rest = np.flatnonzero(data.fold_of != 0)
    planted = data.table.copy()
    for row in np.flatnonzero(data.fold_of == 0):
        planted.at[row, "response_a"] = ["qqplantedqq " * 20]
    groups = ("tfidf", "word2vec")
    fits = [
        FoldFeatures.fit(Counted.of(t, groups, None).take(rest), data.labels[rest], data.prompts[rest], 0)[0].arrays()
        for t in (data.table, planted)
    ]
    assert fits[0].keys() == fits[1].keys()
    for name, array in fits[0].items():
        np.testing.assert_array_equal(array, fits[1][name], err_msg=name)


def test_labels_are_not_passed_to_what_counts(data):
    seen = []
    Counted.of(data.table, ("embeddings",), lambda table: seen.extend(table.columns))
    assert seen == ["prompt", "response_a", "response_b"]


def test_word_vectors_of_many_texts_come_from_a_fixed_sample(data, monkeypatch):
    words = Counted({"word2vec": data.counted.parts["word2vec"]})
    full = FoldFeatures.fit(words, data.labels, data.prompts, 0)[0].arrays()
    monkeypatch.setattr(word2vec, "TEXTS", 300)
    some, again = (FoldFeatures.fit(words, data.labels, data.prompts, 0)[0].arrays() for _ in "ab")
    assert len(some["word2vec/words"]) < len(full["word2vec/words"])
    np.testing.assert_array_equal(some["word2vec/vectors"], again["word2vec/vectors"])


def test_word_vectors_without_any_frequent_word_are_zero():
    table = pd.DataFrame({"prompt": [[f"p{i}"] for i in range(4)]})
    table["response_a"], table["response_b"] = [[f"a{i}"] for i in range(4)], [[f"b{i}"] for i in range(4)]
    words = Counted.of(table, ("word2vec",), None)
    features, sides = FoldFeatures.fit(words, np.array([0, 1, 2, 0]), np.arange(4), 0)
    assert not sides["word2vec"].a.any()
    again = FoldFeatures.from_arrays(features.arrays())
    assert np.isfinite(again.transform(words)["word2vec"].for_trees()).all()


def test_training_rows_get_scores_from_models_that_have_not_seen_their_prompt(data):
    """With shuffled labels a ridge score in sample still separates the training rows; out of fold it cannot."""
    shuffled = np.random.default_rng(0).permutation(data.labels)
    _, sides = FoldFeatures.fit(Counted({"tfidf": data.counted.parts["tfidf"]}), shuffled, data.prompts, 0)
    margin = sides["tfidf"].a[:, 0] - sides["tfidf"].b[:, 0]
    wins = np.where(shuffled == 0, 1.0, np.where(shuffled == 1, -1.0, 0.0))
    assert abs(np.corrcoef(margin, wins)[0, 1]) < 0.15


def test_length_features_with_other_columns_than_the_saved_ones_are_refused(data):
    sides = data.counted.parts["length"]
    features, _ = LengthFeatures.fit(sides, data.labels, data.prompts, 0)
    renamed = replace(sides, names=("log letters", *sides.names[1:]))
    with pytest.raises(InputError, match="other columns than the saved models learned"):
        LengthFeatures.from_arrays(features.arrays()).transform(renamed)


def test_sides_join_columns_and_stack_rows(data):
    sides = data.counted.parts["length"]
    both = join([sides, replace(sides, names=tuple(f"{n} again" for n in sides.names))])
    assert both.for_trees().shape[1] == len(both.tree_names())
    assert len(stack([sides, sides])) == 2 * len(sides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("groups=", "CFG.groups is empty"),
        ("groups=length,words", "'word2vec'"),
        ("groups=length,length", "each once"),
        ("max_length=8", "at least 16"),
        ("pooling=max", "'last4'"),
    ],
)
def test_feature_settings_that_cannot_be_are_refused(override, message):
    class CFG:
        groups, max_length, pooling = ["length"], 512, "mean"

    assert check_config(CFG, FeatureSettings).part(FeatureSettings).groups == ("length",)
    with pytest.raises(InputError, match=message):
        check_config(CFG, FeatureSettings, overrides=override)
