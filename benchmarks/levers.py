"""What each lever is worth on given rows and a given encoder: the ablation's preset `levers`, without its notebook.

    python -m benchmarks.levers --data FOLDER --model FOLDER [--cfg 'key=value ...'] [--workers 2] [--out FOLDER]

Every finished trial is stored in build/levers at once, and used again: a command that was interrupted goes on. Writes
levers.md and levers.png into benchmarks/ or the folder given, after every trial.
"""

import argparse
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers

from src_py.ablation import (
    LEVERS,
    GridSettings,
    Problem,
    TrialSettings,
    TrialStore,
    add_files,
    answer_levers,
    apply_preset,
    choose_levers,
    choose_sizes,
    curve_table,
    find_encoders,
    lever_table,
    list_trials,
    minutes_left,
    plan,
    plan_table,
    plot_levers,
    results_table,
    run_trials,
    save_figure,
    split_rows,
    time_trials,
)
from src_py.config import Settings, check_config
from src_py.errors import InputError
from src_py.kaggle import choose_precision, describe_hardware, start_session, visible_gpus
from src_py.model import check_max_length, find_encoder
from src_py.pairs import (
    ExtraRows,
    audit_extra,
    find_contest,
    load_extra,
    load_pairs,
    load_pseudo,
    load_soft,
    prompt_key,
    soft_labels,
)
from tools.arguments import checked, existing_folder, new_folder

HERE = Path(__file__).resolve().parent
STORE = HERE.parent / "build/levers"
KINDS: tuple[type[Settings], ...] = (GridSettings, TrialSettings, ExtraRows)


