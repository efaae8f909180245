"""What to do next: what each step would bring, and when that is not known."""

import re

import numpy as np
import pandas as pd
import pytest

from src_py.ablation.answer import answer
from src_py.ablation.averaging import averaging_gain
from src_py.ablation.next_step import steps_view
from src_py.ablation.results import curve_table, results_table
from src_py.ablation.trials import Outcome, Trial

FALLING = {10: 0.1, 20: 0.2, 40: 0.3, 80: 0.4, 160: 0.5}
TWICE, EPOCH, SEEDS, ENCODER = range(4)


@pytest.fixture
def recipe(outcome):
    """A function: outcomes of the recipe, from the sharpness at each size."""

    def make(sizes: dict[int, float], seeds: int = 3, arm: str = "recipe") -> dict[Trial, Outcome]:
        return {Trial(arm, rows, seed): outcome(sharp, seed) for rows, sharp in sizes.items() for seed in range(seeds)}

    return make


def ask(problem, outcomes) -> tuple[pd.DataFrame, str]:
    found = answer(problem, outcomes, results_table(problem, outcomes), curve_table(problem, outcomes), ("recipe",))
    return found.steps, found.short[-1]


def unknown(steps: pd.DataFrame, step: int) -> bool:
    return steps.loc[step, ["gain", "low", "high"]].isna().all()


def test_a_curve_that_falls_is_worth_more_rows_and_their_hours(problem, recipe):
    steps, said = ask(problem, recipe(FALLING))
    twice = steps.loc[TWICE]
    assert 0 < twice["low"] < twice["gain"] < twice["high"]
    assert twice["hours"] == pytest.approx((2 * 6.0 + 3.0) / 3600)
    assert twice["note"] == "there are only 240 training rows; more can be named in CFG.extra_files"
    assert "three seeds" not in said
    assert said.startswith("Next: ")
    assert said.endswith(". Not measured: another epoch (2), a larger encoder (the table says how to).")


def test_the_step_that_brings_most_for_its_hours_is_recommended(problem, recipe):
    outcomes = recipe(FALLING)
    steps, said = ask(problem, outcomes)
    sure = steps[steps["low"] > 0]
    best = sure.loc[(sure["gain"] / sure["hours"]).idxmax(), "option"]
    assert len(sure) == 2
    assert said.startswith(f"Next: {best}, which would take 0.")
    for trial, one in outcomes.items():
        if trial.rows == 160:
            one.train_seconds, one.predict_seconds = 36_000.0, 1.0  # doubling is two trainings, averaging three
    said = ask(problem, outcomes)[1]
    assert "hours on this machine, longer than a session of 12 hours (most for its time)." in said


def test_where_all_has_come_to_rest_the_advice_is_to_stop(problem, outcome):
    one = outcome(0.6)
    outcomes = {Trial("recipe", rows, seed): one for rows in (10, 20, 40, 80, 160) for seed in range(3)}
    steps, said = ask(problem, outcomes)
    assert steps.loc[SEEDS, "gain"] == pytest.approx(0, abs=1e-9)  # three times the same model
    assert said.startswith(
        "Next: stop; nothing that was measured is likely to bring more than 0.002 nats. Not measured"
    )


def test_a_step_that_may_bring_more_and_is_not_sure_is_told_beside_the_sure_one(problem, recipe, outcome):
    outcomes = recipe(FALLING)
    longer = {Trial("recipe+epochs=2", 160, seed): outcome(sharp, seed) for seed, sharp in enumerate((0.5, 0.6, 1.3))}
    steps, said = ask(problem, outcomes | longer)
    assert steps.loc[EPOCH, "low"] < 0 < steps.loc[TWICE, "gain"] < steps.loc[EPOCH, "gain"]
    assert re.search(
        r"More may come from another epoch \(2\): 0\.\d{3} nats \(-0\.\d{3} to .*, which is not sure\.", said
    )


