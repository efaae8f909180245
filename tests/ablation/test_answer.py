"""The answer in sentences: what it says, and when it must say that it cannot tell."""

import re
from dataclasses import replace

import numpy as np
import pytest

from src_py.ablation.answer import answer, fit_curves, smallest_that_learns
from src_py.ablation.results import curve_table, results_table
from src_py.ablation.trials import Trial

BOTH = ("posted", "recipe")


@pytest.fixture
def grid(outcome):
    """A function: outcomes of the two arms, from the sharpness at each size."""

    def make(posted: dict[int, float], recipe: dict[int, float], seeds: int = 3) -> dict:
        return {
            Trial(arm, rows, seed): outcome(sharpness, seed)
            for arm, sizes in (("posted", posted), ("recipe", recipe))
            for rows, sharpness in sizes.items()
            for seed in range(seeds)
        }

    return make


def text(problem, outcomes, arms=BOTH, trials=()) -> str:
    tables = results_table(problem, outcomes), curve_table(problem, outcomes)
    return str(answer(problem, outcomes, *tables, arms, trials))


class TestReading:
    def test_counts_that_carry_an_arm_are_told_from_what_its_encoder_reads(self, problem, grid, outcome):
        outcomes = grid({20: 0.0, 200: 0.0}, {20: 0.5, 200: 0.9})
        assert "its encoder" not in text(problem, outcomes)
        recipe = [trial for trial in outcomes if trial.arm == "recipe"]
        for trial in recipe:
            outcomes[trial].blind = outcome(0.3, trial.seed).probabilities[0]
        said = text(problem, outcomes)
        assert "recipe: at 200 rows, its encoder takes 0." in said
        assert "posted: at 200 rows, its encoder" not in said
        for trial in recipe:
            outcomes[trial].blind = outcomes[trial].probabilities[0]
        said = text(problem, outcomes)
        assert "recipe: from 20 rows on it beats the constant predictor" in said
        assert "recipe: at 200 rows, no gain of its encoder over the counts of length and format was seen" in said


