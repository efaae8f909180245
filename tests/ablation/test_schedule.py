"""Which trials there are, in which order, and which fit the time."""

import shutil
import time

import pytest
import torch

from src_py.ablation.grid_settings import GridSettings, apply_preset, find_encoders, list_next_arms
from src_py.ablation.schedule import (
    choose_sizes,
    describe_budget,
    list_trials,
    minutes_left,
    plan,
    plan_table,
    time_trials,
)  # fmt: skip
from src_py.ablation.trials import Trial
from src_py.config import check_config
from src_py.errors import InputError


def check(**changes) -> GridSettings:
    """As the notebook's check cell does, with lists for tuples."""
    values = vars(GridSettings()) | changes
    user = type("CFG", (), {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()})
    return check_config(user, GridSettings).part(GridSettings)


class TestSettings:
    def test_the_defaults_are_valid(self):
        assert check() == GridSettings()

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"arms": ["posted", "recipe-bath"]}, "'recipe-bath' is not an arm"),
            ({"arms": []}, "at least one arm"),
            ({"arms": ["recipe", "recipe"]}, "each once"),
            ({"repairs": ["bath"]}, "CFG.repairs"),
            ({"repairs": ["batch", "batch"]}, "each once"),
            ({"sizes": [0]}, "CFG.sizes"),
            ({"seeds": 0}, "CFG.seeds"),
            ({"smallest_share": 1.5}, "CFG.smallest_share"),
            (
                {"budget_minutes": 721},
                "ends a session after 720 minutes, and a notebook of a code competition after 540",
            ),
            ({"budget_minutes": 0}, "CFG.budget_minutes"),
            ({"next_steps": ["epochs"]}, "'epochs'; write 'epoch', or 'encoder=NAME'"),
            ({"next_steps": ["encoder="]}, "'encoder='; write 'epoch'"),
            ({"next_steps": ["epoch", "epoch"]}, "each once"),
            ({"next_steps": ["encoder=v3-large"]}, "a NAME of letters, digits"),
            ({"next_steps": ["encoder=large"], "arms": ["recipe", "posted"]}, "'posted', cannot have it"),
            ({"arms": ["recipe", "recipe+encoder=a/b"]}, "the encoder 'a/b'; write a part of its path"),
        ],
    )
    def test_a_grid_that_cannot_be_is_refused_before_data_is_read(self, changes, sentence):
        with pytest.raises(InputError, match=sentence):
            check(**changes)

    def test_a_budget_above_that_of_a_code_competition_is_said(self):
        assert "540 minutes is the limit of a code competition, 720 of a session" in describe_budget(480)
        assert "ended early" not in describe_budget(540)
        assert "ended early" in describe_budget(541)

    def test_more_rows_than_there_are_is_refused(self):
        assert choose_sizes(GridSettings(sizes=(10, 90)), 90, {}) == (10, 90)
        assert choose_sizes(GridSettings(sizes=(100, 10)), 90, {"more.csv": 120}) == (10, 100, 120)
        with pytest.raises(InputError, match="has 100, but there are 90 training rows"):
            choose_sizes(GridSettings(sizes=(10, 100)), 90, {})
        assert choose_sizes(GridSettings(n_sizes=3), 10_000, {}) == (100, 1000, 10_000)


class TestNextSteps:
    def test_they_are_the_last_arm_with_one_epoch_more_or_another_encoder(self):
        grid = GridSettings(next_steps=("encoder=large", "epoch"))
        assert list_next_arms(grid, 2.0) == ("recipe+encoder=large", "recipe+epochs=3")
        grid = GridSettings(arms=("posted", "recipe+lora+epochs=4"))
        assert list_next_arms(grid, 2.0) == ("recipe+lora+epochs=5",)

    @pytest.mark.parametrize("grid", [GridSettings(arms=("posted",)), apply_preset(GridSettings(preset="levers"))])
    def test_an_arm_without_such_a_setting_and_the_levers_have_none(self, grid):
        assert list_next_arms(grid, 2.0) == ()

    def test_they_are_trained_at_the_largest_size_with_each_seed(self):
        trials = list_trials(("posted", "recipe"), (), (10, 20), 2, True, next_arms=("recipe+epochs=3",))
        found = [trial for trial in trials if trial.arm == "recipe+epochs=3"]
        assert found == [Trial("recipe+epochs=3", 20, seed) for seed in range(2)]
        assert trials.index(found[0]) < trials.index(Trial("posted", 10, 0, as_rows=20))

    def test_an_arm_that_has_a_curve_anyway_is_not_trained_twice(self):
        arms = ("posted", "recipe+epochs=3", "recipe")
        trials = list_trials(arms, (), (10, 20), 1, False, next_arms=("recipe+epochs=3",))
        assert len(set(trials)) == len(trials) == 6

    def test_encoders_are_found_by_name_and_must_be_others(self, tiny, tmp_path):
        for name in ("base", "large"):
            shutil.copytree(tiny, tmp_path / f"deberta-{name}")
        grid = GridSettings(next_steps=("encoder=large",))
        base = tmp_path / "deberta-base"
        assert find_encoders(tmp_path, base, grid) == {"large": tmp_path / "deberta-large"}
        assert find_encoders(tmp_path, base, GridSettings()) == {}
        with pytest.raises(InputError, match=r"encoder in CFG.next_steps is 'huge', which matches no encoder below"):
            find_encoders(tmp_path, base, GridSettings(next_steps=("encoder=huge",)))
        with pytest.raises(InputError, match=r"encoder in CFG.arms is 'base', which is the encoder of CFG.model_dir"):
            find_encoders(tmp_path, base, GridSettings(arms=("recipe+encoder=base", "recipe")))


