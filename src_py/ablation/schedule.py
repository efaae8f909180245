"""Which trials to run, in which order, and running them within a budget."""

import multiprocessing
import os
import shutil
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from src_py.ablation.arms import parse_arm, single_repairs
from src_py.ablation.results import row_losses
from src_py.ablation.trials import Cell, CellStore, Outcome, Problem, run_cell, steps_of
from src_py.errors import InputError
from src_py.kaggle.inputs import TRAINED_MARKER

LARGEST_SHARE = 0.25  # of the budget that one cell may take
TIMED_ROWS, TIMED_STEPS = 32, 3


def list_cells(
    arms: tuple[str, ...],
    repairs: tuple[str, ...],
    sizes: tuple[int, ...],
    seeds: int,
    control: bool,
) -> list[Cell]:
    """All cells, most informative first, so that stopping at any time leaves the best partial answer.

    With the first seed: the curves of `arms` from small to large; the control arm (the two smallest subsets trained for
    as many steps as each larger one, the largest first); each single repair at the middle size. Then the same with the
    next seed, and at last the repairs at the other sizes.

    Raises:
        InputError: for a configuration that does not exist, or sizes that are none.
    """
    for arm in arms:
        parse_arm(arm)
    if not arms or seeds < 1 or not sizes or min(sizes) < 1:
        raise InputError("CFG.arms, CFG.sizes and CFG.seeds must name at least one configuration, size and seed.")
    singles = [name for name in single_repairs(repairs) if name not in arms]
    middle = sizes[len(sizes) // 2]
    cells = []
    for seed in range(seeds):
        cells += [Cell(arm, rows, seed) for rows in sizes for arm in arms]
        if control:
            pairs = [(rows, more) for rows in sizes[:2] for more in reversed(sizes) if more > rows]
            cells += [Cell(arm, rows, seed, as_rows=more) for rows, more in pairs for arm in arms]
        cells += [Cell(name, middle, seed) for name in singles]
    others = [rows for rows in sizes if rows != middle]
    return cells + [Cell(name, rows, seed) for seed in range(seeds) for rows in others for name in singles]


def time_cells(problem: Problem, cells: list[Cell]) -> dict[Cell, float]:
    """Predicted minutes of every cell, from a short training of each way to read and batch."""
    rows = max(TIMED_ROWS, TIMED_STEPS * problem.settings.batch_size)
    small = replace(
        problem,
        train=problem.train.iloc[:: max(1, len(problem.train) // rows)][:rows].reset_index(drop=True),
        valid=problem.valid.iloc[:: max(1, len(problem.valid) // TIMED_ROWS)][:TIMED_ROWS],
        settings=replace(problem.settings, epochs=1.0, evaluations=1),
        blocks=(),
        _readings={},
    )
    speeds, minutes = {}, {}
    for cell in cells:
        arm = parse_arm(cell.arm)
        shape = tuple(repair in arm for repair in ("pairwise", "line_break", "cut", "batch"))
        if shape not in speeds:
            if not speeds:  # the first training in a process also loads libraries
                run_cell(small, Cell(cell.arm, TIMED_ROWS, seed=0))
            begun = time.perf_counter()
            timed = run_cell(small, Cell(cell.arm, rows if "batch" in arm else TIMED_ROWS, seed=0))
            overhead = time.perf_counter() - begun - timed.at[-1] * timed.step_seconds - timed.predict_seconds
            speeds[shape] = (overhead, timed.step_seconds, timed.predict_seconds / len(small.valid))
        overhead, a_step, a_row = speeds[shape]
        predicted = problem.settings.evaluations * len(problem.valid) * a_row
        minutes[cell] = (overhead + steps_of(cell, problem.settings) * a_step + predicted) / 60
    return minutes


def plan(cells: list[Cell], minutes: dict[Cell, float], budget: float, done: set[Cell], workers: int = 1):
    """Which cells fit `budget` minutes: a column `plan` with "done", "run" or why not, in the order of running."""
    room, rows = budget * workers, []
    for cell in cells:
        if cell in done:
            verdict = "done"
        elif minutes[cell] > LARGEST_SHARE * budget:
            verdict = "over a quarter of the budget"
        elif minutes[cell] > room:
            verdict = "beyond the budget"
        else:
            verdict, room = "run", room - minutes[cell]
        rows.append(asdict(cell) | {"minutes": minutes.get(cell, 0.0), "plan": verdict})
    return pd.DataFrame(rows)


def plan_table(planned: pd.DataFrame) -> pd.DataFrame:
    """The plan, one row a configuration and size: minutes a cell, and how many seeds are done, run, left out."""
    groups = planned.groupby(["arm", "rows", "as_rows"], sort=False)
    table = groups.agg(
        minutes_a_cell=("minutes", "max"),
        done=("plan", lambda column: (column == "done").sum()),
        run=("plan", lambda column: (column == "run").sum()),
        left_out=("plan", lambda column: (~column.isin(["done", "run"])).sum()),
        why=("plan", lambda column: ", ".join(sorted(set(column) - {"done", "run"}))),
    )
    return table.rename(columns=lambda name: name.replace("_", " ")).round(2).reset_index()


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
    waiting = [_planned_cell(row) for row in planned.itertuples() if row.plan == "run"]
    minutes = {_planned_cell(row): row.minutes for row in planned.itertuples()}
    clock = _Budget(budget)

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


class _Budget:
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


def _planned_cell(row) -> Cell:
    return Cell(row.arm, row.rows, row.seed, row.as_rows)