def test_there_is_no_advice_to_stop_while_more_rows_were_not_measured(problem, outcome):
    """Two sizes and a clear gain between them: only averaging is known, and it brings nothing here."""
    outcomes = {
        Trial("recipe", rows, seed): outcome(sharp) for rows, sharp in {80: 0.3, 160: 0.8}.items() for seed in range(3)
    }
    steps, said = ask(problem, outcomes)
    assert steps.loc[SEEDS, "gain"] == pytest.approx(0, abs=1e-9)
    assert said.startswith("Next? Cannot tell: what was measured is not likely to bring more than 0.002 nats.")
    assert "Not measured: twice the rows" in said


def test_one_size_and_one_seed_give_no_figure(problem, recipe):
    steps, said = ask(problem, recipe({160: 0.5}, seeds=1))
    assert all(unknown(steps, step) for step in range(4))
    assert steps.loc[TWICE, "note"] == "not measured: a curve needs three sizes; recipe has 1 size and 1 trial"
    assert steps.loc[SEEDS, "note"] == "not measured: it needs 3; trained at 160 rows: 1"
    assert said.startswith("Next? Cannot tell: none of twice the rows, another epoch (2), 3 seeds averaged")


def test_one_seed_a_size_is_said_beside_its_figure(problem, recipe):
    steps, _ = ask(problem, recipe(FALLING, seeds=1))
    assert steps.loc[TWICE, "note"].startswith("one seed a size: how much seeds differ is guessed")


def test_a_curve_that_rises_gives_no_figure(problem, recipe):
    steps, _ = ask(problem, recipe({20: 1.2, 60: 0.9, 200: 0.6}))
    assert unknown(steps, TWICE)
    assert steps.loc[TWICE, "note"] == "cannot tell: recipe's log loss rises up to 200 rows"


def test_seeds_that_diverged_are_not_averaged(problem, recipe, diverged):
    outcomes = recipe(FALLING) | {Trial("recipe", 160, 1): diverged}
    steps, _ = ask(problem, outcomes)
    assert unknown(steps, SEEDS)
    assert steps.loc[SEEDS, "note"].endswith("trained at 160 rows: 3, of which 1 diverged")
    assert "no trial of recipe gave a result" in ask(problem, {Trial("recipe", 160, 1): diverged})[1]


def test_what_does_not_learn_is_repaired_first(problem, recipe):
    steps, said = ask(problem, recipe(dict.fromkeys(FALLING, 0.0)))
    assert unknown(steps, TWICE)
    assert said.startswith("Next: find out why recipe does not surely beat the constant predictor at 160 rows")


def test_another_epoch_is_measured_by_an_arm_that_has_it(problem, recipe):
    outcomes = recipe(FALLING)
    steps, _ = ask(problem, outcomes)
    assert unknown(steps, EPOCH)
    assert steps.loc[EPOCH, "note"] == 'not measured: to measure it, add "epoch" to CFG.next_steps'
    assert steps.loc[EPOCH, "hours"] == pytest.approx((2 * 6.0 + 3.0) / 3600)
    longer = recipe({160: 0.9}, arm="recipe+epochs=2") | recipe({160: 0.9}, arm="recipe+lora+epochs=2")
    steps, _ = ask(problem, outcomes | longer)
    assert steps.loc[EPOCH, "low"] > 0
    assert steps.loc[EPOCH, "note"] == "3 seeds"
    steps, _ = ask(problem, outcomes | recipe({160: 0.9}, seeds=1, arm="recipe+epochs=3"))
    assert steps.loc[EPOCH, "option"] == "3 epochs instead of 1"
    assert re.match(
        r"not measured: one seed, where it was \+0\.\d{3}; seeds alone may make 0.036", steps["note"][EPOCH]
    )


def test_a_step_that_was_planned_and_not_trained_says_so(problem, recipe):
    outcomes = recipe(FALLING)
    planned = [*outcomes, Trial("recipe+epochs=2", 160, 0)]
    tables = results_table(problem, outcomes), curve_table(problem, outcomes)
    found = answer(problem, outcomes, *tables, ("recipe",), planned)
    assert found.steps.loc[EPOCH, "note"].startswith("not measured: its trials did not fit CFG.budget_minutes")
    planned[-1] = Trial("recipe+epochs=2", 240, 0)
    found = answer(problem, outcomes, *tables, ("recipe",), planned)
    assert "its trials are those at 240 rows, where none was finished" in found.steps.loc[EPOCH, "note"]


