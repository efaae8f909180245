"""Predict new rows with the members' saved models, as many of them as the time allows."""

import time
from collections.abc import Mapping

import numpy as np
import pandas as pd

from src_py.blend.foreign import ForeignMember
from src_py.blend.member import Job, Member, left_out_if_scoring
from src_py.blend.weights import BlendChoice
from src_py.errors import InputError
from src_py.kaggle.clock import HIDDEN_ROWS, Clock

SAMPLE = 500  # training rows that stand for test rows


def answering(members: list[Member], test: pd.DataFrame) -> tuple[list[Member], list[str]]:
    """Members that can predict these test rows, and one sentence for each that only has a file for other rows."""
    able, left_out = [], []
    for member in members:
        missing = member.missing(test["id"]) if isinstance(member, ForeignMember) else 0
        if missing:
            left_out.append(
                f"{member.folder}: its file answers {len(test) - missing:,} of {len(test):,} test rows. A file for "
                "the visible rows cannot answer the hidden ones, only models can."
            )
        else:
            able.append(member)
    return able, left_out


def measure_members(
    members: list[Member], table: pd.DataFrame, rows: int, precision: str
) -> tuple[dict[str, float], list[str]]:
    """Seconds that each member will take for `rows` rows like those of `table`, by name; about 3 are spent on each.

    In a scoring run a member that cannot be loaded is left out, with a sentence; in any other run its error is raised.

    Raises:
        InputError: from a member, unless this is a scoring run; or when no member is left.
    """
    sample = table.sample(min(len(table), SAMPLE), random_state=0)
    found: dict[str, float] = {}
    left_out: list[str] = []
    for member in members:
        with left_out_if_scoring(member.folder, left_out):
            found[member.name] = member.seconds(sample, rows, precision)
    if not found:
        raise InputError(f"No member can predict. {' '.join(left_out)}")
    return found, left_out


def forecast_line(members: list[Member], seconds: Mapping[str, float], hours: float) -> str:
    """What the scoring run will take, against its limit; or that it cannot be answered at all."""
    if all(isinstance(member, ForeignMember) for member in members):
        return (
            "NO MEMBER HAS A MODEL: files answer these test rows, but the scoring run has others. Attach an output of "
            "finetune_deberta or embed_deberta_lightgbm."
        )
    minutes = sum(seconds[member.name] for member in members) / 60
    return f"All together: {minutes:.3g} minutes for {HIDDEN_ROWS:,} rows; CFG.hours allows {60 * hours:.3g}."


def fitting_in(choice: BlendChoice, seconds: Mapping[str, float], rows: int, room: float) -> list[str]:
    """Names of the blend's members that predict `rows` rows in `room` seconds, see `fit_into`.

    Args:
        seconds: of each member for `HIDDEN_ROWS` rows.
    """
    needed = {name: seconds[name] * rows / HIDDEN_ROWS for name in choice.blend.weights}
    return fit_into(needed, choice.table["cost of leaving out"].fillna(0.0).to_dict(), room)


def time_line(choice: BlendChoice, names: list[str], seconds: Mapping[str, float], rows: int, room: float) -> str:
    """That there is time only for these members, or for none, so that the fastest may take too long; "" for all."""
    needed = sum(seconds[name] for name in names) * rows / HIDDEN_ROWS
    if needed > room:
        return (
            f"There is time for no member: {', '.join(names)}, the fastest, needs about {needed / 60:.1f} minutes, and "
            f"{max(room, 0.0) / 60:.1f} are left. It predicts all the same; raise CFG.hours."
        )
    return f"There is time only for {', '.join(names)}." if set(names) < set(choice.blend.weights) else ""


def fit_into(seconds: Mapping[str, float], worth: Mapping[str, float], room: float) -> list[str]:
    """Names of the members that together take at most `room` seconds.

    What brings the least for its time goes first, until the rest fits; members that take no time stay. If none is left,
    the fastest one stays.

    Args:
        worth: of each member in nats, what leaving it out costs.
    """
    kept = list(seconds)
    while sum(seconds[name] for name in kept) > room and (slow := [name for name in kept if seconds[name] > 0]):
        kept.remove(min(slow, key=lambda name: (max(worth[name], 0.0) / seconds[name], -seconds[name])))
    return kept or [min(seconds, key=lambda name: seconds[name])]


def predict_members(
    members: list[Member], job: Job, seconds: Mapping[str, float], clock: Clock
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Probabilities (test rows, classes) of each member, by name, and a sentence for each that failed.

    In a scoring run a member that fails is left out: the others can still answer. In any other run its error is raised.

    Args:
        members: the most important first; the first one predicts whatever the clock says.
        seconds: that each will take; a member for which no time is left is left out.

    Raises:
        InputError: from a member, unless this is a scoring run; or when no member is left.
    """
    found: dict[str, np.ndarray] = {}
    left_out: list[str] = []
    for member in members:
        if found and not clock.room_for(seconds[member.name]):
            left_out.append(f"{member.folder}: the members before it took longer than forecast; there is no time left.")
            continue
        begun = time.time()
        with left_out_if_scoring(member.folder, left_out):
            found[member.name] = job.predictions_of(member)
            print(f"{member.name}: {len(job.table):,} rows in {time.time() - begun:.0f} s")
    if not found:
        raise InputError(f"No member could predict the test rows. {' '.join(left_out)}")
    return found, left_out