class TestDataOrCode:
    def test_code_that_learns_nothing_at_any_size_is_blamed(self, problem, grid):
        outcomes = grid({20: 0.0, 200: 0.0}, {20: 0.5, 60: 0.7, 200: 0.9})
        said = text(problem, outcomes)
        assert "posted: at 20 and 200 rows it is not better than the constant predictor." in said
        assert "recipe: from 20 rows on it beats the constant predictor" in said
        assert "Data or code? The code: more rows alone were not seen to help posted" in said
        assert re.search(r"; at the same 200 rows recipe is 0\.\d+ nats \(units of log loss\) better", said)
        assert said.count("units of log loss") == 1
        curve = curve_table(problem, outcomes)
        assert smallest_that_learns(curve, "recipe") == 20
        assert smallest_that_learns(curve, "posted") is None

    def test_rows_that_change_nothing_are_not_called_worse(self, problem, outcome):
        outcomes = {Trial("posted", rows, seed): outcome(0.0, seed) for rows in (20, 160) for seed in range(3)}
        outcomes |= {Trial("recipe", rows, seed): outcome(0.9, seed) for rows in (20, 160) for seed in range(3)}
        said = text(problem, outcomes)
        assert re.search(
            r", eight times the rows changed nothing for posted \(.0\.00\d to .0\.00\d, 95 %; 3 seeds\)\.", said
        )
        assert "worse" not in said.splitlines()[0]

    def test_two_arms_alike_that_need_rows_are_about_data(self, problem, grid):
        said = text(problem, grid({20: 0.0, 200: 0.8}, {20: 0.0, 200: 0.8}))
        assert "Data or code? The data: at 200 rows the code makes no difference" in said

    def test_a_difference_that_is_not_sure_is_not_called_none(self, problem, grid, outcome):
        outcomes = grid({20: 0.0, 200: 0.8}, {})
        outcomes |= {Trial("recipe", 200, seed): outcome(0.8 + 0.4 * (seed - 1), seed) for seed in range(3)}
        assert "Data or code? The data: whether the code matters cannot be told" in text(problem, outcomes)

    def test_coming_closer_to_the_constant_predictor_is_not_learning(self, problem, grid, outcome):
        """Worse than the constant predictor at the small size, as good at the large one: more data did not help."""
        outcomes = grid({20: -0.5, 200: 0.0}, {20: 0.0, 200: 0.9})
        outcomes |= {Trial("posted", 20, seed, as_rows=200): outcome(0.0, seed) for seed in range(3)}
        said = text(problem, outcomes)
        assert "Data or code? The code" in said
        assert "posted, rows or steps? Cannot tell: neither" in said
        assert "at 20 rows it is worse than the constant predictor" in said

    def test_code_that_only_comes_closer_to_the_constant_predictor_is_no_answer(self, problem, grid):
        said = text(problem, grid({200: -0.5}, {200: 0.0}))
        assert "Cannot tell: neither posted nor recipe surely beats the constant predictor" in said

    def test_code_that_is_worse_is_not_called_the_data(self, problem, grid):
        said = text(problem, grid({20: 0.0, 200: 0.9}, {20: 0.0, 200: 0.0}))
        assert "Not this code: recipe does not beat the constant predictor, as posted does; more rows help" in said

    def test_arms_without_a_size_in_common_cannot_be_compared(self, problem, grid):
        said = text(problem, grid({200: 0.0}, {20: 0.9}, seeds=1))
        assert "Cannot tell: posted and recipe have no size and seed in common" in said
        assert "Twice the data? Cannot tell: a curve needs three sizes" in said

    def test_arms_without_a_seed_in_common_cannot_be_compared(self, problem, outcome, diverged):
        """As when the first seed of one arm diverged and the other has only that seed."""
        outcomes = {
            Trial("posted", 200, 0): diverged,
            Trial("posted", 200, 1): outcome(0.0, 1),
            Trial("recipe", 200, 0): outcome(0.9),
        }
        assert "Cannot tell: posted and recipe have no size and seed in common" in text(problem, outcomes)


class TestOneSeed:
    def test_a_difference_that_seeds_could_make_is_not_sure(self, problem, grid):
        """The intervals of a single seed know the rows only."""
        few, many = (grid({200: 0.30}, {200: 0.36}, seeds) for seeds in (1, 3))
        assert "Data or code? Cannot tell" in text(problem, few)
        assert "Data or code? The code" in text(problem, many)

    def test_a_large_difference_is_said_and_that_it_rests_on_one_seed(self, problem, grid):
        said = text(problem, grid({200: 0.0}, {200: 0.9}, seeds=1))
        assert "Data or code? The code" in said
        assert "Where only one seed was trained" in said
        assert "only one seed" not in text(problem, grid({200: 0.0}, {200: 0.9}, seeds=2))


class TestRowsOrSteps:
    def test_rows_and_steps_are_told_apart(self, problem, grid, outcome):
        outcomes = grid({}, {20: 0.1, 200: 0.9})
        outcomes |= {Trial("recipe", 20, seed, as_rows=200): outcome(0.1, seed) for seed in range(3)}
        said = text(problem, outcomes, ("recipe",))
        assert "recipe, rows or steps? The rows matter; more steps on few rows do not replace them" in said

    def test_steps_that_do_it_alone(self, problem, grid, outcome):
        outcomes = grid({}, {20: 0.0, 200: 0.9})
        outcomes |= {Trial("recipe", 20, seed, as_rows=200): outcome(0.9, seed) for seed in range(3)}
        assert "recipe, rows or steps? The steps matter; more rows add nothing" in text(problem, outcomes, ("recipe",))

    def test_code_that_broke_is_not_called_worse_than_code_that_learned_nothing(self, problem, grid):
        said = text(problem, grid({20: 0.0, 200: 0.0}, {20: -3.0, 200: -3.0}))
        assert "Data or code? Cannot tell: neither posted nor recipe surely beats the constant predictor" in said

    def test_arms_that_change_places_are_told(self, problem, grid):
        said = text(problem, grid({20: 0.3, 200: 0.9}, {20: 0.9, 200: 0.5}))
        assert "Not the code: recipe is worse than posted; more rows help" in said
        assert "at 20 rows it is the other way round: recipe is 0." in said

    def test_rows_that_help_without_reaching_the_constant_predictor_are_said_to(self, problem, grid):
        said = text(problem, grid({20: -0.6, 200: -0.2}, {20: 0.5, 200: 0.9}))
        assert "The code: more rows alone do not bring posted below the constant predictor" in said
        assert "going from 20 to 200 rows makes posted 0." in said


