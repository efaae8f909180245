"""Is it the data or the code? Plain sentences, generated from measured figures, that also say "cannot tell"."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src_py.ablation.curves import NOTHING, LearningCurve, fit_curve
from src_py.ablation.foretell import tell_hindcast, tell_twice
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import Comparison, baselines, compare, reading_gain
from src_py.doctor.verdict import LEAST_READING

SEED_SPREAD = 0.013  # nats: reported standard deviation of DeBERTa fine-tunes that differ in the seed alone
ONE_SEED = 1.96 * 2**0.5 * SEED_SPREAD  # by so much two single runs may differ by their seeds, at 95 %


@dataclass(frozen=True)
class Answer:
    """`sentences` in plain words; `laws` the learning curve of each arm that could be fitted."""

    sentences: tuple[str, ...]
    laws: dict[str, LearningCurve]

    def __str__(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self.sentences)


def answer(
    problem: Problem,
    outcomes: dict[Trial, Outcome],
    results: pd.DataFrame,
    curve: pd.DataFrame,
    arms: tuple[str, ...],
    trials: Iterable[Trial] = (),
) -> Answer:
    """What the figures say about each of `arms`, about data against code (first against last arm), about rows against
    steps, and about more data; and what they rest on.

    Args:
        outcomes: finished trials.
        results, curve: from `results_table` and `curve_table`, of the same trials.
        trials: all trials of the grid, to say which sizes are missing.
    """
    constant = float(baselines(problem)["constant predictor"].mean())
    laws = fit_curves(results, arms, constant, problem.blocks[0] if problem.blocks else None)
    sentences: list[str | None] = []
    for arm in arms:
        sentences += [learns(curve, results, arm), reads(problem, outcomes, curve, arm)]
    if len(arms) > 1:
        sentences.append(_data_or_code(problem, outcomes, curve, arms[0], arms[-1]))
    sentences += [_rows_or_steps(problem, outcomes, curve, arm) for arm in arms]
    sentences += [_rises(problem, outcomes, curve, arm) for arm in arms]
    sentences.append(_twice(problem, outcomes, curve, arms[-1], laws[arms[-1]]))
    sentences += [tell_hindcast(arm, law) for arm, law in laws.items() if law]
    sentences += [_missing(outcomes, arms, trials), _one_seed(curve, arms)]
    return Answer(tuple(filter(None, sentences)), {arm: law for arm, law in laws.items() if law})


def smallest_that_learns(curve: pd.DataFrame, arm: str) -> int | None:
    """The smallest size from which on every measured size beats the constant predictor, its interval above zero."""
    rows = _own(curve, arm).sort_values("rows", ascending=False)
    sure = np.array([_verdict(row) == "learns" for row in _records(rows)], dtype=bool)
    count = len(sure) if sure.all() else int(np.argmin(sure))
    return None if count == 0 else int(rows["rows"].iloc[count - 1])


def fit_curves(
    results: pd.DataFrame, arms: tuple[str, ...], constant: float, own_rows: int | None = None
) -> dict[str, LearningCurve | None]:
    """A learning curve for each arm over the sizes trained for its own number of epochs; None with too few sizes.

    Diverged trials are left out, and so are sizes above `own_rows`: they contain rows of extra files, which lie on no
    such curve.

    Args:
        constant: log loss of the constant predictor.
    """
    laws = {}
    for arm in arms:
        runs = results[(results["arm"] == arm) & (results["as_rows"] == 0) & ~results["diverged"].astype(bool)]
        runs = runs[runs["rows"] <= (own_rows or np.inf)]
        laws[arm] = fit_curve(runs["rows"], runs["log_loss"], constant)
    return laws


def _own(curve: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The arm's curve for its own number of epochs, by size."""
    return curve[(curve["arm"] == arm) & (curve["as_rows"] == 0)].sort_values("rows")


def _records(rows: pd.DataFrame) -> list[dict]:
    return rows.to_dict("records")


def _verdict(row: dict) -> str:
    """What a row of the curve says against the constant predictor."""
    if row["at most"] < 0 and row["gain"] < -NOTHING:
        return "worse"
    if row["at most"] < NOTHING:
        return "nothing"
    return "learns" if row["at least"] > 0 else "unsure"


def _learned(curve: pd.DataFrame, arm: str, rows: int, as_rows: int = 0) -> bool:
    found = curve[(curve["arm"] == arm) & (curve["rows"] == rows) & (curve["as_rows"] == as_rows)]
    return any(_verdict(row) == "learns" for row in _records(found))


def _better(found: Comparison) -> bool:
    """Surely better: with one seed, by more than seeds may differ."""
    return found.at_least > 0 and (found.seeds > 1 or found.gain > ONE_SEED)


def _worse(found: Comparison) -> bool:
    return found.at_most < 0 and (found.seeds > 1 or found.gain < -ONE_SEED)


def _no_gain(found: Comparison) -> bool:
    """Surely not better."""
    return found.at_most < NOTHING and (found.seeds > 1 or found.gain < -ONE_SEED)


