"""Is it the data or the code? Plain sentences, generated from measured figures, that also say "cannot tell"."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from src_py.ablation.curves import NOTHING, LearningCurve, fit_curve
from src_py.ablation.foretell import tell_hindcast, tell_reach, tell_twice
from src_py.ablation.next_step import next_step
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import Comparison, baselines, compare, reading_gain
from src_py.ablation.verdicts import (
    ONE_SEED,
    SEED_SPREAD,
    better,
    learned,
    no_gain,
    own_sizes,
    records,
    rise_of,
    verdict_of,
    worse,
)  # fmt: skip
from src_py.doctor.verdict import LEAST_READING


@dataclass(frozen=True)
class Answer:
    """`short` is the answer in at most three sentences, `sentences` what it rests on; `laws` the learning curve of each
    arm that could be fitted; `steps` what each next step would bring, None where that is not the question."""

    sentences: tuple[str, ...]
    laws: dict[str, LearningCurve] = field(default_factory=dict)
    short: tuple[str, ...] = ()
    steps: pd.DataFrame | None = None

    @property
    def opening(self) -> str:
        """Markdown of `short`."""
        return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(self.short, start=1))

    @property
    def rest(self) -> str:
        """Markdown of `sentences`."""
        return "\n".join(f"- {sentence}" for sentence in self.sentences)

    def __str__(self) -> str:
        parts = [self.opening, "What this rests on:", self.rest] if self.sentences else [self.opening]
        return "\n\n".join(parts) if self.short else self.rest


def answer(
    problem: Problem,
    outcomes: dict[Trial, Outcome],
    results: pd.DataFrame,
    curve: pd.DataFrame,
    arms: tuple[str, ...],
    trials: Iterable[Trial] = (),
) -> Answer:
    """In short: data or code (first against last arm; what the arm learns where there is only one), what twice the data
    would bring the last arm, and what to do next. Then what the figures say about each of `arms`, about rows against
    steps, and what all of it rests on.

    Args:
        outcomes: finished trials.
        results, curve: from `results_table` and `curve_table`, of the same trials.
        trials: all trials of the grid, to say which sizes are missing.
    """
    constant = float(baselines(problem)["constant predictor"].mean())
    laws = fit_curves(results, arms, constant, problem.blocks[0] if problem.blocks else None)
    last, law = arms[-1], laws[arms[-1]]
    told = {arm: learns(curve, results, arm) for arm in arms}
    first = told.pop(last) if len(arms) == 1 else _data_or_code(problem, outcomes, curve, arms[0], last)
    trials = tuple(trials)
    found = next_step(problem, outcomes, curve, arms, law, trials)
    sentences: list[str | None] = []
    for arm in arms:
        sentences += [told.get(arm), reads(problem, outcomes, curve, arm)]
    sentences += [_rows_or_steps(problem, outcomes, curve, arm) for arm in arms]
    sentences += [_rises(problem, outcomes, curve, arm) for arm in arms]
    sentences += [tell_hindcast(arm, law) for arm, law in laws.items() if law]
    sentences += [tell_reach(problem, outcomes, last, law)] if law else []
    sentences += [_missing(outcomes, arms, trials), _one_seed(curve, arms)]
    return Answer(
        tuple(filter(None, sentences)),
        {arm: law for arm, law in laws.items() if law},
        _with_unit((first, tell_twice(problem, outcomes, curve, last, law), found.sentence)),
        found.table,
    )


def smallest_that_learns(curve: pd.DataFrame, arm: str) -> int | None:
    """The smallest size from which on every measured size beats the constant predictor, its interval above zero."""
    rows = own_sizes(curve, arm).sort_values("rows", ascending=False)
    sure = np.array([verdict_of(row) == "learns" for row in records(rows)], dtype=bool)
    count = len(sure) if sure.all() else int(np.argmin(sure))
    return None if count == 0 else int(rows["rows"].iloc[count - 1])


def fit_curves(
    results: pd.DataFrame, arms: tuple[str, ...], constant: float, own_rows: int | None = None
) -> dict[str, LearningCurve | None]:
    """A learning curve for each arm over the sizes trained for its own number of epochs; None with too few sizes.

    Trials without a loss are left out, and so are sizes above `own_rows`: they contain rows of extra files, which lie
    on no such curve.

    Args:
        constant: log loss of the constant predictor.
    """
    laws = {}
    for arm in arms:
        runs = results[
            (results["arm"] == arm) & (results["as_rows"] == 0) & np.isfinite(results["log_loss"].astype(float))
        ]
        runs = runs[runs["rows"] <= (own_rows or np.inf)]
        laws[arm] = fit_curve(runs["rows"], runs["log_loss"], constant)
    return laws


def reads(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str) -> str | None:
    """Whether the encoder of an arm with counts adds something to them, at its largest size; None without counts."""
    own = own_sizes(curve, arm)
    largest = 0 if own.empty else int(own["rows"].iloc[-1])
    found = reading_gain(problem, outcomes, (arm, largest, 0))
    if found is None or own["gain"].iloc[-1] <= 0:  # what is not below the constant predictor, it has from nothing
        return None
    figures = f"gain {found.at_least:+.3f} to {found.at_most:+.3f}; {found.seeds} seed{'s' * (found.seeds > 1)}"
    if found.at_least > 0 and found.gain >= LEAST_READING:
        return (
            f"{arm}: at {largest:,} rows, its encoder takes {found.gain:.3f} nats off what the counts of length and "
            f"format reach without it ({figures})."
        )
    return (
        f"{arm}: at {largest:,} rows, no gain of its encoder over the counts of length and format was seen "
        f"({figures}): what it has below the constant predictor, it has from them."
    )


def learns(curve: pd.DataFrame, results: pd.DataFrame, arm: str) -> str:
    """From which size on the arm beats the constant predictor, and what it does below."""
    own, finished = own_sizes(curve, arm), results[results["arm"] == arm]
    lost = finished[finished["diverged"].astype(bool)]
    where = _listed(sorted(lost["rows"].unique()))
    diverged = f" {len(lost)} of its {len(finished)} trials diverged (NaN), at {where} rows." if len(lost) else ""
    if own.empty:
        advice = " Run why_is_it_not_learning, which names faults." if len(lost) else ""
        return f"{arm}: no trial for its own epochs gave a result, so nothing can be told.{diverged}{advice}"
    first = smallest_that_learns(curve, arm)
    sizes: dict[str, list[int]] = {"nothing": [], "worse": [], "unsure": [], "learns": []}
    for row in records(own[own["rows"] < first] if first else own):
        sizes[verdict_of(row)].append(row["rows"])
    wording = {
        "nothing": "it is not better than the constant predictor",
        "worse": "it is worse than the constant predictor",
        "unsure": "the intervals include zero: cannot tell",
        "learns": "it beats the constant predictor, but not at every larger size",
    }
    parts = [f"at {_listed(sizes[kind])} rows {words}" for kind, words in wording.items() if sizes[kind]]
    if first:
        last = own.iloc[-1]
        parts.append(
            f"from {first:,} rows on it beats the constant predictor, at {last['rows']:,} rows by "
            f"{last['gain']:.3f} nats ({last['at least']:.3f} to {last['at most']:.3f})"
        )
    return f"{arm}: {'; '.join(parts)}.{diverged}"


def _data_or_code(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, old: str, new: str) -> str:
    both = sorted(set(own_sizes(curve, old)["rows"]) & set(own_sizes(curve, new)["rows"]))
    pairs = [(size, compare(problem, outcomes, (old, size, 0), (new, size, 0))) for size in both]
    compared = [(size, found) for size, found in pairs if found]
    if not compared:
        return f"Data or code? Cannot tell: {old} and {new} have no size and seed in common."
    small, (large, code) = int(own_sizes(curve, old)["rows"].min()), compared[-1]
    data = compare(problem, outcomes, (old, small, 0), (old, large, 0)) if small < large else None
    figures = [f"at the same {large:,} rows {new} is {_gain(code)}"]
    if data:
        interval = f"{data.at_least:+.3f} to {data.at_most:+.3f}, 95 %; {_seeds(data)}"
        rows = f"{_times(large / small)} the rows"
        if _alike(data):
            figures.append(f"{rows} changed nothing for {old} ({interval})")
        elif data.at_least <= 0 <= data.at_most:
            figures.append(f"what {rows} change for {old} cannot be told (gain {interval})")
        else:
            figures.append(f"going from {small:,} to {large:,} rows makes {old} {_gain(data)}")
    figures += _crossing(compared, new)
    both_learn = [learned(curve, arm, large) for arm in (old, new)]
    data_helps = data is not None and better(data) and both_learn[0]
    more = f"more rows alone were not seen to help {old}"
    if data is None:
        more = f"whether more rows help {old} was not measured"
    elif data.at_least > 0 and not both_learn[0]:
        more = f"more rows alone do not bring {old} below the constant predictor"
    elif data.at_least > 0:
        more = f"more rows alone help {old} by less than two seeds may differ"
    more_rows = "; more rows help" if data_helps else ""
    if better(code) and both_learn[1]:
        verdict = "Both: the code, and the data" if data_helps else f"The code: {more}"
    elif worse(code) and not both_learn[1] and both_learn[0]:
        verdict = f"Not this code: {new} does not beat the constant predictor, as {old} does{more_rows}"
    elif worse(code) and both_learn[1]:
        verdict = f"Not the code: {new} is worse than {old}{more_rows}"
    elif data_helps:
        verdict = "The data: " + (
            f"at {large:,} rows the code makes no difference"
            if _alike(code)
            else "whether the code matters cannot be told"
        )
    elif not any(both_learn):
        verdict = f"Cannot tell: neither {old} nor {new} surely beats the constant predictor at {large:,} rows"
    else:
        verdict = "Cannot tell"
    return f"Data or code? {verdict}; {', '.join(figures)}."


def _crossing(compared: list[tuple[int, Comparison]], new: str) -> list[str]:
    """Sizes at which the comparison surely goes the other way than at the largest."""
    *smaller, (_, last) = compared
    way = worse if better(last) else better if worse(last) else None
    found = [(size, one) for size, one in smaller if way and way(one)]
    return [f"at {size:,} rows it is the other way round: {new} is {_gain(one)}" for size, one in found[:1]]


def _rows_or_steps(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str) -> str | None:
    own = set(own_sizes(curve, arm)["rows"])
    controls = curve[(curve["arm"] == arm) & curve["as_rows"].isin(own) & curve["rows"].isin(own)]
    if controls.empty:
        return None
    chosen = controls.sort_values(["as_rows", "rows"], ascending=[False, True]).index[0]  # largest step, fewest rows
    small, large = (int(size) for size in controls.loc[chosen, ["rows", "as_rows"]])
    steps = compare(problem, outcomes, (arm, small, 0), (arm, small, large))
    rows = compare(problem, outcomes, (arm, small, large), (arm, large, 0))
    if steps is None or rows is None:
        return f"{arm}, rows or steps? Cannot tell: the control arm has no seed in common with the others."
    if not any(learned(curve, arm, *run) for run in ((small, large), (large, 0))):
        return f"{arm}, rows or steps? Cannot tell: neither {small:,} nor {large:,} rows beat the constant predictor."
    if better(steps) and better(rows):
        verdict = "Both matter"
    elif better(steps):
        verdict = "The steps matter; " + ("more rows add nothing" if no_gain(rows) else "the rows cannot be told")
    elif better(rows):
        verdict = "The rows matter; " + (
            "more steps on few rows do not replace them" if no_gain(steps) else "whether steps do too cannot be told"
        )
    else:
        verdict = "Cannot tell"
    return (
        f"{arm}, rows or steps? {verdict}: in the control arm, {small:,} rows for as many steps as {large:,} rows get "
        f"are {_gain(steps)} than with their own; {large:,} rows with the same steps are {_gain(rows)} than those."
    )


def _rises(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str) -> str | None:
    """Only said where more rows surely made the arm worse."""
    found = rise_of(problem, outcomes, curve, arm)
    if found is None:
        return None
    best, largest, rise = found
    extra = problem.blocks and largest > problem.blocks[0]
    why = " The rows of the extra files may be of another kind." if extra else ""
    if not extra and rise.seeds == 1:
        why = " More seeds would tell whether this run failed to start."
    return f"{arm}: at {largest:,} rows it is {_gain(rise)} than at {best:,}.{why}"


def _missing(outcomes: dict[Trial, Outcome], arms: tuple[str, ...], trials: Iterable[Trial]) -> str | None:
    have = {(trial.arm, trial.rows) for trial in outcomes if not trial.as_rows}
    wanted = {(trial.arm, trial.rows) for trial in trials if not trial.as_rows} - have
    sizes = {arm: sorted(rows for name, rows in wanted if name == arm) for arm in arms}
    parts = [f"{arm} at {_listed(rows)} rows" for arm, rows in sizes.items() if rows]
    if not parts:
        return None
    return f"Not trained: {'; '.join(parts)}. Raise CFG.budget_minutes, or attach this output and run again."


def _one_seed(curve: pd.DataFrame, arms: tuple[str, ...]) -> str | None:
    single = curve[curve["arm"].isin(arms) & (curve["seeds"] == 1)]
    if single.empty:
        return None
    return (
        f"Where only one seed was trained, the intervals of a gain do not cover what another seed would change (about "
        f"{SEED_SPREAD} nats, or a run that fails to start); two single runs must differ by {ONE_SEED:.3f} nats to be "
        "called different. Train more seeds to be sure."
    )


def _gain(found: Comparison) -> str:
    if max(abs(found.at_least), abs(found.at_most)) < 0.0005:
        return f"the same to 0.0005 nats ({_seeds(found)})"
    word = "better" if found.gain >= 0 else "worse"
    sure = "" if found.at_least > 0 or found.at_most < 0 else ", which includes zero"
    interval = f"gain {found.at_least:+.3f} to {found.at_most:+.3f}, 95 %{sure}"
    return f"{abs(found.gain):.3f} nats {word} ({interval}; {_seeds(found)})"


def _alike(found: Comparison) -> bool:
    """Whether what differs surely is nothing."""
    return abs(found.at_least) < NOTHING and abs(found.at_most) < NOTHING


def _seeds(found: Comparison) -> str:
    return f"{found.seeds} seed{'s' * (found.seeds > 1)}"


def _times(ratio: float) -> str:
    words = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 8: "eight times", 10: "ten times"}
    whole = round(ratio)
    return words.get(whole, f"{whole:,} times") if abs(ratio - whole) < 0.05 * ratio else f"{ratio:.1f} times"


def _with_unit(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """The first nats are explained."""
    first = next((number for number, sentence in enumerate(sentences) if " nats" in sentence), -1)
    return tuple(
        sentence.replace(" nats", " nats (units of log loss)", 1) if number == first else sentence
        for number, sentence in enumerate(sentences)
    )


def _listed(sizes: list[int]) -> str:
    texts = [f"{size:,}" for size in sizes]
    return "".join(texts) if len(texts) < 2 else f"{', '.join(texts[:-1])} and {texts[-1]}"