class TestPlan:
    def test_any_beginning_is_the_best_partial_answer(self):
        trials = list_trials(("posted", "recipe"), ("batch",), (10, 100, 1000), seeds=2, control=True)
        assert len(trials) == len(set(trials)) == 2 * (3 * 2 + 3 * 2 + 2) + 2 * 2 * 2
        curves = [(arm, rows) for rows in (10, 100, 1000) for arm in ("posted", "recipe")]
        assert [(trial.arm, trial.rows) for trial in trials[:6]] == curves
        assert all(trial.as_rows for trial in trials[6:12])
        assert trials[6].as_rows == 1000
        assert {trial.arm for trial in trials[12:14]} == {"posted+batch", "recipe-batch"}
        assert {trial.seed for trial in trials[:14]} == {0}
        assert {trial.seed for trial in trials[14:28]} == {1}

    def test_trials_are_planned_within_the_budget_and_none_takes_more_than_half(self):
        trials = [Trial("recipe", n, 0) for n in (1, 2, 3, 4, 5)]
        minutes = dict(zip(trials, (1.0, 45.0, 20.0, 20.0, 20.0)))
        planned = plan(trials, minutes, budget=80.0, done={trials[2]})
        assert planned["plan"].tolist() == ["run", "over half of the time", "done", "run", "run"]
        assert plan(trials, minutes, budget=80.0, done=set())["plan"].tolist()[2:] == ["run"] * 3
        tight = plan(trials, dict.fromkeys(trials, 20.0), budget=80.0, done=set())
        assert tight["plan"].tolist() == ["run"] * 4 + ["beyond the budget"]
        assert set(plan(trials, dict.fromkeys(trials, 20.0), budget=80.0, done=set(), workers=2)["plan"]) == {"run"}
        table = plan_table(planned)
        assert table["left out"].sum() == 1
        assert table["why"].iloc[1] == "over half of the time"

    def test_no_time_left_runs_nothing(self):
        trials = [Trial("recipe", 1, 0)]
        assert minutes_left(time.time() - 100) == 0
        assert plan(trials, {trials[0]: 1.0}, minutes_left(0.0), set())["plan"].tolist() == ["over half of the time"]

    def test_minutes_grow_with_rows_and_steps(self, problem):
        trials = [Trial("recipe", 24, 0), Trial("recipe", 240, 0), Trial("recipe", 24, 0, as_rows=240)]
        minutes = time_trials(problem, trials)
        assert minutes[trials[1]] == minutes[trials[2]] > minutes[trials[0]] > 0

    @pytest.mark.slow
    def test_with_several_gpus_nothing_is_timed_in_this_process(self, problem):
        """A training seeds the process that it runs in."""
        trials = [Trial("recipe", 24, 0), Trial("posted", 24, 0), Trial("recipe", 240, 0)]
        torch.manual_seed(12345)
        before = torch.get_rng_state()
        minutes = time_trials(problem, trials, gpus=(0, 1))
        assert torch.equal(torch.get_rng_state(), before)
        assert list(minutes) == trials
        assert minutes[trials[2]] > minutes[trials[0]] > 0
        time_trials(problem, trials[:1], gpus=(0,))
        assert not torch.equal(torch.get_rng_state(), before)

    def test_no_trials_take_no_time(self, problem):
        assert time_trials(problem, []) == {}

    def test_nothing_to_measure_is_refused(self):
        with pytest.raises(InputError, match="at least one"):
            list_trials(("recipe",), (), (), seeds=1, control=False)
