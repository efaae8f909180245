"""Which trial is run next: what narrows the question most for its minutes."""

import random
from dataclasses import replace

import numpy as np
import pytest

from src_py.ablation.adaptive import Question, _shares, ask
from src_py.ablation.curves import fit_curve
from src_py.ablation.grid_settings import GridSettings
from src_py.ablation.problem import Trial
from src_py.ablation.schedule import list_trials

ARMS, SIZES, CONSTANT = ("posted", "recipe"), (100, 200, 400, 800, 1600), 1.09
QUESTION = Question(ARMS, SIZES, CONSTANT)


def recipe(rows: float) -> float:
    return 0.8 + 0.25 * (rows / 100) ** -0.5


def run(loss, seeds: int = 3, control: bool = False, repairs=(), question: Question = QUESTION) -> list[Trial]:
    """The order in which trials run whose losses are those of `loss(trial, noise)`."""
    waiting = list_trials(ARMS, repairs, SIZES, seeds, control)
    minutes = {trial: 1 + (trial.as_rows or trial.rows) / 100 for trial in waiting}
    losses, order = {}, []
    while waiting:
        trial = question.choose(waiting, losses, minutes)
        waiting.remove(trial)
        order.append(trial)
        losses[trial] = loss(trial, np.random.default_rng([trial.rows, trial.seed]).normal(0, 0.004))
    return order


def learns(trial: Trial, noise: float) -> float:
    return (recipe(trial.rows) if trial.arm != "posted" else CONSTANT) + noise


def test_every_trial_runs_once_whatever_the_order():
    order = run(learns, seeds=2, control=True, repairs=("batch",))
    assert sorted(order, key=str) == sorted(list_trials(ARMS, ("batch",), SIZES, 2, True), key=str)


def test_it_begins_with_both_arms_at_small_sizes_and_then_the_last_arm_at_the_others():
    begun = [(trial.arm, trial.rows) for trial in run(learns, seeds=1)[:8]]
    assert begun[:6] == [(arm, rows) for rows in SIZES[:3] for arm in ARMS]
    assert begun[6:] == [("recipe", 800), ("recipe", 1600)]


def test_an_arm_that_surely_differs_is_not_trained_again_while_the_other_part_is_open():
    order = run(lambda trial, noise: learns(trial, 3 * noise), seeds=2)
    assert [trial.arm for trial in order[8:10]] == ["recipe"] * 2
    assert {trial.seed for trial in order[8:10]} == {1}


def test_a_verdict_of_a_single_model_at_the_largest_size_is_looked_at_again():
    order = run(learns, seeds=3)
    done = {trial: learns(trial, 0.0) for trial in order[:8]}
    assert QUESTION._fit("recipe", done).verdict == "better"
    assert Trial("recipe", 1600, 1) in order[8:14]
    law, again = QUESTION._fit("recipe", done), [("recipe", 1600)]
    assert not QUESTION._settled(law, True)
    assert QUESTION._settled(law, False)
    assert QUESTION._worth(again, done)
    assert not QUESTION._worth(again, done | {Trial("recipe", 1600, 1): recipe(1600)})


def test_control_and_repairs_wait_for_the_question_and_then_come_in_their_order():
    order = run(lambda trial, noise: learns(trial, 10 * noise), seeds=2, control=True, repairs=("batch",))
    assert not any(trial.as_rows or trial.arm not in ARMS for trial in order[:8])
    others = [trial for trial in order if trial.as_rows or trial.arm not in ARMS]
    fixed = [trial for trial in list_trials(ARMS, ("batch",), SIZES, 2, True) if trial in others]
    assert others == fixed


def test_the_choice_depends_on_what_is_known_and_not_on_the_order_in_which_it_was_found():
    """As after a kill: finished trials are read in another order."""
    waiting = list_trials(ARMS, (), SIZES, 3, False)
    minutes = {trial: 1 + trial.rows / 100 for trial in waiting}
    done = {trial: learns(trial, 0.001 * trial.seed) for trial in waiting if trial.seed == 0 or trial.rows == 100}
    left = [trial for trial in waiting if trial not in done]
    chosen = {
        QUESTION.choose(left, dict(random.Random(i).sample(list(done.items()), len(done))), minutes) for i in range(3)
    }
    assert len(chosen) == 1


def test_of_trials_that_tell_as_much_the_shorter_is_run():
    waiting = [Trial("recipe", 800, 1), Trial("recipe", 1600, 1)]
    done = {
        Trial(arm, rows, 0): learns(Trial(arm, rows, 0), 0.01 * (-1) ** n)
        for n, rows in enumerate(SIZES)
        for arm in ARMS
    }
    cheap = {chosen: {trial: 1.0 if trial == chosen else 1000.0 for trial in waiting} for chosen in waiting}
    assert all(QUESTION.choose(waiting, done, minutes) == chosen for chosen, minutes in cheap.items())


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_that_diverges_leaves_the_order_that_was_planned(arm):
    order = run(lambda trial, noise: np.nan if trial.arm == arm else learns(trial, noise), seeds=2)
    assert len(order) == 20


def test_one_arm_and_one_size_have_an_order_too():
    for arms, sizes in ((("recipe",), SIZES), (ARMS, (100,)), (("recipe",), (100, 200))):
        waiting = list_trials(arms, (), sizes, 2, False)
        minutes, losses = dict.fromkeys(waiting, 1.0), {}
        while waiting:
            trial = Question(arms, sizes, CONSTANT).choose(waiting, losses, minutes)
            waiting.remove(trial)
            losses[trial] = learns(trial, 0.001)


def test_a_model_at_the_size_asked_for_tells_more_than_one_far_from_it():
    rows = np.repeat(SIZES, 2)
    noise = np.random.default_rng(0).normal(0, 0.01, len(rows))
    law = fit_curve(rows, recipe(rows) + noise, CONSTANT)
    groups = [("recipe", 100), ("posted", 1600), ("recipe", 1600)]
    found = dict(_shares(law, law.draw([1600])[:, 0], "recipe", groups))
    assert set(found) == {0, 2}
    assert 0 <= found[0] < found[2] <= 1


def test_the_fixed_order_levers_and_rows_of_extra_files_are_no_part_of_the_question(problem):
    assert ask(problem, GridSettings(order="fixed"), (10, 20)) is None
    assert ask(problem, GridSettings(preset="levers"), (10, 20)) is None
    assert ask(problem, GridSettings(), (10, 20, 300)).sizes == (10, 20)
    assert ask(replace(problem, blocks=(15,)), GridSettings(), (10, 20)).sizes == (10,)
    assert ask(replace(problem, blocks=(5,)), GridSettings(), (10, 20)) is None