def test_another_encoder_is_a_step_with_its_gain_and_hours(problem, recipe):
    outcomes = recipe(FALLING)
    steps, _ = ask(problem, outcomes)
    assert steps.loc[ENCODER, "option"] == "a larger encoder"
    assert 'CFG.next_steps = ["epoch", "encoder=NAME"]' in steps.loc[ENCODER, "note"]
    problem.encoders["large"] = problem.model_dir.parent / "deberta-large"
    steps, _ = ask(problem, outcomes)
    assert unknown(steps, ENCODER)
    assert 'add "encoder=large" to CFG.next_steps' in steps.loc[ENCODER, "note"]
    better = recipe({160: 0.9}, arm="recipe+encoder=large")
    for one in better.values():
        one.train_seconds = 60.0
    steps, said = ask(problem, outcomes | better)
    assert steps.loc[ENCODER, "option"] == "the encoder deberta-large (encoder=large)"
    assert 0 < steps.loc[ENCODER, "low"] < steps.loc[ENCODER, "high"]
    assert steps.loc[ENCODER, "hours"] == pytest.approx(63.0 / 3600)
    assert "a larger encoder" not in said


def test_readers_get_the_unit_the_level_and_minutes(problem, recipe):
    steps, _ = ask(problem, recipe(FALLING))
    view = steps_view(steps)
    assert list(view) == ["step", "log loss saved, nats (90 %)", "minutes", "note"]
    assert re.fullmatch(r"\+0\.\d{3} \(\+0\.\d{3} to \+0\.\d{3}\)", view.iloc[TWICE, 1])
    assert view["minutes"].tolist() == ["0.2", "0.2", "0.4", ""]
    assert view.iloc[ENCODER, 1] == ""


def test_what_the_last_steps_brought_is_no_figure_for_another_epoch(problem, recipe, outcome):
    outcomes = recipe(FALLING, seeds=1)
    early, late = outcome(0.3).probabilities, outcome(0.5).probabilities
    outcomes[Trial("recipe", 160, 0)] = Outcome(np.concatenate([early, late]), [10, 20], 6.0, 0.1, 3.0)
    steps, _ = ask(problem, outcomes)
    assert unknown(steps, EPOCH)
    assert "the last 10 of 20 steps, as the rate fell to zero, brought +0.0" in steps.loc[EPOCH, "note"]


class TestAveraging:
    @pytest.fixture
    def noisy(self, problem):
        """A function: models that know the labels, each with noise of its own."""

        def make(seeds: int, noise: float, first: int = 0) -> dict[Trial, Outcome]:
            labels, found = problem.valid["label"].to_numpy(), {}
            for seed in range(seeds):
                logits = np.random.default_rng(first + seed).normal(0, noise, (len(labels), 3))
                logits[np.arange(len(labels)), labels] += 0.5
                probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                found[Trial("recipe", 240, seed)] = Outcome(probabilities[None], [1], 6.0, 0.1, 3.0)
            return found

        return make

    def test_it_is_what_averaging_does_to_the_loss(self, problem, noisy):
        outcomes, labels = noisy(3, 1.0), problem.valid["label"].to_numpy()
        each = np.stack([one.probabilities[0, np.arange(len(labels)), labels] for one in outcomes.values()])
        found = averaging_gain(problem, outcomes, ("recipe", 240, 0))
        assert found.gain == pytest.approx(-np.log(each).mean() + np.log(each.mean(0)).mean())
        assert found.at_least < found.gain < found.at_most
        assert averaging_gain(problem, noisy(2, 1.0), ("recipe", 240, 0)) is None

    def test_its_interval_holds_what_many_seeds_come_to(self, problem, noisy):
        group, kept = ("recipe", 240, 0), []
        truth = np.mean([averaging_gain(problem, noisy(3, 1.0, 3 * run), group).gain for run in range(1000, 1100)])
        for run in range(60):
            found = averaging_gain(problem, noisy(3, 1.0, 3 * run), group, level=0.9)
            kept.append(found.at_least <= truth <= found.at_most)
        assert np.mean(kept) > 0.8
