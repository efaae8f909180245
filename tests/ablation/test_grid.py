"""Running the plan: stored as it ends, within its time, killed and resumed, on several GPUs."""

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from src_py.ablation import grid, workers
from src_py.ablation.adaptive import ask
from src_py.ablation.grid import run_trials
from src_py.ablation.grid_settings import GridSettings
from src_py.ablation.results import results_table, row_losses
from src_py.ablation.schedule import BEYOND, list_trials, plan
from src_py.ablation.store import TrialStore
from src_py.ablation.trials import Problem, Trial

LATER = 1e12  # far in the future


def planned(trials: list[Trial], done=frozenset()) -> pd.DataFrame:
    return plan(trials, dict.fromkeys(trials, 0.01), 1e6, set(done))


def _silent(line: str) -> None:
    pass


def _trials() -> list[Trial]:
    return list_trials(("posted", "recipe"), (), (8, 16, 32), seeds=1, control=True)


def _run(folder: Path, problem: Problem) -> None:
    store, question = TrialStore(folder, problem), ask(problem, GridSettings(), (8, 16, 32))
    assert question
    done = store.outcomes(_trials())
    run_trials(problem, planned(_trials(), done), store, LATER, question=question, report=_silent)


def _table(folder: Path, problem: Problem) -> pd.DataFrame:
    return results_table(problem, TrialStore(folder, problem).outcomes(_trials())).drop(columns="minutes")


def test_every_line_names_its_trial_and_the_largest_model_is_kept(problem, tmp_path):
    trials = [Trial("recipe", rows, 0) for rows in (8, 16)] + [Trial("recipe", 8, 0, as_rows=16), Trial("posted", 8, 0)]
    store, lines = TrialStore(tmp_path, problem), []
    run_trials(problem, planned(trials), store, LATER, report=lines.append)
    assert [line.partition(": log loss")[0] for line in lines] == [str(trial) for trial in trials]
    assert [path.name for path in (tmp_path / "trained").iterdir()] == [f"{store.keys['']}_recipe_00000016"]
    assert list(store.outcomes(trials)) == trials


def test_a_trial_that_does_not_fit_the_time_is_left_out_by_its_full_name(problem, tmp_path):
    trials = [Trial("recipe", 8, 0), Trial("recipe", 8, 0, as_rows=16)]
    lines = []
    run_trials(problem, planned(trials), TrialStore(tmp_path, problem), time.time(), report=lines.append)
    assert lines == [f"Left out, since CFG.budget_minutes is used up: {trials[0]}; {trials[1]}."]
    run_trials(problem, planned(trials), TrialStore(tmp_path, problem), time.time(), report=_silent, warn=lines.append)
    assert lines[1:] == lines[:1], "apart from the trials that ended, where that is asked for"
    assert not list((tmp_path / "trials").glob("*.npz"))


def test_the_question_sees_earlier_results_and_may_choose_what_is_beyond_the_budget(problem, tmp_path, outcome):
    class Last:
        """Chooses the last trial, and keeps what it was given."""

        asked: ClassVar = []

        def choose(self, waiting, losses, minutes):
            self.asked.append((list(waiting), dict(losses)))
            return waiting[-1]

    trials = [Trial("recipe", 8, seed) for seed in range(3)]
    store = TrialStore(tmp_path, problem)
    store.save(trials[0], outcome(0.5))
    one = plan(trials, dict.fromkeys(trials, 0.01), 0.05, {trials[0]})
    one.loc[2, "plan"] = BEYOND
    lines = []
    run_trials(problem, one, store, LATER, question=Last(), report=lines.append)
    (waiting, losses), (left, later) = Last.asked
    assert (waiting, left) == (trials[1:], [trials[1]])
    assert set(losses) == {trials[0]}
    assert set(later) == {trials[0], trials[2]}
    assert losses[trials[0]] == pytest.approx(row_losses(problem, outcome(0.5)).mean())
    assert [line.partition(":")[0] for line in lines] == [str(trials[2]), str(trials[1])]


def test_a_trial_that_diverged_has_no_log_loss_in_its_line(problem, outcome, diverged):
    assert grid._told(problem, diverged, grid._loss(problem, diverged)) == "diverged (NaN)"
    assert grid._told(problem, outcome(0.5), 1.0) == "log loss 1.0000"


def test_trials_that_took_longer_than_predicted_make_the_rest_careful():
    pace = grid._Pace(time.time() + 600)
    assert pace.fits(6)
    pace.add(taken=4.0, predicted=1.0)
    assert pace.fits(2)
    assert not pace.fits(6)


@pytest.mark.slow
def test_a_worker_sees_its_gpu_from_its_first_moment(problem, tmp_path, monkeypatch):
    """`/proc/self/environ` is the environment that a process was started with, before any import."""
    if not Path("/proc/self/environ").is_file():
        pytest.skip("needs Linux")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with workers.Workers((0, 1), problem, TrialStore(tmp_path, problem)) as two:
        jobs = [pool.submit(Path.read_bytes, Path("/proc/self/environ")) for pool in two.pools]
        found = [job.result().split(b"\0") for job in jobs]
        assert [variables.count(b"CUDA_VISIBLE_DEVICES=" + name) for variables, name in zip(found, (b"5", b"7"))] == [
            1,
            1,
        ]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7"


def test_without_a_restriction_gpus_keep_their_numbers(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers._device_names((0, 1)) == ["0", "1"]
    with workers._environment("CUDA_VISIBLE_DEVICES", "1"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_ends_the_others(problem, tmp_path):
    two = workers.Workers((0, 1), problem, TrialStore(tmp_path, problem))
    lost, other = (pool.submit(time.sleep, 600) for pool in two.pools)
    two.processes[0].kill()
    with pytest.raises(RuntimeError, match="recipe, 8 rows, seed 0 was killed from outside"), two:
        grid._result(lost, Trial("recipe", 8, 0))
    assert not any(process.is_alive() for process in two.processes)
    assert other.exception() is not None


@pytest.mark.slow
def test_two_workers_give_what_a_single_process_gives(problem, tmp_path):
    trials = [Trial("recipe", rows, 0) for rows in (8, 16, 24)]
    stores = [TrialStore(tmp_path / name, problem) for name in ("one", "two")]
    for store, gpus in zip(stores, ((), (0, 1))):
        run_trials(problem, planned(trials), store, LATER, gpus=gpus, report=_silent)
    for trial in trials:
        alone, beside = (store.load(trial).probabilities for store in stores)
        np.testing.assert_allclose(alone, beside, atol=1e-6)
    assert [path.name for path in (tmp_path / "two/trained").iterdir()] == [f"{stores[1].keys['']}_recipe_00000024"]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_the_table_is_that_of_an_undisturbed_run(problem, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["src_py.ablation.grid"])
    _run(tmp_path / "undisturbed", problem)
    moments, kills, folder = random.Random(0), 0, tmp_path / "killed"
    while True:
        run = context.Process(target=_run, args=(folder, problem))
        run.start()
        run.join(moments.uniform(0.3, 3.0) if kills < 10 else None)
        if run.exitcode is None:
            run.kill()
            run.join()
            kills += 1
        elif kills < 10:  # a fast machine: it ended before it could be killed
            assert run.exitcode == 0
            shutil.rmtree(folder)
        else:
            assert run.exitcode == 0
            break
    assert len(list((folder / "trials").glob("*.npz"))) == len(_trials())
    pd.testing.assert_frame_equal(_table(folder, problem), _table(tmp_path / "undisturbed", problem))
