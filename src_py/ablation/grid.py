"""Run the planned trials until the time is up, on one GPU after the other or on all of them."""

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

import pandas as pd

from src_py.ablation.arms import has_levers
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import row_losses
from src_py.ablation.store import TrialStore
from src_py.ablation.trials import run_trial
from src_py.ablation.workers import Workers
from src_py.errors import InputError


def run_trials(
    problem: Problem,
    planned: pd.DataFrame,
    store: TrialStore,
    until: float,
    gpus: tuple[int, ...] = (),
    save_arm: str | None = "recipe",
    report=print,
) -> dict[str, str]:
    """Run what is planned, each trial stored as it ends; with several GPUs one trial on each.

    Before each trial its predicted minutes, corrected by how long the trials so far really took, must fit before
    `until` (a time of `time.time()`); a trial that does not is left out, which is reported.

    Args:
        planned: from `plan`.
        gpus: device numbers; with fewer than two, trials run in this process.
        save_arm: its model on the most rows is kept for the submission; None keeps none.

    Returns:
        Arms with a lever that could not be trained, and why; that is reported, and the other arms are trained.

    Raises:
        InputError: when an arm without a lever cannot be trained.
        RuntimeError: when the process of a GPU was killed.
    """
    rows = [(Trial(row.arm, row.rows, row.seed, row.as_rows), row) for row in planned.itertuples()]
    waiting = [trial for trial, row in rows if row.plan == "run"]
    minutes = {trial: row.minutes for trial, row in rows}
    pace, failed = _Pace(until), dict[str, str]()

    def finished(trial: Trial, outcome: Outcome, taken: float) -> None:
        pace.add(taken, minutes[trial])
        if save_arm:
            store.keep_largest_model(save_arm)
        losses, apart = row_losses(problem, outcome), problem.part(unseen=True)
        unseen = f" ({losses[apart].mean():.4f} on rows unlike the training rows)" if apart.any() else ""
        report(f"{trial}: log loss {losses[~apart].mean():.4f}{unseen}, {taken:.1f} min")

    with Workers(gpus, problem, store) as workers:
        running: dict[Future, tuple[Trial, int]] = {}
        while waiting or running:
            while waiting and workers.free:
                trial = waiting.pop(0)
                if trial.arm in failed:
                    continue
                if not pace.fits(minutes[trial]):
                    report(f"{trial}: left out, CFG.budget_minutes is used up")
                    continue
                save_model = trial.arm == save_arm and not trial.as_rows and trial.seed == 0
                number = workers.free.pop(0)
                running[workers.submit(number, _run_and_store, trial, save_model)] = (trial, number)
            for job in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                trial, number = running.pop(job)
                workers.free.append(number)
                try:
                    finished(trial, *_result(job, trial))
                except InputError as error:
                    if not has_levers(trial.arm):
                        raise
                    failed[trial.arm] = str(error)
                    report(f"{trial.arm}: left out. {error}")
    return failed


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


def _run_and_store(problem: Problem, store: TrialStore, trial: Trial, save_model: bool) -> tuple[Outcome, float]:
    begun = time.monotonic()
    outcome = run_trial(problem, trial, store.model_folder(trial) if save_model else None)
    store.save(trial, outcome)
    return outcome, (time.monotonic() - begun) / 60