def main(words: list[str] | None = None, store: Path = STORE) -> int:
    """0, or 1 with one sentence where an input or a setting is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.levers", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=checked(existing_folder), required=True)
    parser.add_argument("--model", type=checked(existing_folder), required=True)
    parser.add_argument("--cfg", default="", help="settings of the ablation, such as 'lever_rows=700 epochs=1'")
    parser.add_argument("--workers", type=int, choices=(1, 2, 3, 4), default=1, help="processes side by side, on a CPU")
    parser.add_argument("--out", type=checked(new_folder), default=HERE)
    chosen = parser.parse_args(words)
    if chosen.workers > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started for the trials
    try:
        _run(chosen, store)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(chosen: argparse.Namespace, folder: Path) -> None:
    begun = time.time()
    given = {name: value for kind in KINDS for name, value in vars(kind()).items()}
    cfg = check_config(type("CFG", (), given | {"preset": "levers"}), *KINDS, overrides=chosen.cfg)
    start_session(cfg.seed)
    problem, grid = _problem(cfg, chosen)
    gpus = visible_gpus() or tuple(range(chosen.workers))
    trials = list_trials(
        grid.arms,
        grid.repairs,
        choose_sizes(grid, len(problem.train), {}),
        grid.seeds,
        grid.control,
        choose_levers(problem, grid.levers),
    )
    store = TrialStore(folder, problem)
    done = set(store.outcomes(trials))
    minutes = time_trials(problem, [trial for trial in trials if trial not in done], gpus)
    until = begun + 60 * grid.budget_minutes
    planned = plan(trials, minutes, minutes_left(until), done, workers=max(1, len(gpus)))
    print(plan_table(planned).to_string(), f"{len(done)} of {len(trials)} trials are done", sep="\n", flush=True)

    def report(line: str) -> None:
        print(line, flush=True)
        _write(problem, store, trials, cfg, chosen, {})

    failed = run_trials(problem, planned, store, until, gpus, save_arm=None, report=report)
    _write(problem, store, trials, cfg, chosen, failed)
    print((chosen.out / "levers.md").read_text(encoding="utf-8"))


def _problem(cfg, chosen: argparse.Namespace) -> tuple[Problem, GridSettings]:
    """The rows as the notebook splits them, and the grid of the preset."""
    files = find_contest(chosen.data)
    contest = files.contest
    table = load_pairs(files.train, contest)[0]
    test = load_pairs(files.test, contest, labelled=False)[0]
    extra = load_extra({name: Path(name) for name in cfg.extra_files}, contest)
    extra += load_pseudo({name: Path(name) for name in cfg.pseudo_files}, contest, test)
    if cfg.soft_labels:
        table = soft_labels(table, *load_soft(cfg.soft_labels, table, contest, test["id"]), cfg.soft_weight)
    grid = apply_preset(cfg.part(GridSettings))
    train, valid, unseen, held = split_rows(table, cfg.n_folds, cfg.valid_rows, grid.holdout, cfg.seed)
    if extra:
        extra, audit = audit_extra(extra, table, held, test, contest.classes)
        print(audit.to_string())
    train, _, added = add_files(train, extra, table[held], True)
    model_dir = find_encoder(chosen.model)
    check_max_length(model_dir, cfg.max_length)
    precision = choose_precision(cfg.precision)
    print(describe_hardware(precision))
    settings = TrialSettings(**vars(cfg.part(TrialSettings)) | {"precision": precision})
    extras = {"unseen": unseen, "added": added, "encoders": find_encoders(chosen.model, model_dir, grid)}
    return Problem(train, valid, prompt_key(valid), model_dir, contest.classes, settings, **extras), grid


def _write(problem: Problem, store: TrialStore, trials: list, cfg, chosen, failed: dict[str, str]) -> None:
    """levers.md and levers.png, from the trials that are finished."""
    outcomes = store.outcomes(trials)
    if not outcomes:
        return
    table = lever_table(problem, outcomes)
    results, curve = results_table(problem, outcomes), curve_table(problem, outcomes)
    answered = answer_levers(problem, outcomes, results, curve, trials, failed)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if figure := plot_levers(table):
        save_figure(figure, chosen.out / "levers.png")
    lines = ["# `make levers`", "", f"{_setting(problem, outcomes, cfg, chosen)}.", "", *_markdown(table), ""]
    lines += ["| lever | what it does |", "| --- | --- |"]
    lines += [f"| {name} | {lever.says} |" for name, lever in LEVERS.items() if name in set(table["lever"])]
    lines += ["", "What the notebook says of it:", "", str(answered), ""]
    lines += ["![Levers](levers.png)"] if figure else []
    (chosen.out / "levers.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _markdown(table) -> list[str]:
    """The table's rows: figures with their intervals in one cell."""
    kinds = [kind for kind in ("", "unseen ") if f"{kind}gain" in table]
    names = ["gain, rows like the training rows", "gain, rows of a kind held out"][: len(kinds)]
    head = ["lever", "seeds", *(part for name in names for part in (name, "verdict")), "minutes", "without"]
    memory = [name for name in ("memory GB", "memory GB without") if name in table]
    lines = [f"| {' | '.join([*head, *memory])} |", "|" + " --- |" * (len(head) + len(memory))]
    for row in table.to_dict("records"):
        cells = [str(row["lever"]), str(row["seeds"])]
        for kind in kinds:
            gain, low, high = (row[f"{kind}{name}"] for name in ("gain", "at least", "at most"))
            cells += [f"{gain:+.4f} ({low:+.4f} to {high:+.4f})", row[f"{kind}verdict"]]
        cells += [f"{row[name]:.2f}" for name in ("minutes", "minutes without", *memory)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _setting(problem: Problem, outcomes: dict, cfg, chosen) -> str:
    """How it was measured, in one line."""
    seen, apart = (int(problem.part(unseen=part).sum()) for part in (False, True))
    rows = " and ".join(f"{size:,}" for size in sorted({trial.rows for trial in outcomes}))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    names = vars(cfg.part(TrialSettings))
    settings = ", ".join(f"{name} {getattr(cfg, name)}" for name in names if name != "precision")
    parts = [
        date.today().isoformat(),
        f"data {chosen.data.name}, encoder {chosen.model.name}",
        f"{rows} of {len(problem.train):,} training rows, {seen:,} validation rows like them and {apart:,} of a kind "
        f"held out (holdout {apply_preset(cfg.part(GridSettings)).holdout})",
        f"seeds {len({trial.seed for trial in outcomes})}, {len(outcomes)} trials",
        f"{settings}, precision {problem.settings.precision}",
        f"{device}, {os.cpu_count()} cores, {chosen.workers} processes, python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}",
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
