"""The LightGBM recipe: features that leak nothing and swap exactly, embeddings that survive a kill, heads, blend."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from src_py.errors import InputError
from src_py.evaluation.blend import cross_fitted, fit_weights, mix
from src_py.model.encoder import load_encoder
from src_py.model.preference import build_model
from src_py.model.saved import find_fine_tuned, save_trained
from src_py.pairs.encode import encode_pairs
from src_py.pairs.load import load_pairs, prompt_key, swap_sides
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer
from src_py.tabular import embeddings as embed
from src_py.tabular import models as tabular_heads
from src_py.tabular import word2vec as word_vectors
from src_py.tabular.embeddings import embed_sequences, token_batches
from src_py.tabular.folds import (
    find_tabular,
    finished_fold,
    fit_fold,
    found_options,
    group_sets,
    load_fold,
    save_fold,
    save_options,
    save_settings,
    search_options,
    split_for_stopping,
)
from src_py.tabular.groups import GROUPS, Counted, FoldFeatures, embed_pairs
from src_py.tabular.length import length_sides
from src_py.tabular.models import HEADS, Rows, fit_head, learning_rate
from src_py.tabular.plots import gain_by_group, plot_boosting, plot_heads
from src_py.tabular.sides import join, stack
from tools.demo_data import make_pairs, write_tiny_deberta


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny):
    """600 rows whose winner shows in words and in length: table, counted features, labels, prompts, folds."""
    folder = tmp_path_factory.mktemp("tabular")
    make_pairs(600, seed=1, quality_scale=3.0, length_scale=5.0)[0].to_csv(folder / "train.csv", index=False)
    table = load_pairs(folder / "train.csv")[0]
    tokenizer = load_tokenizer(tiny)

    def embed(rows):
        return embed_pairs(rows, tiny, tokenizer, folder / "cache", 48, "mean", "fp32")

    counted = Counted.of(table, GROUPS, embed)
    prompts = pd.factorize(prompt_key(table))[0]
    return table, counted, table["label"].to_numpy(), prompts, assign_folds(table, 5, 0), embed


@pytest.fixture(scope="module")
def fold(data):
    _, counted, labels, prompts, fold_of, _ = data
    return fit_fold(counted, labels, prompts, fold_of, 0, HEADS, seed=0)


@pytest.fixture(scope="module")
def held(fold, data):
    """Features of the rows that the fold holds out, by group."""
    _, counted, _, _, fold_of, _ = data
    return fold.features.transform(counted.take(np.flatnonzero(fold_of == 0)))


def loss(probabilities, labels) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


class TestFeatures:
    def test_lengths_are_what_one_counts_by_hand(self):
        answer = ["# Title\n\n- one\n- two\n\nAs an AI, I can't say 42.", "See https://a.b!"]
        table = pd.DataFrame({"prompt": [["What is it?"]], "response_a": [answer], "response_b": [[""]]})
        sides = length_sides(table)
        a = dict(zip(sides.names, np.expm1(sides.a[0])))
        for name, count in {"list items": 2, "headings": 1, "digits": 2, "refusals": 2, "links": 1, "lines": 6}.items():
            assert round(a[f"log {name}"]) == count, name
        b = dict(zip(sides.names, sides.b[0]))
        assert b["log characters"] == 0
        assert np.isfinite(sides.for_trees()).all()
        assert dict(zip(sides.shared_names, sides.shared[0]))["turns"] == 1

    @pytest.mark.parametrize("group", GROUPS)
    def test_swapping_the_answers_swaps_the_features(self, data, group):
        table, _, labels, prompts, _, embed = data
        rows = np.arange(300)
        here = Counted.of(table, (group,), embed).take(rows)
        there = Counted.of(swap_sides(table), (group,), embed).take(rows)
        features, _ = FoldFeatures.fit(here, labels[rows], prompts[rows], seed=0)
        straight, swapped = features.transform(here)[group], features.transform(there)[group].swapped()
        for part in ("a", "b", "shared"):
            np.testing.assert_allclose(getattr(straight, part), getattr(swapped, part), atol=2e-5)

    def test_a_word_of_the_held_out_rows_changes_nothing_that_is_fitted(self, data):
        table, _, labels, prompts, fold_of, _ = data
        rest = np.flatnonzero(fold_of != 0)
        planted = table.copy()
        for row in np.flatnonzero(fold_of == 0):
            planted.at[row, "response_a"] = ["qqplantedqq " * 20]
        groups = ("tfidf", "word2vec")
        fits = [
            FoldFeatures.fit(Counted.of(t, groups, None).take(rest), labels[rest], prompts[rest], 0)[0].arrays()
            for t in (table, planted)
        ]
        assert fits[0].keys() == fits[1].keys()
        for name, array in fits[0].items():
            np.testing.assert_array_equal(array, fits[1][name], err_msg=name)

    def test_word_vectors_of_many_texts_come_from_a_fixed_sample(self, data, monkeypatch):
        _, counted, labels, prompts, _, _ = data
        words = counted.parts["word2vec"]
        full = FoldFeatures.fit(Counted({"word2vec": words}), labels, prompts, 0)[0].arrays()
        monkeypatch.setattr(word_vectors, "TEXTS", 300)
        some, again = (FoldFeatures.fit(Counted({"word2vec": words}), labels, prompts, 0)[0].arrays() for _ in "ab")
        assert len(some["word2vec/words"]) < len(full["word2vec/words"])
        np.testing.assert_array_equal(some["word2vec/vectors"], again["word2vec/vectors"])

    def test_training_rows_get_scores_from_models_that_have_not_seen_their_prompt(self, data):
        """With shuffled labels a ridge score in sample still separates the training rows; out of fold it cannot."""
        _, counted, labels, prompts, _, _ = data
        shuffled = np.random.default_rng(0).permutation(labels)
        _, sides = FoldFeatures.fit(Counted({"tfidf": counted.parts["tfidf"]}), shuffled, prompts, 0)
        margin = sides["tfidf"].a[:, 0] - sides["tfidf"].b[:, 0]
        wins = np.where(shuffled == 0, 1.0, np.where(shuffled == 1, -1.0, 0.0))
        assert abs(np.corrcoef(margin, wins)[0, 1]) < 0.15

    def test_no_group_beats_the_constant_predictor_on_shuffled_labels(self, data):
        _, counted, labels, prompts, fold_of, _ = data
        shuffled = np.random.default_rng(1).permutation(labels)
        constant = loss(np.tile(np.bincount(shuffled) / len(shuffled), (len(labels), 1)), shuffled)
        for name in group_sets(GROUPS):
            found = []
            for number in (0, 1, 2):
                sets = {name: group_sets(GROUPS)[name]}
                result = fit_fold(counted, shuffled, prompts, fold_of, number, ("logistic",), 0, sets=sets)
                found.append(loss(result.predictions[name, "logistic"], shuffled[fold_of == number]))
            assert np.mean(found) > constant - 0.02, name


class TestHeads:
    @pytest.mark.parametrize("head", HEADS)
    def test_swapping_the_answers_swaps_the_probabilities(self, fold, held, head):
        sides = join(list(held.values()))
        straight = fold.heads["all", head].predict(sides)
        swapped = fold.heads["all", head].predict(sides.swapped())
        np.testing.assert_allclose(straight, swapped[:, [1, 0, 2]], atol=1e-6)
        np.testing.assert_allclose(straight.sum(1), 1, atol=1e-6)

    def test_each_head_learns_from_words_and_length(self, fold, data):
        _, _, labels, _, fold_of, _ = data
        truth = labels[fold_of == 0]
        constant = loss(np.tile(np.bincount(labels) / len(labels), (len(truth), 1)), truth)
        for head in HEADS:
            assert loss(fold.predictions["all", head], truth) < constant - 0.03, head

    def test_the_same_seed_gives_the_same_model(self, fold, data):
        _, counted, labels, prompts, fold_of, _ = data
        again = fit_fold(counted, labels, prompts, fold_of, 0, HEADS, seed=0, sets={"all": GROUPS})
        for head in HEADS:
            np.testing.assert_array_equal(again.predictions["all", head], fold.predictions["all", head])

    def test_two_folds_are_enough(self, data):
        _, counted, labels, prompts, fold_of, _ = data
        result = fit_fold(counted, labels, prompts, fold_of % 2, 0, HEADS, 0, sets={"length": ("length",)})
        for predicted in result.predictions.values():
            assert np.isfinite(predicted).all()

    def test_two_classes_are_enough(self, data):
        _, counted, labels, prompts, fold_of, _ = data
        rows = np.flatnonzero(labels < 2)
        some = (counted.take(rows), labels[rows], prompts[rows], fold_of[rows])
        result = fit_fold(*some, 0, HEADS, 0, sets={"all": GROUPS})
        for predicted in result.predictions.values():
            assert predicted.shape[1] == 2
            np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-6)

    def test_the_search_never_does_worse_than_the_defaults_on_its_own_rows(self, data):
        _, counted, labels, prompts, _, _ = data
        fit, stop = split_for_stopping({"length": counted.parts["length"]}, labels, prompts, 0)
        fit, stop = (Rows(part.sides["length"], part.labels) for part in (fit, stop))
        options, trials = search_options(fit, stop, 3, seed=0, minutes=0.02)
        assert trials[0].keys() == {"log loss", "rounds", "learning_rate"}
        assert min(trial["log loss"] for trial in trials) <= trials[0]["log loss"]
        fit_head("lightgbm", fit, stop, 3, 0, options)

    def test_the_learning_rate_grows_with_the_rows_within_bounds(self):
        rates = [learning_rate(rows) for rows in (100, 5000, 15_000, 25_000, 60_000)]
        np.testing.assert_allclose(rates, [0.02, 0.02, 0.06, 0.1, 0.1])

    def test_the_learning_rate_of_the_rows_is_used_unless_told_otherwise(self, data, monkeypatch):
        _, counted, labels, prompts, _, _ = data
        fit, stop = split_for_stopping({"length": counted.parts["length"]}, labels, prompts, 0)
        fit, stop = (Rows(part.sides["length"], part.labels) for part in (fit, stop))
        monkeypatch.setattr(tabular_heads, "learning_rate", {len(labels): 0.25}.get)
        for options, rate in ((None, "0.25"), ({"learning_rate": 0.5}, "0.5")):
            text = fit_head("lightgbm", fit, stop, 3, 0, options).booster.model_to_string()
            assert f"[learning_rate: {rate}]" in text

    def test_the_gain_of_the_trees_is_shared_out_among_the_groups(self, fold, held):
        shares = gain_by_group(fold.heads["all", "lightgbm"], held)
        assert set(shares) == set(GROUPS)
        assert abs(sum(shares.values()) - 1) < 1e-6
        assert shares["tfidf"] > shares["word2vec"]
        plot_boosting({0: fold.heads["all", "lightgbm"]}, held)
        table = pd.DataFrame({"lightgbm": [1.0, 0.9]}, index=["length", "all"])
        plot_heads(table, table * 0.01, 1.1)


class TestBlend:
    def test_weights_find_the_better_member_and_are_no_worse_than_any(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(3, size=800)
        good = np.full((800, 3), 0.25)
        good[np.arange(800), labels] = 0.5
        useless = rng.dirichlet(np.ones(3) * 5, size=800)
        weights = fit_weights([useless, good], labels)
        assert weights[1] > 0.9
        assert abs(weights.sum() - 1) < 1e-9
        assert loss(mix([useless, good], weights), labels) <= loss(good, labels) + 1e-6
        folds = rng.integers(5, size=800)
        assert loss(cross_fitted([useless, good], labels, folds), labels) < loss(useless, labels)

    def test_the_output_of_finetune_deberta_is_found_and_checked(self, tmp_path, data, tiny):
        table = data[0]
        assert find_fine_tuned(tmp_path, table, ("a", "b", "tie")) is None
        oof = pd.DataFrame({"id": table["id"][:100], "fold": 0, "label": table["label"][:100]})
        oof[["a", "b", "tie"]] = [0.5, 0.3, 0.2]
        (tmp_path / "run").mkdir()
        oof.to_csv(tmp_path / "run/oof.csv", index=False)
        with pytest.raises(InputError, match="no fold_"):
            find_fine_tuned(tmp_path, table, ("a", "b", "tie"))
        tokenizer = load_tokenizer(tiny)
        model = build_model(tiny, tokenizer, "pairwise", [0.4, 0.3, 0.3])
        save_trained(model, tokenizer, tmp_path / "run/fold_0", {})
        found = find_fine_tuned(tmp_path, table, ("a", "b", "tie"))
        assert np.isfinite(found.oof).all(1).sum() == 100
        assert [folder.name for folder in found.folders] == ["fold_0"]
        oof.assign(label=(oof["label"] + 1) % 3).to_csv(tmp_path / "run/oof.csv", index=False)
        with pytest.raises(InputError, match="other training rows"):
            find_fine_tuned(tmp_path, table, ("a", "b", "tie"))


class TestStore:
    def test_a_saved_fold_predicts_the_same(self, fold, held, data, tmp_path):
        _, counted, _, _, fold_of, _ = data
        save_fold(tmp_path / "tabular", 0, fold)
        assert find_tabular(tmp_path) is None, "without its settings it is not complete"
        save_settings(tmp_path / "tabular", {"n_folds": 1})
        folder, settings = find_tabular(tmp_path)
        assert settings == {"n_folds": 1}
        again = load_fold(folder, 0)
        sides = again.features.transform(counted.take(np.flatnonzero(fold_of == 0)))
        assert again.heads.keys() == fold.heads.keys()
        for (name, head), fitted in again.heads.items():
            chosen = join([sides[group] for group in group_sets(GROUPS)[name]])
            np.testing.assert_allclose(fitted.predict(chosen), fold.predictions[name, head], atol=1e-6)
            np.testing.assert_array_equal(again.predictions[name, head], fold.predictions[name, head])
        plot_boosting({0: again.heads["all", "lightgbm"]}, held)

    def test_a_damaged_fold_is_refused_in_one_sentence(self, fold, tmp_path):
        save_fold(tmp_path, 0, fold)
        path = tmp_path / "fold_0.npz"
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(InputError, match="attach the complete output"):
            load_fold(tmp_path, 0)

    def test_a_run_goes_on_with_its_folds_but_not_with_a_damaged_one(self, fold, tmp_path, capsys):
        assert finished_fold(tmp_path, 0) is None
        assert capsys.readouterr().out == ""
        for number in (0, 1):
            save_fold(tmp_path, number, fold)
        path = tmp_path / "fold_1.npz"
        path.write_bytes(path.read_bytes()[:2000])
        assert finished_fold(tmp_path, 0).predictions.keys() == fold.predictions.keys()
        assert finished_fold(tmp_path, 1) is None
        assert "fold 1 is fitted again" in capsys.readouterr().out

    def test_searched_options_are_kept_even_where_the_defaults_won(self, tmp_path):
        assert found_options(tmp_path / "tabular") is None
        save_options(tmp_path / "tabular", {})
        assert found_options(tmp_path / "tabular") == {}

    def test_a_folder_that_cannot_be_written_is_told(self, fold, tmp_path):
        (tmp_path / "file").write_text("")
        for write, *written in ((save_fold, 0, fold), (save_options, {}), (save_settings, {})):
            with pytest.raises(InputError, match="free some space"):
                write(tmp_path / "file/tabular", *written)


@pytest.fixture
def sequences(pairs, tokenizer):
    return [ids for row in encode_pairs(pairs, tokenizer, max_length=64)["sequences"] for ids in row]


class TestEmbed:
    def test_the_vectors_are_those_of_one_text_at_a_time(self, sequences, tiny, tokenizer, tmp_path):
        few = sequences[:40]
        found = embed_sequences(few, tiny, tokenizer, tmp_path, tokens=300)
        encoder = load_encoder(tiny).eval()
        encoder.resize_token_embeddings(max(encoder.config.vocab_size, len(tokenizer)))
        for ids, vector in zip(few, found):
            if tokenizer.convert_tokens_to_ids("\n") in ids:
                continue  # its vector is set when the encoder is fitted to the tokenizer
            with torch.inference_mode():
                hidden = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
            np.testing.assert_allclose(vector, hidden.mean(0).numpy(), atol=1e-4)

    def test_batches_hold_about_equally_many_tokens(self):
        lengths = sorted(np.random.default_rng(0).integers(5, 500, 1000).tolist(), reverse=True)
        slices = token_batches(lengths, 4000)
        assert sum(s.stop - s.start for s in slices) == 1000
        costs = [lengths[s.start] * (s.stop - s.start) for s in slices]
        assert max(costs) <= 4000
        assert sum(lengths) / sum(costs) > 0.95, "padding under 5 %"
        assert token_batches([9000], 4000) == [slice(0, 1)]

    @pytest.mark.parametrize("pooling", ["cls", "last4"])
    def test_other_poolings_give_other_vectors_in_their_own_folder(self, sequences, tiny, tokenizer, tmp_path, pooling):
        few = sequences[:20]
        mean = embed_sequences(few, tiny, tokenizer, tmp_path)
        other = embed_sequences(few, tiny, tokenizer, tmp_path, pooling=pooling)
        assert np.abs(mean - other).max() > 1e-3
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_broken_off_run_goes_on_and_gives_the_same(self, sequences, tiny, tokenizer, tmp_path, monkeypatch):
        monkeypatch.setattr("src_py.tabular.embeddings.BLOCK", 100)
        whole = np.array(embed_sequences(sequences, tiny, tokenizer, tmp_path / "whole"))
        real, calls = embed._embed_block, []

        def breaks(*words):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(*words)

        monkeypatch.setattr("src_py.tabular.embeddings._embed_block", breaks)
        with pytest.raises(KeyboardInterrupt):
            embed_sequences(sequences, tiny, tokenizer, tmp_path / "broken")
        (folder,) = (tmp_path / "broken").iterdir()
        with open(folder / "done.txt", "a", encoding="utf-8") as file:
            file.write("5")  # a kill in the middle of a line
        np.testing.assert_array_equal(embed_sequences(sequences, tiny, tokenizer, tmp_path / "broken"), whole)
        assert len(calls) == 3 + 4, "two of six blocks were read back"
        embed_sequences(sequences, tiny, tokenizer, tmp_path / "broken")
        assert len(calls) == 7, "a second run reads everything"

    def test_another_text_or_encoder_never_uses_the_cache(self, sequences, tiny, tokenizer, tmp_path):
        few = sequences[:10]
        first = np.array(embed_sequences(few, tiny, tokenizer, tmp_path))
        other = write_tiny_deberta(tmp_path / "other", seed=1, hidden_size=32)
        assert np.abs(np.array(embed_sequences(few, other, tokenizer, tmp_path)) - first).max() > 1e-3
        swapped = embed_sequences([few[1], few[0], *few[2:]], tiny, tokenizer, tmp_path)
        np.testing.assert_allclose(swapped[0], first[1], atol=1e-6)

    def test_two_devices_share_the_work(self, sequences, tiny, tokenizer, tmp_path, monkeypatch):
        monkeypatch.setattr("src_py.tabular.embeddings.BLOCK", 50)
        one = embed_sequences(sequences, tiny, tokenizer, tmp_path / "one", devices=("cpu",))
        two = embed_sequences(sequences, tiny, tokenizer, tmp_path / "two", devices=("cpu", "cpu"))
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_sides_join_columns_and_stack_rows(data):
    sides = data[1].parts["length"]
    both = join([sides, replace(sides, names=tuple(f"{n} again" for n in sides.names))])
    assert both.for_trees().shape[1] == len(both.tree_names())
    assert len(stack([sides, sides])) == 2 * len(sides)
