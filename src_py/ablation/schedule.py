"""Which trials to run, in which order, and which of them fit the time."""

import time
from dataclasses import asdict, replace

import pandas as pd

from src_py.ablation.arms import has_levers, lever_arm, parse_arm, single_repairs
from src_py.ablation.grid_settings import GridSettings
from src_py.ablation.levers import LEVERS
from src_py.ablation.problem import Problem, Trial
from src_py.ablation.trials import added_rows, check_needs, run_trial, steps_of
from src_py.ablation.workers import Workers
from src_py.errors import InputError
from src_py.kaggle.clock import COMPETITION_HOURS, SESSION_HOURS
from src_py.pairs.split import log_spaced

BEYOND = "beyond the budget"
LARGEST_SHARE = 0.5  # of the time that one trial may take
TIMED_ROWS, TIMED_STEPS = 32, 3
# Settings that change the seconds of a step or of a predicted row; the others do so by a few per cent.
PACE = {
    "style",
    "max_length",
    "batch_size",
    "freeze_layers",
    "freeze_embeddings",
    "features",
    "head",
    "lora_rank",
    "encoder",
}


def choose_levers(problem: Problem, levers: tuple[str, ...]) -> tuple[str, ...]:
    """The levers to measure: those named, or all of `LEVERS` that the rows allow.

    Raises:
        InputError: when a lever is named, and the rows lack what it needs.
    """
    if not levers:
        return tuple(name for name in LEVERS if parse_arm(lever_arm(name)).needs <= problem.has())
    for lever in levers:
        check_needs(problem, parse_arm(lever_arm(lever)))
    return levers


def describe_budget(minutes: float) -> str:
    """One line: the time that trials may take, and the limits of Kaggle that apply."""
    limits = f"{60 * COMPETITION_HOURS} minutes is the limit of a code competition, {60 * SESSION_HOURS} of a session"
    if minutes > 60 * COMPETITION_HOURS:
        limits += ": such a run is ended early where the code competition's limit applies"
    return f"Trials may run until {minutes:g} minutes after the start ({limits})"


def choose_sizes(grid: GridSettings, own_rows: int, marks: dict[str, int]) -> tuple[int, ...]:
    """The numbers of training rows, ascending.

    Args:
        own_rows: training rows without those of extra files.
        marks: from `add_extra`; the end of each extra file is a size, too, but not for levers, which have one size.

    Raises:
        InputError: a size above the number of training rows.
    """
    rows = max([own_rows, *marks.values()])
    if grid.sizes and max(grid.sizes) > rows:
        raise InputError(f"CFG.sizes has {max(grid.sizes):,}, but there are {rows:,} training rows; lower it.")
    if grid.preset == "levers":
        return grid.sizes or (own_rows,)
    sizes = grid.sizes or log_spaced(own_rows, grid.smallest_share, grid.n_sizes)
    return tuple(sorted({*sizes, *marks.values()}))


