"""The time limit of a session: what is left of it, and which stage took how long."""

import math
import time
from datetime import timedelta

import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.page import say

HIDDEN_ROWS = 25_000  # about as many as the test set of Kaggle's scoring run has
COMPETITION_HOURS, SESSION_HOURS = 9, 12  # when Kaggle ends a notebook of a code competition, and a GPU session


class Clock:
    """Runs from its making; `hours` is when everything must be done.

    Times are those of `time.time()`, so that they mean the same to other processes.
    """

    def __init__(self, hours: float = math.inf):
        if hours <= 0:
            raise InputError(f"CFG.hours is {hours}; give the session's limit, such as 8.5.")
        if COMPETITION_HOURS < hours < math.inf:
            say(
                f"CFG.hours is {hours:g}: a session may take {SESSION_HOURS} hours, but Kaggle ends the notebooks of "
                f"code competitions after {COMPETITION_HOURS}."
            )
        self.begun = time.time()
        self.limit = self.begun + 3600 * hours
        self.stages: list[tuple[str, float]] = []

    def mark(self, stage: str) -> None:
        """The time since the last mark was spent on `stage`."""
        self.stages.append((stage, time.time()))

    def spent(self, stage: str) -> float:
        """Seconds of a stage that was marked."""
        ends = [self.begun, *(end for _, end in self.stages)]
        return sum(end - begin for begin, (name, end) in zip(ends, self.stages) if name == stage)

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.limit - time.time()

    def room_for(self, seconds: float) -> bool:
        """Whether work of this length still ends in time."""
        return seconds < self.left

    def share(self, parts: int) -> float:
        """When the first of `parts` equally long pieces of work has to be done."""
        return time.time() + self.left / parts

    def table(self) -> pd.DataFrame:
        """Stage, its time and its share of the total, in order."""
        ends = [self.begun, *(end for _, end in self.stages)]
        spent = [end - begin for begin, (_, end) in zip(ends, self.stages)]
        total = max(sum(spent), 1e-9)
        rows = [
            (stage, clock_text(seconds), f"{seconds / total:.0%}") for (stage, _), seconds in zip(self.stages, spent)
        ]
        return pd.DataFrame([*rows, ("total", clock_text(total), "100%")], columns=["stage", "h:mm:ss", "share"])


def clock_text(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
