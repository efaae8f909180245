"""Levers: arms with them, rows of a kind held out, and what each lever is worth."""

from dataclasses import fields, replace

import numpy as np
import pytest

from src_py.ablation.arms import KINDS, REPAIRS, label, lever_arm, parse_arm, submission_arm
from src_py.ablation.grid import run_trials
from src_py.ablation.grid_settings import GridSettings, apply_preset
from src_py.ablation.holdout import hold_out, split_rows
from src_py.ablation.lever_results import answer_levers, lever_table, plot_levers
from src_py.ablation.levers import LEVERS, NEEDS
from src_py.ablation.results import baselines, compare, curve_table, repair_table, results_table
from src_py.ablation.schedule import choose_levers, choose_sizes, list_trials, plan, time_trials
from src_py.ablation.settings import reading_of
from src_py.ablation.store import TrialStore
from src_py.ablation.trials import Problem, Trial, _rows, run_trial, steps_of
from src_py.errors import InputError
from src_py.model import predict_saved
from src_py.pairs import prompt_key


class TestArms:
    def test_every_lever_sets_what_there_is(self):
        known = {field.name for kind in KINDS for field in fields(kind)}
        assert set(NEEDS) >= {lever.needs for lever in LEVERS.values()} - {""}
        for name, lever in LEVERS.items():
            assert set(lever.changes) <= known
            assert dict(parse_arm(lever_arm(name)).changes) == lever.changes

    def test_levers_settings_and_repairs_mix(self):
        arm = parse_arm("recipe-frozen+cls_pooling+lr=1e-5+encoder_dropout=-1")
        assert arm.repairs == set(REPAIRS) - {"frozen"}
        assert dict(arm.changes) == {"pooling": "cls", "lr": 1e-5, "encoder_dropout": -1.0}
        assert arm.base == "recipe-frozen"
        assert label(arm.name) == "recipe without frozen, with cls_pooling and lr=1e-5 and encoder_dropout=-1"
        assert parse_arm("posted+batch").base == "posted+batch"

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("recipe+poolin=cls", "sets poolin, which no arm can change; did you mean 'pooling'"),
            ("recipe+pooling=best", "in 'recipe.pooling=best', pooling is 'best'; use one of"),
            ("recipe+epochs=many", "epochs must be a number"),
            ("recipe+layer_decay=2", "layer_decay is 2.0; it must be"),
            ("recipe+cls_pooling+pooling=mean", "sets pooling twice"),
            ("recipe+save_fp16=no", "which no arm can change"),
            ("recipe+magic", "is not an arm; write posted, recipe.*recipe.LEVER"),
            ("posted+lora", "is not an arm"),
            ("recipe+style=joint+names", r"in 'recipe.style=joint.names', names_loss needs CFG.style = 'pairwise'"),
            ("recipe-pairwise+network_head", "head needs CFG.style = 'pairwise'"),
            ("recipe+features_alone+lora", "lora_rank trains the encoder"),
            ("recipe-frozen+lora", "set CFG.freeze_embeddings to True"),
        ],
    )
    def test_what_is_no_lever_is_one_sentence(self, name, sentence):
        with pytest.raises(InputError, match=sentence):
            GridSettings(arms=(name,))

    @pytest.mark.parametrize(
        ("one", "other"),
        [("epochs=3", "epochs=3.0"), ("lora", "lora_rank=16"), ("ema+cosine", "cosine+ema"), ("lr=1e-5", "lr=0.00001")],
    )
    def test_an_arm_in_two_forms_is_one(self, one, other):
        with pytest.raises(InputError, match=r"CFG\.levers has .* which train the same"):
            GridSettings(preset="levers", levers=(one, "names", other))
        with pytest.raises(InputError, match=r"CFG\.arms has .* which train the same"):
            GridSettings(arms=("recipe", f"recipe+{one}", f"recipe+{other}"))
        GridSettings(arms=(f"recipe+{one}", f"recipe+{one}+two_seeds", f"recipe-batch+{one}"))

    def test_counts_are_part_of_the_recipe_and_not_of_the_posted_settings(self, problem):
        """What they bring is measured by adding or taking them."""
        names = ("recipe", "recipe-features", "recipe+features_off", "posted", "posted+features", "recipe-pairwise")
        found = {name: reading_of(parse_arm(name), problem.settings, problem.model_dir).features for name in names}
        assert list(found.values()) == ["on", "off", "off", "off", "on", "on"]
        assert parse_arm("recipe+features=on").trains == parse_arm("recipe").trains
        assert parse_arm("recipe-features").trains == parse_arm("recipe+features=off").trains
        with pytest.raises(InputError, match=r"'features=on' is what the recipe does; .*'features_off'"):
            GridSettings(preset="levers", levers=("features=on", "lora"))
        with pytest.raises(InputError, match=r"CFG\.arms has 'recipe' and 'recipe.features=on', which train"):
            GridSettings(arms=("recipe", "recipe+features=on"))

    def test_an_average_of_models_cannot_be_the_submission(self):
        assert submission_arm(("recipe", "recipe+two_seeds")) == "recipe"
        assert submission_arm(("recipe", "recipe+ema")) == "recipe+ema"


