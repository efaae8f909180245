"""Run the planned cells of an ablation within a budget, on one device or one a GPU."""

import multiprocessing
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import pandas as pd

from src_py.cell import Cell, Outcome, Problem, run_cell
from src_py.cell_store import CellStore
from src_py.env import TRAINED_MARKER
from src_py.results import row_losses


def run_cells(
    problem: Problem,
    planned: pd.DataFrame,
    store: CellStore,
    budget: float,
    gpus: tuple[int, ...] = (),
    save_arm: str = "recipe",
    tell=print,
) -> None:
    """Run what is planned, each cell stored as it ends; with several GPUs one cell on each.

    Before each cell its predicted minutes, corrected by how long the cells so far really took, must fit what is left
    of `budget` minutes; a cell that does not is left out, and said so.

    Args:
        gpus: device numbers; with fewer than two, cells run in this process.
        save_arm: its models on the subset of most rows are kept for the submission.
    """
    waiting = [_cell(row) for row in planned.itertuples() if row.plan == "run"]
    minutes = {_cell(row): row.minutes for row in planned.itertuples()}
    clock = _Clock(budget)

    def finished(cell: Cell, outcome: Outcome, taken: float) -> None:
        clock.add(taken, minutes[cell])
        _keep_largest(problem.save_dir, save_arm)
        loss = float(row_losses(problem, outcome).mean())
        control = f" for the steps of {cell.as_rows:,}" if cell.as_rows else ""
        tell(f"{cell.arm}, {cell.rows:,} rows{control}, seed {cell.seed}: log loss {loss:.4f}, {taken:.1f} min")

    with _Workers(problem, store, gpus) as workers:
        running = {}
        while waiting or running:
            while waiting and len(running) < workers.count:
                cell = waiting.pop(0)
                if not clock.fits(minutes[cell]):
                    tell(f"{cell.arm}, {cell.rows:,} rows, seed {cell.seed}: left out, the budget is spent")
                    continue
                running[workers.submit(cell, cell.arm == save_arm and not cell.as_rows and cell.seed == 0)] = cell
            for job in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                finished(running.pop(job), *job.result())


def _keep_largest(folder: Path | None, arm: str) -> None:
    saved = sorted(folder.glob(f"{arm}_*/{TRAINED_MARKER}")) if folder else []
    for marker in saved[:-1]:
        shutil.rmtree(marker.parent, ignore_errors=True)


class _Clock:
    """Minutes left, and how much longer than predicted cells take."""

    def __init__(self, budget: float):
        self.begun, self.budget, self.taken, self.predicted = time.monotonic(), budget, 0.0, 0.0

    def add(self, taken: float, predicted: float) -> None:
        self.taken, self.predicted = self.taken + taken, self.predicted + predicted

    def fits(self, minutes: float) -> bool:
        correction = max(1.0, self.taken / self.predicted) if self.predicted else 1.0
        return (time.monotonic() - self.begun) / 60 + minutes * correction <= self.budget


class _Workers:
    """This process, or one process a GPU. Children are spawned: CUDA does not survive a fork."""

    def __init__(self, problem: Problem, store: CellStore, gpus: tuple[int, ...]):
        self.problem, self.store, self.count, self.pool = problem, store, max(1, len(gpus)), None
        if len(gpus) > 1:
            context = multiprocessing.get_context("spawn")
            numbers = context.Queue()
            for gpu in gpus:
                numbers.put(gpu)
            arguments = (numbers, problem, store)
            self.pool = ProcessPoolExecutor(len(gpus), context, initializer=_begin_worker, initargs=arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def submit(self, cell: Cell, keep_model: bool) -> Future:
        if self.pool:
            return self.pool.submit(_work, cell, keep_model)
        done = Future()
        done.set_result(_run_and_store(self.problem, self.store, cell, keep_model))
        return done


_WORKER: dict = {}  # what a worker process was begun with


def _begin_worker(numbers, problem: Problem, store: CellStore) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = str(numbers.get())  # before the first use of CUDA here
    _WORKER.update(problem=problem, store=store)


def _work(cell: Cell, keep_model: bool):
    return _run_and_store(_WORKER["problem"], _WORKER["store"], cell, keep_model)


def _run_and_store(problem: Problem, store: CellStore, cell: Cell, keep_model: bool) -> tuple[Outcome, float]:
    begun = time.monotonic()
    outcome = run_cell(problem, cell, keep_model)
    store.save(cell, outcome)
    return outcome, (time.monotonic() - begun) / 60


def _cell(row) -> Cell:
    return Cell(row.arm, row.rows, row.seed, row.as_rows)
