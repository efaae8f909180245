"""What each lever is worth: a table, a picture, and sentences."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from src_py.ablation.answer import Answer, learns, reads
from src_py.ablation.arms import has_levers, parse_arm
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import Comparison, compare, main_size, minutes_of
from src_py.evaluation.style import BLUE, VERMILION, new_figure

HOW_TO_READ_LEVERS = """`gain` is by how many nats a lever lowers the recipe's log loss, on the same subsets and seeds,
`unseen gain` the same on the rows of a kind that was held out. The interval covers prompts and seeds, not which kind
was held out. Where it includes zero, no difference was seen: leave such a lever off, or measure it with more seeds.
`features_off` takes something from the recipe: a gain below zero says that its counts of length and format help. The
grey bars are what a trial costs."""
BETTER, WORSE, NONE, UNKNOWN = "better", "worse", "no difference seen", "cannot tell"
KINDS = {"": "rows like the training rows", "unseen ": "rows of a kind that training has not seen"}
_LOOKS = {"": (BLUE, "o"), "unseen ": (VERMILION, "s")}


def lever_table(problem: Problem, outcomes: dict[Trial, Outcome]) -> pd.DataFrame:
    """One row a lever and size, the greatest gain first.

    `gain` is by how many nats the log loss is lower than that of the same arm without the lever, on the rows like the
    training rows; `at least` and `at most` are its 95 % interval over prompts and seeds (seeds in pairs: same subset,
    same seed); `verdict` says it in words. Columns `unseen ...` say the same of the rows held out as a group; which
    group that was is not covered by the interval. `minutes` are those of a trial, `without` those of a trial without
    the lever. `memory GB` is the most that a GPU had allocated in a trial; it is absent without a GPU.
    """
    kinds = [kind for kind in KINDS if problem.part(unseen=bool(kind)).any()]
    rows = []
    for arm, size in dict.fromkeys((trial.arm, trial.rows) for trial in outcomes if not trial.as_rows):
        base = parse_arm(arm).base
        groups = (base, size, 0), (arm, size, 0)
        parts = {kind: compare(problem, outcomes, *groups, unseen=bool(kind)) for kind in kinds}
        found = {kind: part for kind, part in parts.items() if part}
        if not has_levers(arm) or len(found) < len(kinds):
            continue
        row = {"lever": arm.removeprefix(f"{base}+"), "rows": size, "seeds": found[""].seeds}
        for kind, part in found.items():
            row |= {f"{kind}gain": part.gain, f"{kind}at least": part.at_least, f"{kind}at most": part.at_most}
            row[f"{kind}verdict"] = _verdict(part)
        rows.append(row | _costs(outcomes, arm, size, "") | _costs(outcomes, base, size, " without"))
    columns = ["lever", "rows", "seeds"]
    columns += [f"{kind}{name}" for kind in kinds for name in ("gain", "at least", "at most", "verdict")]
    columns += ["minutes", "minutes without", "memory GB", "memory GB without"]
    table = pd.DataFrame(rows, columns=columns).sort_values("gain", ascending=False, ignore_index=True)
    return table if (table["memory GB"] > 0).any() else table.drop(columns=columns[-2:])


def _costs(outcomes: dict[Trial, Outcome], arm: str, rows: int, suffix: str) -> dict[str, float]:
    found = [o for trial, o in outcomes.items() if (trial.arm, trial.rows, trial.as_rows) == (arm, rows, 0)]
    minutes, memory = np.mean([minutes_of(outcome) for outcome in found]), max(outcome.memory_gb for outcome in found)
    return {f"minutes{suffix}": float(minutes), f"memory GB{suffix}": memory}


def _verdict(found: Comparison) -> str:
    if found.seeds < 2:
        return UNKNOWN
    return BETTER if found.at_least > 0 else WORSE if found.at_most < 0 else NONE


def plot_levers(table: pd.DataFrame) -> Figure | None:
    """Gain of each lever with its interval, on both kinds of rows, and beside it minutes (and memory) of a trial with
    and without it; None for an empty table."""
    if table.empty:
        return None
    size = main_size(table)
    rows = table[table["rows"] == size].sort_values("gain", ignore_index=True)
    costs = [name for name in ("minutes", "memory GB") if name in rows]
    figure, (axes, *beside) = new_figure(
        1,
        1 + len(costs),
        sharey=True,
        figsize=(7.5 + 2 * len(costs), 1.8 + 0.4 * len(rows)),
        width_ratios=[3.5] + [1] * len(costs),
    )
    places, kinds = np.arange(len(rows)), [kind for kind in KINDS if f"{kind}gain" in rows]
    for number, kind in enumerate(kinds):
        gain, low, high = (rows[f"{kind}{name}"].to_numpy() for name in ("gain", "at least", "at most"))
        color, marker = _LOOKS[kind]
        heights = places + (0.14 - 0.28 * number if len(kinds) > 1 else 0)
        reach = np.stack([gain - low, high - gain]).clip(0)
        axes.errorbar(gain, heights, xerr=reach, fmt=marker, color=color, capsize=3, label=KINDS[kind])
    axes.axvline(0, color="0.6", linewidth=1)
    seeds = rows["seeds"].agg(["min", "max"]).unique()
    axes.set(xlabel="log loss saved, nats (95 % over prompts and seeds)")
    axes.set_title(f"Gain over the recipe at {size:,} rows; seeds: {' to '.join(map(str, seeds))}")
    axes.set_yticks(places, [name.replace("_", " ") for name in rows["lever"]])
    for place, name in zip(beside, costs):
        place.barh(places, rows[name], color="0.75", height=0.6)
        place.axvline(rows[f"{name} without"].mean(), color="black", linestyle="--", linewidth=1)
        place.set(xlabel=f"{name} a trial\n(dashed: the recipe)")
        place.tick_params(left=False)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def answer_levers(
    problem: Problem,
    outcomes: dict[Trial, Outcome],
    results: pd.DataFrame,
    curve: pd.DataFrame,
    trials: list[Trial],
    failed: dict[str, str] | None = None,
) -> Answer:
    """Which levers are worth it, which are not, and what was not measured.

    Args:
        outcomes: finished trials; results, curve: from `results_table` and `curve_table`, of the same trials.
        trials: all trials of the grid.
        failed: arms that could not be trained, and why, from `run_trials`.
    """
    table = lever_table(problem, outcomes)
    sentences = [learns(curve, results, "recipe"), *filter(None, [reads(problem, outcomes, curve, "recipe")])]
    for kind in KINDS:
        if f"{kind}gain" in table and len(table):
            sentences += _sentences(table, kind)
    decided = table[table["seeds"] > 1]
    if len(decided) > 1:
        sentences.append(
            f"Each interval is at 95 %: of {len(decided)} levers that do nothing, {len(decided) / 20:.1f} on average "
            "would look better or worse by chance alone. Measure a lever that you mean to use once more, with other "
            "seeds."
        )
    failed = failed or {}
    wanted = dict.fromkeys(trial.arm for trial in trials if has_levers(trial.arm))
    measured = {parse_arm(trial.arm).name for trial in outcomes}
    missing = [_bare(arm) for arm in wanted if arm not in measured and arm not in failed]
    if missing:
        sentences.append(
            f"Not measured: {', '.join(missing)}. Raise CFG.budget_minutes, or attach this output and run again."
        )
    sentences += [f"Left out: {_bare(arm)}. {why}" for arm, why in failed.items()]
    return Answer(tuple(sentences))


def _sentences(table: pd.DataFrame, kind: str) -> list[str]:
    wording = {
        BETTER: "better than the recipe: {}",
        WORSE: "worse than the recipe: {}",
        NONE: "no difference seen (the interval includes zero): {}",
        UNKNOWN: "cannot tell, since there is only one seed: {}",
    }
    found = []
    for verdict, words in wording.items():
        rows = table[table[f"{kind}verdict"] == verdict]
        figures = verdict in (BETTER, WORSE)
        names = [_told(row, kind) if figures else str(row["lever"]) for row in rows.to_dict("records")]
        if names:
            found.append(f"On {KINDS[kind]}, {words.format('; '.join(names) if figures else ', '.join(names))}.")
    return found


def _told(row: dict, kind: str) -> str:
    gain, low, high = (row[f"{kind}{name}"] for name in ("gain", "at least", "at most"))
    times = row["minutes"] / max(row["minutes without"], 1e-9)
    return f"{row['lever']} by {abs(gain):.3f} nats (gain {low:+.3f} to {high:+.3f}; {times:.1f} times the minutes)"


def _bare(arm: str) -> str:
    return arm.removeprefix(f"{parse_arm(arm).base}+")