class TestCurves:
    def test_a_size_that_failed_above_one_that_learned_is_not_called_unsure(self, problem, grid):
        """Large runs sometimes fail to start: the sizes below did beat the constant predictor all the same."""
        said = text(problem, grid({}, {20: 0.5, 60: 0.8, 200: 0.0}), ("recipe",))
        assert "at 20 and 60 rows it beats the constant predictor, but not at every larger size" in said
        assert "at 200 rows it is not better than the constant predictor" in said
        assert "recipe: at 200 rows it is" in said
        assert "worse" in said
        assert (
            "Twice the data (400 rows)? Cannot tell: recipe does not surely beat the constant predictor at 200 rows"
            in said
        )

    def test_a_curve_that_rises_is_not_continued(self, problem, grid):
        said = text(problem, grid({}, {20: 1.2, 60: 0.9, 200: 0.6}), ("recipe",))
        assert "Twice the data (400 rows)? Cannot tell: recipe's log loss rises up to 200 rows." in said
        assert "failed to start" not in said  # three seeds say the same
        one = text(problem, grid({}, {20: 1.2, 60: 0.9, 200: 0.05}, seeds=1), ("recipe",))
        assert "More seeds would tell whether this run failed to start" in one
        extra = text(replace(problem, blocks=(60,)), grid({}, {20: 1.2, 60: 0.9, 200: 0.6}), ("recipe",))
        assert "The rows of the extra files may be of another kind" in extra

    def test_the_curve_keeps_its_flat_beginning_and_leaves_out_rows_of_extra_files_and_diverged_trials(
        self, problem, grid, diverged
    ):
        outcomes = grid({}, {10: 0.0, 20: 0.3, 40: 0.6, 80: 0.8, 160: 0.85})
        outcomes[Trial("recipe", 40, 3)] = diverged
        law = fit_curves(results_table(problem, outcomes), ("recipe",), 1.098, own_rows=80)["recipe"]
        assert law.sizes.tolist() == [10, 20, 40, 80]
        assert len(law.losses) == 12

    def test_a_curve_that_falls_is_continued_to_twice_its_rows_and_no_further(self, problem, grid):
        sharpness = {10: 0.1, 20: 0.2, 40: 0.3, 80: 0.4, 160: 0.5}
        said = text(problem, grid({}, sharpness), ("recipe",))
        begins = r"Twice the data \(320 rows\) would lower recipe's log loss by 0\.(\d{3})"
        best, least, most = map(int, re.search(begins + r" \(90 %: 0\.(\d{3}) to 0\.(\d{3})\), to", said).groups())
        assert 0 < least < best < most
        assert "More than 2 times 160 rows: not tested that far." in said
        assert "recipe: another sample of validation rows could shift its whole curve by 0." in said

    def test_a_curve_that_has_come_to_rest_is_told_from_one_that_cannot_be_told(self, problem, grid):
        flat = grid({}, dict.fromkeys((10, 20, 40, 80, 160), 0.6))
        assert "Twice the data (320 rows) would bring recipe less than 0.005 nats (90 %)" in text(
            problem, flat, ("recipe",)
        )
        wild = grid({}, {10: 0.9, 20: 0.5, 40: 0.9, 80: 0.5, 160: 0.95})
        unsure = r"\(320 rows\)\? Cannot tell: it may (lower|raise) recipe's log loss by 0\.\d{3} \(90 %: from"
        assert re.search(unsure, text(problem, wild, ("recipe",)))

    def test_what_the_curve_foretold_of_its_largest_size_is_said(self, problem, grid):
        said = text(problem, grid({}, {10: 0.1, 20: 0.2, 40: 0.3, 80: 0.4}), ("recipe",))
        span = r"(± 0\.\d+|\(\d\.\d+ to \d\.\d+\))"
        assert re.search(rf"recipe: from 40 rows it would have said \d\.\d+ {span} for 80; measured \d\.\d+[.,]", said)
        three = text(problem, grid({}, {10: 0.1, 20: 0.2, 40: 0.3}), ("recipe",))
        assert "recipe: whether its curve foretells more rows was not tested; that needs four sizes." in three

    def test_diverged_trials_are_counted_with_their_sizes(self, problem, outcome, diverged):
        outcomes = {Trial("posted", 50, 0): diverged, Trial("posted", 50, 1): outcome(0.0)}
        assert "1 of its 2 trials diverged (NaN), at 50 rows" in text(problem, outcomes, ("posted",))
        lost = text(problem, {Trial("posted", 50, 0): diverged, Trial("recipe", 50, 0): outcome(0.9)})
        assert (
            "posted: no trial for its own epochs gave a result, so nothing can be told. 1 of its 1 trials diverged"
            in lost
        )
        assert "Run why_is_it_not_learning" in lost

    def test_an_arm_and_sizes_that_were_not_trained_are_named(self, problem, grid):
        trials = [Trial(arm, rows, 0) for arm in BOTH for rows in (20, 60, 200)]
        said = text(problem, grid({}, {20: 0.5, 60: 0.8}), BOTH, trials)
        assert "posted: no trial for its own epochs gave a result" in said
        assert "Not trained: posted at 20, 60 and 200 rows; recipe at 200 rows." in said
        assert "Not trained" not in text(problem, grid({20: 0.5}, {20: 0.5}), BOTH, trials[:1])

    def test_a_run_that_broke_late_counts_with_its_best_evaluation_everywhere(self, problem, grid):
        outcomes = grid({}, {10: 0.1, 20: 0.2, 40: 0.3, 80: 0.4})
        for seed in range(3):
            one = outcomes[Trial("recipe", 80, seed)]
            lost = np.full_like(one.probabilities, np.nan)
            one.probabilities, one.at = np.concatenate([one.probabilities, lost]), [1, 2]
        said = text(problem, outcomes, ("recipe",))
        assert "3 of its 12 trials diverged (NaN), at 80 rows" in said
        assert "Twice the data (160 rows)" in said

    @pytest.mark.parametrize(("blocks", "why"), [((), "diverged"), ((40,), "hold rows of extra files")])
    def test_rows_that_were_trained_are_not_foretold(self, problem, grid, diverged, blocks, why):
        outcomes = grid({}, {10: 0.1, 20: 0.2, 40: 0.3}) | {Trial("recipe", 80, 0): diverged}
        if blocks:
            outcomes |= grid({}, {80: 0.4})
        said = text(replace(problem, blocks=blocks), outcomes, ("recipe",))
        assert f"Twice the data (80 rows)? Cannot tell: recipe's trials at 80 rows {why}" in said
        assert "Next: twice the rows" not in said

    def test_a_loss_that_rose_from_size_to_size_is_not_continued_even_with_one_seed(self, problem, grid):
        said = text(problem, grid({}, {10: 0.60, 20: 0.58, 40: 0.55, 80: 0.52}, seeds=1), ("recipe",))
        assert "Cannot tell: recipe's log loss rose from each size to the next" in said

    def test_nothing_finished_is_said_for_every_arm(self, problem):
        said = text(problem, {})
        assert said.count("nothing can be told") == 2
        assert "Data or code? Cannot tell" in said
