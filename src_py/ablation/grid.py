"""Run the planned trials until the time is up, on one GPU after the other or on all of them."""

import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

import pandas as pd

from src_py.ablation.adaptive import Question
from src_py.ablation.arms import has_levers
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import row_losses
from src_py.ablation.schedule import BEYOND
from src_py.ablation.store import TrialStore
from src_py.ablation.trials import run_trial
from src_py.ablation.workers import Workers
from src_py.errors import InputError

NAMED = 4  # trials that a line names before it counts the rest


def run_trials(
    problem: Problem,
    planned: pd.DataFrame,
    store: TrialStore,
    until: float,
    gpus: tuple[int, ...] = (),
    save_arm: str | None = "recipe",
    question: Question | None = None,
    report: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Run what is planned, each trial stored as it ends; with several GPUs one trial on each.

    Before each trial its predicted minutes, corrected by how long the trials so far really took, must fit before
    `until` (a time of `time.time()`); a trial that does not is left out, which is reported.

    Args:
        planned: from `plan`.
        gpus: device numbers; with fewer than two, trials run in this process.
        save_arm: its model on the most rows is kept for the submission; None keeps none.
        report: takes a line about each trial that ended.
        warn: takes a line about those that will not be run; by default `report`.
        question: chooses the next trial from what the finished ones say, also among those beyond the budget, as far as
            time allows; None runs them in the order of `planned`.

    Returns:
        Arms with a lever that could not be trained, and why; that is reported, and the other arms are trained.

    Raises:
        InputError: when an arm without a lever cannot be trained.
        RuntimeError: when the process of a GPU was killed.
    """
    warn = warn or report
    rows = [(Trial(row.arm, row.rows, row.seed, row.as_rows), row) for row in planned.itertuples()]
    waiting = [trial for trial, row in rows if row.plan == "run" or (question and row.plan == BEYOND)]
    minutes = {trial: row.minutes for trial, row in rows}
    pace, failed, left_out = _Pace(until), dict[str, str](), list[Trial]()
    earlier = store.outcomes([trial for trial, row in rows if row.plan == "done"]) if question else {}
    losses = {trial: _loss(problem, outcome) for trial, outcome in earlier.items()}

    def finished(trial: Trial, outcome: Outcome, taken: float) -> None:
        pace.add(taken, minutes[trial])
        losses[trial] = _loss(problem, outcome)
        if save_arm:
            store.keep_largest_model(save_arm)
        report(f"{trial}: {_told(problem, outcome, losses[trial])}, {taken:.1f} min")

    with Workers(gpus, problem, store) as workers:
        running: dict[Future, tuple[Trial, int]] = {}
        while waiting or running:
            while waiting and workers.free:
                waiting = [trial for trial in waiting if trial.arm not in failed]
                left_out += [trial for trial in waiting if not pace.fits(minutes[trial])]
                waiting = [trial for trial in waiting if trial not in left_out]
                if not waiting:
                    break
                trial = question.choose(waiting, losses, minutes) if question else waiting[0]
                waiting.remove(trial)
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
                    warn(f"{trial.arm} is left out. {error}")
    if left_out:
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        warn(f"Left out, since CFG.budget_minutes is used up: {'; '.join(map(str, left_out[:NAMED]))}{more}.")
    return failed


def _loss(problem: Problem, outcome: Outcome) -> float:
    """Mean over the rows like the training rows."""
    return float(row_losses(problem, outcome)[problem.part(unseen=False)].mean())


def _told(problem: Problem, outcome: Outcome, loss: float) -> str:
    if not math.isfinite(loss):
        return "diverged (NaN)"
    apart, said = problem.part(unseen=True), f"log loss {loss:.4f}"
    if not apart.any():
        return said
    return f"{said} ({row_losses(problem, outcome)[apart].mean():.4f} on rows unlike the training rows)"


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
