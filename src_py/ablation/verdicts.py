"""What rows of the curve table, and comparisons, surely say."""

import pandas as pd

from src_py.ablation.curves import NOTHING
from src_py.ablation.problem import Outcome, Problem, Trial
from src_py.ablation.results import Comparison, compare

SEED_SPREAD = 0.013  # nats: reported standard deviation of DeBERTa fine-tunes that differ in the seed alone
ONE_SEED = 1.96 * 2**0.5 * SEED_SPREAD  # by so much two single runs may differ by their seeds, at 95 %


def own_sizes(curve: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The arm's curve for its own number of epochs, by size."""
    return curve[(curve["arm"] == arm) & (curve["as_rows"] == 0)].sort_values("rows")


def records(rows: pd.DataFrame) -> list[dict]:
    """The rows as dictionaries."""
    return rows.to_dict("records")


def verdict_of(row: dict) -> str:
    """What a row of the curve says against the constant predictor."""
    if row["at most"] < 0 and row["gain"] < -NOTHING:
        return "worse"
    if row["at least"] > 0:
        return "learns"
    return "nothing" if row["at most"] < NOTHING else "unsure"


def learned(curve: pd.DataFrame, arm: str, rows: int, as_rows: int = 0) -> bool:
    """Whether the arm surely beats the constant predictor there."""
    found = curve[(curve["arm"] == arm) & (curve["rows"] == rows) & (curve["as_rows"] == as_rows)]
    return any(verdict_of(row) == "learns" for row in records(found))


def better(found: Comparison) -> bool:
    """Surely better: with one seed, by more than seeds may differ."""
    return found.at_least > 0 and (found.seeds > 1 or found.gain > ONE_SEED)


def worse(found: Comparison) -> bool:
    """Surely worse, alike."""
    return found.at_most < 0 and (found.seeds > 1 or found.gain < -ONE_SEED)


def no_gain(found: Comparison) -> bool:
    """Surely not better."""
    return found.at_most < NOTHING and (found.seeds > 1 or found.gain < -ONE_SEED)


def rise_of(
    problem: Problem, outcomes: dict[Trial, Outcome], curve: pd.DataFrame, arm: str
) -> tuple[int, int, Comparison] | None:
    """The size with the arm's lowest log loss, its largest, and how they compare, where more rows surely made it
    worse; else None."""
    own = own_sizes(curve, arm)
    if len(own) < 2:
        return None
    best, largest = int(own.loc[own["log loss"].idxmin(), "rows"]), int(own["rows"].iloc[-1])
    found = compare(problem, outcomes, (arm, best, 0), (arm, largest, 0)) if best < largest else None
    return (best, largest, found) if found and worse(found) else None