def reads(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str) -> str | None:
    """Whether the encoder of an arm with counts adds something to them, at its largest size; None without counts."""
    own = _own(curve, arm)
    largest = 0 if own.empty else int(own["rows"].iloc[-1])
    found = reading_gain(problem, outcomes, (arm, largest, 0))
    if found is None:
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
    own, finished = _own(curve, arm), results[results["arm"] == arm]
    lost = finished[finished["diverged"].astype(bool)]
    where = _listed(sorted(lost["rows"].unique()))
    diverged = f" {len(lost)} of its {len(finished)} trials diverged (NaN), at {where} rows." if len(lost) else ""
    if own.empty:
        return f"{arm}: no trial gave a result, so nothing can be told.{diverged}"
    first = smallest_that_learns(curve, arm)
    sizes: dict[str, list[int]] = {"nothing": [], "worse": [], "unsure": [], "learns": []}
    for row in _records(own[own["rows"] < first] if first else own):
        sizes[_verdict(row)].append(row["rows"])
    wording = {
        "nothing": "it stays at the constant predictor: it learns nothing there",
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
    both = sorted(set(_own(curve, old)["rows"]) & set(_own(curve, new)["rows"]))
    pairs = [(size, compare(problem, outcomes, (old, size, 0), (new, size, 0))) for size in both]
    compared = [(size, found) for size, found in pairs if found]
    if not compared:
        return f"Data or code? Cannot tell: {old} and {new} have no size and seed in common."
    small, (large, code) = int(_own(curve, old)["rows"].min()), compared[-1]
    data = compare(problem, outcomes, (old, small, 0), (old, large, 0)) if small < large else None
    figures = [f"at the same {large:,} rows {new} is {_gain(code)}"]
    if data:
        figures.append(f"going from {small:,} to {large:,} rows makes {old} {_gain(data)}")
    more = f"more rows alone were not seen to help {old}" if data else f"whether more rows help {old} was not measured"
    learned = [_learned(curve, arm, large) for arm in (old, new)]
    data_helps = data is not None and _better(data) and learned[0]
    if _better(code) and learned[1]:
        verdict = "Both: the code, and the data" if data_helps else f"The code: {more}"
    elif _worse(code):
        verdict = f"Not the code: {new} is worse than {old}" + ("; more rows help" if data_helps else "")
    elif data_helps:
        alike = abs(code.at_least) < NOTHING and abs(code.at_most) < NOTHING
        verdict = "The data: " + (
            f"at {large:,} rows the code makes no difference" if alike else "whether the code matters cannot be told"
        )
    elif not any(learned):
        verdict = f"Cannot tell: neither {old} nor {new} surely beats the constant predictor at {large:,} rows"
    else:
        verdict = "Cannot tell"
    return f"Data or code? {verdict}; {', '.join(figures)}."


def _rows_or_steps(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str) -> str | None:
    own = set(_own(curve, arm)["rows"])
    controls = curve[(curve["arm"] == arm) & curve["as_rows"].isin(own) & curve["rows"].isin(own)]
    if controls.empty:
        return None
    chosen = controls.sort_values(["as_rows", "rows"], ascending=[False, True]).index[0]  # largest step, fewest rows
    small, large = (int(size) for size in controls.loc[chosen, ["rows", "as_rows"]])
    steps = compare(problem, outcomes, (arm, small, 0), (arm, small, large))
    rows = compare(problem, outcomes, (arm, small, large), (arm, large, 0))
    if steps is None or rows is None:
        return f"{arm}, rows or steps? Cannot tell: the trials to compare have no seed in common."
    if not any(_learned(curve, arm, *run) for run in ((small, large), (large, 0))):
        return f"{arm}, rows or steps? Cannot tell: neither {small:,} nor {large:,} rows beat the constant predictor."
    if _better(steps) and _better(rows):
        verdict = "Both matter"
    elif _better(steps):
        verdict = "The steps matter; " + ("more rows add nothing" if _no_gain(rows) else "the rows cannot be told")
    elif _better(rows):
        verdict = "The rows matter; " + (
            "more steps on few rows do not replace them" if _no_gain(steps) else "whether steps do too cannot be told"
        )
    else:
        verdict = "Cannot tell"
    return (
        f"{arm}, rows or steps? {verdict}: {small:,} rows trained for as many steps as {large:,} rows get are "
        f"{_gain(steps)} than with their own; {large:,} rows with the same steps are {_gain(rows)} than those."
    )


def _rises(problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str) -> str | None:
    """Only said where more rows surely made the arm worse."""
    own = _own(curve, arm)
    if len(own) < 2:
        return None
    best, largest = int(own.loc[own["log loss"].idxmin(), "rows"]), int(own["rows"].iloc[-1])
    found = compare(problem, outcomes, (arm, best, 0), (arm, largest, 0)) if best < largest else None
    if not found or not _worse(found):
        return None
    extra = problem.blocks and largest > problem.blocks[0]
    why = "the rows of the extra files may be of another kind" if extra else "a run may have failed to start"
    return f"{arm}: at {largest:,} rows it is {_gain(found)} than at {best:,}. More seeds tell why: {why}."


def _twice(
    problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str, law: LearningCurve | None
) -> str:
    if law is None:
        own = _own(curve, arm)
        has = f"{own['rows'].nunique()} sizes and {int(own['seeds'].sum())} trials"
        return f"Twice the data? Cannot tell: a curve needs three sizes; {arm} has {has}."
    largest = law.largest
    if not _learned(curve, arm, largest):
        return f"Twice the data? Cannot tell: {arm} does not surely beat the constant predictor at {largest:,} rows."
    if largest == _own(curve, arm)["rows"].max() and _rises(problem, outcomes, curve, arm):  # which says by how much
        return f"Twice the data ({2 * largest:,} rows)? Cannot tell: {arm}'s log loss rises up to {largest:,} rows."
    return tell_twice(problem, outcomes, arm, law)


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
    word = "better" if found.gain >= 0 else "worse"
    sure = "" if found.at_least > 0 or found.at_most < 0 else ", which includes zero"
    seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
    return f"{abs(found.gain):.3f} nats {word} (gain {found.at_least:+.3f} to {found.at_most:+.3f}{sure}; {seeds})"


def _listed(sizes: list[int]) -> str:
    texts = [f"{size:,}" for size in sizes]
    return "".join(texts) if len(texts) < 2 else f"{', '.join(texts[:-1])} and {texts[-1]}"