def list_trials(
    arms: tuple[str, ...],
    repairs: tuple[str, ...],
    sizes: tuple[int, ...],
    seeds: int,
    control: bool,
    levers: tuple[str, ...] = (),
    next_arms: tuple[str, ...] = (),
) -> list[Trial]:
    """All trials, most informative first, so that stopping at any time leaves the best partial answer.

    With the first seed: the curves of `arms` from small to large; `next_arms` at the largest size; the control arm (the
    two smallest subsets trained for as many steps as each larger one, the largest first); each single repair at the
    middle size; the recipe with each lever at the largest. Then the same with the next seed, and at last the repairs at
    the other sizes.

    Raises:
        InputError: for an arm that does not exist, or when there is nothing to train.
    """
    for arm in arms:
        parse_arm(arm)
    if not arms or seeds < 1 or not sizes or min(sizes) < 1:
        raise InputError("CFG.arms, CFG.sizes and CFG.seeds must name at least one arm, size and seed.")
    singles = [name for name in single_repairs(repairs) if name not in arms]
    middle = sizes[len(sizes) // 2]
    trials = []
    for seed in range(seeds):
        trials += [Trial(arm, rows, seed) for rows in sizes for arm in arms]
        trials += [Trial(arm, sizes[-1], seed) for arm in next_arms if arm not in arms]
        if control:
            pairs = [(rows, more) for rows in sizes[:2] for more in reversed(sizes) if more > rows]
            trials += [Trial(arm, rows, seed, as_rows=more) for rows, more in pairs for arm in arms]
        trials += [Trial(name, middle, seed) for name in singles]
        trials += [Trial(lever_arm(lever), sizes[-1], seed) for lever in levers]
    others = [rows for rows in sizes if rows != middle]
    return trials + [Trial(name, rows, seed) for seed in range(seeds) for rows in others for name in singles]


def minutes_left(until: float) -> float:
    """Minutes from now to `until`, a time of `time.time()`; 0 when it has passed."""
    return max(0.0, (until - time.time()) / 60)


def time_trials(problem: Problem, trials: list[Trial], gpus: tuple[int, ...] = ()) -> dict[Trial, float]:
    """Predicted minutes of every trial, from a short training of each way to read and batch.

    They run where `run_trials` will run the trials: with several GPUs in processes of their own, side by side, so that
    what they share (processor, disk) is shared while it is timed, too.

    Args:
        gpus: as in `run_trials`.
    """
    rows = max(TIMED_ROWS, TIMED_STEPS * problem.settings.batch_size)
    small = replace(
        problem,
        train=problem.train.iloc[:: max(1, len(problem.train) // rows)][:rows].reset_index(drop=True),
        valid=problem.valid.iloc[:: max(1, len(problem.valid) // TIMED_ROWS)][:TIMED_ROWS],
        settings=replace(problem.settings, epochs=1.0, evaluations=1),
        blocks=(),
        unseen=None,
        added={need: added[:1] for need, added in problem.added.items()},
        _readings={},
    )
    examples = {_shape(trial): trial for trial in reversed(trials)}  # the first trial of each shape
    with Workers(gpus, small) as workers:
        if examples:  # the first training in a process also loads libraries
            first = next(iter(examples.values())).arm
            for number in workers.free:
                workers.submit(number, _time_trial, first, TIMED_ROWS)
        jobs = {
            shape: workers.submit(number % len(workers.free), _time_trial, trial.arm, rows)
            for number, (shape, trial) in enumerate(examples.items())
        }
        measured = {shape: job.result() for shape, job in jobs.items()}
    speeds = {shape: speed or (0.0, 0.0, 0.0) for shape, speed in measured.items()}
    minutes: dict[Trial, float] = {}
    for trial in trials:
        arm = parse_arm(trial.arm)
        overhead, a_step, a_row = speeds[_shape(trial)]
        steps = steps_of(trial, problem.settings, added_rows(problem, arm))
        predicted = problem.settings.evaluations * len(problem.valid) * a_row
        minutes[trial] = arm.models * (overhead + steps * a_step + predicted) / 60
    return minutes


def _shape(trial: Trial) -> tuple:
    """What the pace of one of a trial's models depends on."""
    arm = parse_arm(trial.arm)
    repairs = tuple(repair in arm for repair in ("pairwise", "line_break", "cut", "batch", "features"))
    return *repairs, arm.longer, *(change for change in arm.changes if change[0] in PACE)


def _time_trial(small: Problem, arm: str, rows: int) -> tuple[float, float, float] | None:
    """Seconds of everything around the steps of a model, of a step, and of predicting a row; None for an arm with
    levers that cannot be trained, of which `run_trials` says why."""
    begun, parsed = time.perf_counter(), parse_arm(arm)
    try:
        timed = run_trial(small, Trial(arm, rows if "batch" in parsed else TIMED_ROWS, seed=0))
    except InputError:
        if not has_levers(arm):
            raise
        return None
    predicted = timed.predict_seconds / parsed.models
    overhead = (time.perf_counter() - begun) / parsed.models - timed.at[-1] * timed.step_seconds - predicted
    return overhead, timed.step_seconds, predicted / len(small.valid)


def plan(
    trials: list[Trial], minutes: dict[Trial, float], budget: float, done: set[Trial], workers: int = 1
) -> pd.DataFrame:
    """Which trials fit `budget` minutes: a column `plan` with "done", "run" or why not, in the order of running."""
    room, rows = budget * workers, []
    for trial in trials:
        if trial in done:
            verdict = "done"
        elif minutes[trial] > LARGEST_SHARE * budget:
            verdict = "over half of the time"
        elif minutes[trial] > room:
            verdict = BEYOND
        else:
            verdict, room = "run", room - minutes[trial]
        rows.append(asdict(trial) | {"minutes": minutes.get(trial, 0.0), "plan": verdict})
    return pd.DataFrame(rows)


def plan_table(planned: pd.DataFrame) -> pd.DataFrame:
    """The plan, one row an arm and size: minutes a trial, and how many seeds are done, run, left out."""
    groups = planned.groupby(["arm", "rows", "as_rows"], sort=False)
    table = groups.agg(
        minutes_a_trial=("minutes", "max"),
        done=("plan", lambda column: (column == "done").sum()),
        run=("plan", lambda column: (column == "run").sum()),
        left_out=("plan", lambda column: (~column.isin(["done", "run"])).sum()),
        why=("plan", lambda column: ", ".join(sorted(set(column) - {"done", "run"}))),
    )
    return table.round(2).reset_index().rename(columns=lambda name: name.replace("_", " "))
