"""Plan the cells of an ablation: which, in which order, how long each takes, and what fits the budget."""

import time
from dataclasses import asdict, replace

import pandas as pd

from src_py.arms import parse_arm, single_repairs
from src_py.cell import Cell, Problem, run_cell, steps_of
from src_py.errors import InputError

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