class TestTrials:
    @pytest.mark.slow
    def test_a_setting_changes_what_is_trained_and_how_long(self, problem):
        assert steps_of(Trial("recipe+epochs=3+batch_size=4", 80, 0), problem.settings) == 60
        plain, other = (run_trial(problem, Trial(f"recipe{end}", 16, 0)) for end in ("", "+layer_decay=0.5"))
        assert np.abs(plain.probabilities - other.probabilities).max() > 1e-6

    @pytest.mark.slow
    def test_two_seeds_are_averaged_on_the_same_rows(self, problem):
        first, both = (run_trial(problem, Trial(f"recipe{end}", 16, 0)) for end in ("", "+two_seeds"))
        other = 2 * both.probabilities - first.probabilities
        assert np.abs(other - first.probabilities).max() > 1e-6
        np.testing.assert_allclose(other.sum(2), 1, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("end", ["", "+features_off", "+longer_prediction", "+last4_pooling+ema", "+style=joint"])
    def test_a_saved_model_predicts_as_its_trial_did(self, problem, tmp_path, end):
        outcome = run_trial(problem, Trial(f"recipe{end}", 16, 0), tmp_path / "model")
        predicted = predict_saved([tmp_path / "model"], problem.valid, problem.classes)
        assert (outcome.blind is not None) == ("features_off" not in end)
        if "joint" not in end:  # predicted in both orders there
            np.testing.assert_allclose(predicted, outcome.probabilities[-1], atol=1e-5)

    def test_other_arms_learn_from_hard_labels_and_their_own_rows(self, problem):
        rows = len(problem.train)
        soft = [[0.2, 0.3, 0.5]] * rows
        taught = problem.train.assign(soft=soft, soft_weight=0.5, model_a="x", model_b="y")
        more = problem.train.iloc[:5]
        pseudo = more.assign(soft=soft[:5], soft_weight=1.0)
        full = replace(problem, train=taught, added={"extra": more, "pseudo": pseudo})
        made = {
            end: _rows(full, Trial(f"recipe{end}", 16, 0), parse_arm(f"recipe{end}"))
            for end in ("", "+soft_labels", "+pseudo_labels", "+extra_rows", "+names_loss=0.1")
        }
        extra = {"soft", "soft_weight", "model_a", "model_b"}
        assert {end: set(table) & extra for end, table in made.items()} == {
            "": set(),
            "+soft_labels": {"soft", "soft_weight"},
            "+pseudo_labels": {"soft", "soft_weight"},
            "+extra_rows": set(),
            "+names_loss=0.1": {"model_a", "model_b"},
        }
        assert [len(table) for table in made.values()] == [16, 16, 21, 21, 16]
        assert made["+pseudo_labels"]["soft_weight"].tolist() == [0.0] * 16 + [1.0] * 5
        assert np.isnan(made["+pseudo_labels"]["soft"].iloc[0]).all()
        assert full.key() != problem.key()

    @pytest.mark.slow
    def test_a_teacher_and_further_rows_are_learned_from(self, problem):
        soft = [[0.2, 0.3, 0.5]] * len(problem.train)
        taught = problem.train.assign(soft=soft, soft_weight=0.5)
        full = replace(problem, train=taught, added={"pseudo": taught.iloc[:5].assign(soft_weight=1.0)})
        plain, *others = (
            run_trial(full, Trial(f"recipe{end}", 16, 0)).probabilities
            for end in ("", "+soft_labels", "+pseudo_labels", "+soft_labels+pseudo_labels")
        )
        assert min(np.abs(other - plain).max() for other in others) > 1e-6

    def test_what_the_rows_lack_is_one_sentence(self, problem):
        with pytest.raises(InputError, match=r"name their file in CFG\.soft_labels"):
            run_trial(problem, Trial("recipe+soft_labels", 16, 0))
        with pytest.raises(InputError, match=r"name their files in CFG\.pseudo_files"):
            choose_levers(problem, ("pseudo_labels",))
        assert "soft_labels" not in choose_levers(problem, ())
        assert "features_off" in choose_levers(problem, ())


class TestHoldout:
    @pytest.mark.parametrize("holdout", ["topic", "length"])
    def test_whole_groups_are_held_out(self, pairs, holdout):
        rows = split_rows(pairs, 5, 30, holdout, seed=0)
        apart = hold_out(pairs, holdout, seed=0)
        assert 0.05 < apart.mean() < 0.4
        assert set(prompt_key(pairs[apart])).isdisjoint(prompt_key(pairs[~apart]))
        assert set(rows.valid["id"][rows.unseen]) <= set(pairs["id"][apart])
        assert set(rows.train["id"]) == set(pairs["id"][~rows.held])
        assert set(rows.valid["id"]) <= set(pairs["id"][rows.held])
        assert rows.unseen.sum() <= 30

    def test_without_a_group_there_is_one_kind_of_rows(self, pairs):
        rows = split_rows(pairs, 5, 1000, "none", seed=0)
        assert rows.unseen is None
        assert len(rows.train) + len(rows.valid) == len(pairs)


@pytest.fixture
def parted(problem) -> Problem:
    """Every third validation row is of a kind held out."""
    return replace(problem, unseen=np.arange(len(problem.valid)) % 3 == 2)


def test_a_lever_takes_no_repair_from_the_recipe():
    """It would be trained and then compared with trials that there are not."""
    with pytest.raises(InputError, match=r"CFG\.levers: 'cosine-frozen' also takes a repair"):
        GridSettings(preset="levers", levers=("ema", "cosine-frozen"))
    GridSettings(preset="levers", levers=("lora+ema", "encoder_dropout=-1"))


class TestPlan:
    def test_every_lever_comes_before_the_next_seed(self):
        grid = apply_preset(GridSettings(preset="levers", levers=("lora", "ema"), seeds=2))
        assert grid.holdout == "topic"
        sizes = choose_sizes(grid, 500, {})
        trials = list_trials(grid.arms, grid.repairs, sizes, grid.seeds, grid.control, grid.levers)
        arms = ["recipe", "recipe+lora", "recipe+ema"]
        assert [(trial.arm, trial.rows, trial.seed) for trial in trials] == [(a, 500, s) for s in (0, 1) for a in arms]
        assert choose_sizes(apply_preset(replace(grid, lever_rows=200)), 500, {}) == (200,)
        assert apply_preset(GridSettings()) == replace(GridSettings(), holdout="none")

    @pytest.mark.slow
    def test_two_models_take_twice_the_time(self, problem):
        trials = [Trial("recipe", 240, 0), Trial("recipe+two_seeds", 240, 0)]
        minutes = time_trials(problem, trials)
        assert minutes[trials[1]] == 2 * minutes[trials[0]]

    @pytest.mark.slow
    def test_a_lever_that_cannot_be_trained_is_left_out(self, problem, tmp_path):
        trials = [Trial(arm, 16, seed) for seed in (0, 1) for arm in ("recipe+freeze_layers=99", "recipe")]
        lines, store = [], TrialStore(tmp_path, problem)
        minutes = time_trials(problem, trials)
        failed = run_trials(problem, plan(trials, minutes, 1e6, set()), store, 1e12, report=lines.append)
        assert list(failed) == ["recipe+freeze_layers=99"]
        assert len(lines) == 3
        assert [trial.arm for trial in store.outcomes(trials)] == ["recipe", "recipe"]
        assert store.path(Trial("recipe+lr=1e-5", 8, 0)).name.endswith("_recipe+lr=1e-5_8_0_0.npz")


class TestResults:
    def test_rows_like_the_training_rows_are_told_from_the_others(self, parted, outcome):
        made = outcome(0.5)
        made.probabilities[:, parted.unseen] = 1 / 3
        table = results_table(parted, {Trial("recipe", 50, 0): made})
        assert table["unseen_log_loss"].item() == pytest.approx(np.log(3))
        assert table["log_loss"].item() < 1.05
        both = [baselines(parted, unseen=part)["constant predictor"] for part in (False, True)]
        assert sum(map(len, both)) == len(parted.valid)
        groups = ("recipe", 50, 0), ("recipe", 50, 0)
        assert compare(parted, {Trial("recipe", 50, 0): made}, *groups, unseen=True).gain == 0

    def test_the_table_has_both_gains_and_a_verdict(self, parted, outcome):
        sharp = {"recipe": 0.4, "recipe+reinit": 0.9, "recipe+ema": 0.4, "recipe+lora": -0.3}
        outcomes = {Trial(arm, 50, seed): outcome(x, seed) for arm, x in sharp.items() for seed in range(3)}
        outcomes[Trial("recipe+cosine", 50, 0)] = outcome(0.9)
        for trial, made in outcomes.items():
            made.memory_gb = 2.0 if "lora" in trial.arm else 5.0
        table = lever_table(parted, outcomes).set_index("lever")
        assert table["verdict"].to_dict() == {
            "reinit": "better",
            "ema": "no difference seen",
            "lora": "worse",
            "cosine": "cannot tell",
        }
        assert set(table["unseen verdict"]) <= {"better", "worse", "no difference seen", "cannot tell"}
        assert table.loc["lora", ["memory GB", "memory GB without"]].tolist() == [2, 5]
        assert repair_table(parted, outcomes).empty
        assert plot_levers(lever_table(parted, outcomes)) is not None
        assert plot_levers(lever_table(parted, {})) is None

    def test_without_a_group_or_a_gpu_their_columns_are_absent(self, problem, outcome):
        outcomes = {Trial(arm, 50, 0): outcome(0.5) for arm in ("recipe", "recipe+ema")}
        columns = set(lever_table(problem, outcomes))
        assert not {name for name in columns if "unseen" in name or "memory" in name}

    def test_the_answer_says_what_helps_and_what_was_not_measured(self, parted, outcome):
        outcomes = {
            Trial(arm, 50, seed): outcome(x, seed)
            for arm, x in {"recipe": 0.4, "recipe+reinit": 0.9, "recipe+ema": 0.4}.items()
            for seed in range(3)
        }
        trials = [*outcomes, Trial("recipe+names", 50, 0), Trial("recipe+lora", 50, 0)]
        tables = results_table(parted, outcomes), curve_table(parted, outcomes)
        said = str(answer_levers(parted, outcomes, *tables, trials, {"recipe+lora": "It needs peft."}))
        assert "On rows like the training rows, better than the recipe: reinit by 0." in said
        assert "no difference seen (the interval includes zero): ema." in said
        assert "On rows of a kind that training has not seen" in said
        assert "Not measured: names." in said
        assert "Left out: lora. It needs peft." in said
