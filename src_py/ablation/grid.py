"""Run the planned trials until the time is up, on one GPU after the other or on all of them."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import pandas as pd

from src_py.ablation.results import row_losses
from src_py.ablation.store import TrialStore
from src_py.ablation.trials import Outcome, Problem, Trial, run_trial
from src_py.training.worker import die_with_parent


def run_trials(
    problem: Problem,
    planned: pd.DataFrame,
    store: TrialStore,
    until: float,
    gpus: tuple[int, ...] = (),
    save_arm: str | None = "recipe",
    report=print,
) -> None:
    """Run what is planned, each trial stored as it ends; with several GPUs one trial on each.

    Before each trial its predicted minutes, corrected by how long the trials so far really took, must fit before
    `until` (a time of `time.time()`); a trial that does not is left out, which is reported.

    Args:
        planned: from `plan`.
        gpus: device numbers; with fewer than two, trials run in this process.
        save_arm: its model on the most rows is kept for the submission; None keeps none.

    Raises:
        RuntimeError: when the process of a GPU was killed.
    """
    rows = [(Trial(row.arm, row.rows, row.seed, row.as_rows), row) for row in planned.itertuples()]
    waiting = [trial for trial, row in rows if row.plan == "run"]
    minutes = {trial: row.minutes for trial, row in rows}
    pace = _Pace(until)

    def finished(trial: Trial, outcome: Outcome, taken: float) -> None:
        pace.add(taken, minutes[trial])
        if save_arm:
            store.keep_largest_model(save_arm)
        report(f"{trial}: log loss {float(row_losses(problem, outcome).mean()):.4f}, {taken:.1f} min")

    with _Workers(problem, store, gpus) as workers:
        running: dict[Future, tuple[Trial, int]] = {}
        while waiting or running:
            while waiting and workers.free:
                trial = waiting.pop(0)
                if not pace.fits(minutes[trial]):
                    report(f"{trial}: left out, CFG.budget_minutes is used up")
                    continue
                save_model = trial.arm == save_arm and not trial.as_rows and trial.seed == 0
                number = workers.free.pop(0)
                running[workers.submit(number, trial, save_model)] = (trial, number)
            for job in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                trial, number = running.pop(job)
                workers.free.append(number)
                finished(trial, *_result(job, trial))


def _result(job: Future, trial: Trial) -> tuple[Outcome, float]:
    try:
        return job.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"The process that trained {trial} was killed from outside (often the machine's memory was full). Run the "
            "cell again: finished trials are kept."
        ) from error


class _Pace:
    """The minutes that are left, and how much longer than predicted trials take."""

    def __init__(self, until: float):
        self.until, self.taken, self.predicted = until, 0.0, 0.0

    def add(self, taken: float, predicted: float) -> None:
        self.taken, self.predicted = self.taken + taken, self.predicted + predicted

    def fits(self, minutes: float) -> bool:
        correction = max(1.0, self.taken / self.predicted) if self.predicted else 1.0
        return time.time() + 60 * minutes * correction <= self.until


class _Workers:
    """This process, or one process for each GPU; `free` holds the numbers of those that wait for a trial.

    Children are spawned: CUDA does not survive a fork.
    """

    def __init__(self, problem: Problem, store: TrialStore, gpus: tuple[int, ...]):
        self.problem, self.store, self.free = problem, store, list(range(max(1, len(gpus))))
        self.pools: list[ProcessPoolExecutor] = []
        self.processes: list = []
        for name in _device_names(gpus) if len(gpus) > 1 else ():
            # A spawned process imports this module, and torch with it, before the initializer runs, and an import may
            # ask CUDA for its devices: the variable has to be there when the process starts, at the first submit.
            before = multiprocessing.active_children()
            with _environment("CUDA_VISIBLE_DEVICES", name):
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(1, context, initializer=_begin_worker, initargs=(problem, store))
                pool.submit(os.getpid)
            self.pools.append(pool)
            self.processes += [child for child in multiprocessing.active_children() if child not in before]

    def __enter__(self):
        return self

    def __exit__(self, kind, *error) -> None:
        if kind:  # the notebook's stop button, too: a trial may take an hour
            for process in self.processes:
                process.terminate()
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def submit(self, number: int, trial: Trial, save_model: bool) -> Future:
        if self.pools:
            return self.pools[number].submit(_work, trial, save_model)
        done: Future = Future()
        done.set_result(_run_and_store(self.problem, self.store, trial, save_model))
        return done


def _device_names(gpus: tuple[int, ...]) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls the GPUs of this process, which may itself see only some."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [visible[gpu] if gpu < len(visible) else str(gpu) for gpu in gpus]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the processes that are started meanwhile."""
    old = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old


_WORKER: dict = {}  # what a worker process was started with


def _begin_worker(problem: Problem, store: TrialStore) -> None:
    die_with_parent()
    _WORKER.update(problem=problem, store=store)


def _work(trial: Trial, save_model: bool) -> tuple[Outcome, float]:
    return _run_and_store(_WORKER["problem"], _WORKER["store"], trial, save_model)


def _run_and_store(problem: Problem, store: TrialStore, trial: Trial, save_model: bool) -> tuple[Outcome, float]:
    begun = time.monotonic()
    outcome = run_trial(problem, trial, store.model_folder(trial) if save_model else None)
    store.save(trial, outcome)
    return outcome, (time.monotonic() - begun) / 60
