"""Data or code? Plain sentences, generated from measured figures, that also say "cannot tell"."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src_py.ablation.results import PowerLaw, compare, fit_power_law
from src_py.ablation.trials import Cell, Outcome, Problem

NOTHING = 0.005  # nats: a gain whose interval stays below this is nothing


@dataclass(frozen=True)
class Answer:
    """`sentences` in plain words; `laws` the fitted power law of each configuration that could be fitted."""

    sentences: tuple[str, ...]
    laws: dict[str, PowerLaw]

    def __str__(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self.sentences)


def smallest_that_learns(curve: pd.DataFrame, arm: str) -> int | None:
    """The smallest size from which on every measured size beats the constant predictor, its interval above zero."""
    rows = curve[(curve["arm"] == arm) & (curve["as_rows"] == 0)].sort_values("rows", ascending=False)
    sure = (rows["at least"] > 0).to_numpy()
    count = len(sure) if sure.all() else int(np.argmin(sure))
    return None if count == 0 else int(rows["rows"].iloc[count - 1])


def fit_curves(results: pd.DataFrame, arms: tuple[str, ...]) -> dict[str, PowerLaw | None]:
    """A power law for each configuration over the sizes trained for its own number of epochs."""
    own = results[(results["as_rows"] == 0) & ~results["diverged"]]
    groups = {arm: own[own["arm"] == arm] for arm in arms}
    return {arm: fit_power_law(rows["rows"], rows["log_loss"]) for arm, rows in groups.items()}


def answer(
    problem: Problem, cells: dict[Cell, Outcome], results: pd.DataFrame, curve: pd.DataFrame, arms: tuple[str, ...]
) -> Answer:
    """What the figures say about each of `arms`, about data against code (first against last arm), about rows against
    steps, and about more data."""
    laws = fit_curves(results, arms)
    told = [_learns(curve, results, arm) for arm in arms if arm in set(curve["arm"])]
    if len(arms) > 1:
        told += [_data_or_code(problem, cells, curve, arms[0], arms[-1])]
    told += [sentence for arm in arms if (sentence := _rows_or_steps(problem, cells, curve, arm))]
    told += [_twice(curve, arm, laws[arm]) for arm in arms[-1:] if arm in set(curve["arm"])]
    return Answer(tuple(told), {arm: law for arm, law in laws.items() if law})


def _learns(curve: pd.DataFrame, results: pd.DataFrame, arm: str) -> str:
    rows = curve[(curve["arm"] == arm) & (curve["as_rows"] == 0)].sort_values("rows")
    lost = int(results[(results["arm"] == arm) & results["diverged"]].shape[0])
    broke = f" {lost} of its runs diverged (NaN)." if lost else ""
    if rows.empty:
        return f"{arm}: no size was finished, so nothing can be told.{broke}"
    first = smallest_that_learns(curve, arm)
    below = rows[rows["rows"] < first] if first else rows
    flat = below[below["at most"] < NOTHING]["rows"].tolist()
    unsure = below[below["at most"] >= NOTHING]["rows"].tolist()
    parts = []
    if flat:
        parts.append(f"at {_listed(flat)} rows it stays at the constant predictor: it learns nothing there")
    if unsure:
        parts.append(f"at {_listed(unsure)} rows the intervals include zero: cannot tell")
    if first:
        best = rows.iloc[-1]
        parts.append(
            f"from {first:,} rows on it beats the constant predictor, at {best['rows']:,} rows by "
            f"{best['gain']:.3f} nats ({best['at least']:.3f} to {best['at most']:.3f})"
        )
    return f"{arm}: {'; '.join(parts)}.{broke}"


def _data_or_code(problem: Problem, cells, curve: pd.DataFrame, old: str, new: str) -> str:
    sizes = [set(curve[(curve["arm"] == arm) & (curve["as_rows"] == 0)]["rows"]) for arm in (old, new)]
    both = sorted(sizes[0] & sizes[1])
    if not both:
        return f"Data or code? Cannot tell: {old} and {new} have no size in common."
    small, large = both[0], both[-1]
    code = compare(problem, cells, (old, large, 0), (new, large, 0))
    said, data = [f"at the same {large:,} rows {new} is {_gain(code)}"], None
    if small < large:
        data = compare(problem, cells, (old, small, 0), (old, large, 0))
        if data:
            said.append(f"going from {small:,} to {large:,} rows makes {old} {_gain(data)}")
    helps = f"whether more rows help {old} was not measured"
    if data:
        helps = f"more rows alone were not seen to help {old}"
    verdict = {
        (True, True): "Both: the code, and the data",
        (True, False): f"The code: {helps}",
        (False, True): f"The data: at {large:,} rows the code's settings make no sure difference",
        (False, False): "Cannot tell",
    }[code[1] > 0, data is not None and data[1] > 0 and _learned(curve, old, large)]
    return f"Data or code? {verdict}; {', '.join(said)}."


def _rows_or_steps(problem: Problem, cells, curve: pd.DataFrame, arm: str) -> str | None:
    mine = curve[curve["arm"] == arm]
    own = set(mine[mine["as_rows"] == 0]["rows"])
    controls = mine[(mine["as_rows"] > 0) & mine["as_rows"].isin(own) & mine["rows"].isin(own)]
    if controls.empty:
        return None
    chosen = controls.sort_values(["as_rows", "rows"], ascending=[False, True]).index[0]  # largest step, fewest rows
    small, large = (int(size) for size in controls.loc[chosen, ["rows", "as_rows"]])
    steps = compare(problem, cells, (arm, small, 0), (arm, small, large))
    rows = compare(problem, cells, (arm, small, large), (arm, large, 0))
    if steps is None or rows is None:
        return f"{arm}, rows or steps? Cannot tell: the runs to compare were not finished."
    if not any(_learned(curve, arm, *run) for run in ((small, large), (large, 0))):
        return f"{arm}, rows or steps? Cannot tell: neither {small:,} nor {large:,} rows beat the constant predictor."
    surely = {
        (True, True): "Both matter",
        (True, False): "The steps matter; that the rows do cannot be told",
        (False, True): "The rows matter; more steps on few rows do not replace them",
        (False, False): "Cannot tell",
    }[steps[1] > 0, rows[1] > 0]
    return (
        f"{arm}, rows or steps? {surely}: {small:,} rows trained for as many steps as {large:,} rows get are "
        f"{_gain(steps)} than with their own; {large:,} rows with the same steps are {_gain(rows)} than those."
    )


def _learned(curve: pd.DataFrame, arm: str, rows: int, as_rows: int = 0) -> bool:
    """Whether the runs beat the constant predictor, their interval above zero."""
    found = curve[(curve["arm"] == arm) & (curve["rows"] == rows) & (curve["as_rows"] == as_rows)]
    return bool((found["at least"] > 0).any())


def _twice(curve: pd.DataFrame, arm: str, law: PowerLaw | None) -> str:
    mine = curve[(curve["arm"] == arm) & (curve["as_rows"] == 0)]
    rows, runs = mine["rows"], int(mine["seeds"].sum())
    if law is None:
        has = f"{arm} has {rows.nunique()} and {runs}"
        return f"Twice the data? Cannot tell: a curve needs three sizes and four runs, {has}."
    largest = int(rows.max())
    best, low, high = law.change(largest, 2 * largest)
    if high < 0:
        return (
            f"Twice the data ({2 * largest:,} rows) would change {arm}'s log loss by {best:+.3f} "
            f"({low:+.3f} to {high:+.3f}, 90 %), if the curve goes on as fitted."
        )
    return (
        f"Twice the data ({2 * largest:,} rows)? Cannot tell: the fitted curve allows {low:+.3f} to {high:+.3f} "
        f"for {arm} (90 %)."
    )


def _gain(found: tuple) -> str:
    mean, low, high, seeds = found
    word = "better" if mean >= 0 else "worse"
    sure = "" if low > 0 or high < 0 else ", which includes zero"
    return f"{abs(mean):.3f} nats {word} (gain {low:+.3f} to {high:+.3f}{sure}; {seeds} seed{'s' * (seeds > 1)})"


def _listed(sizes: list[int]) -> str:
    texts = [f"{size:,}" for size in sizes]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
