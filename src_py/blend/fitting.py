"""From members to a blend: on which rows it is fitted, and what the scoring run will make of the same members."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from src_py.blend.find import common_rows
from src_py.blend.foreign import ForeignMember
from src_py.blend.member import Member
from src_py.blend.predict import fitting_in
from src_py.blend.report import BlendSettings
from src_py.blend.stacker import answer_lengths
from src_py.blend.weights import BlendChoice, choose_blend
from src_py.errors import InputError
from src_py.evaluation.banner import Banner, judge_predictions
from src_py.evaluation.baselines import class_shares
from src_py.evaluation.report import half_width
from src_py.kaggle.clock import HIDDEN_ROWS
from src_py.pairs.groups import calibration_groups

MANY_MORE = 1.5  # times as many rows make it worth to fit again


@dataclass(frozen=True)
class Fitted:
    """A blend, and what it was fitted on.

    Attributes:
        choice: from `choose_blend`.
        members: those that it could choose from.
        known: (training rows,) which rows all of these know.
        first: the choice among more members on fewer rows, where those that stayed were fitted again; else None.
    """

    choice: BlendChoice
    members: list[Member]
    known: np.ndarray
    first: BlendChoice | None = None

    @property
    def weights(self) -> dict[str, float]:
        """Of the members that stay."""
        return self.choice.blend.weights

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """By member, probabilities (known rows, classes) out of fold."""
        return {member.name: member.oof[self.known] for member in self.members}

    @property
    def steps(self) -> list[tuple[str, BlendChoice]]:
        """What was chosen in which step."""
        rows = f"on the {int(self.known.sum()):,} rows that they all know:"
        if self.first is None:
            return [(f"All candidates, {rows}", self.choice)]
        few = f"All candidates, on the {len(self.first.cross_fitted):,} rows that they all know:"
        return [(few, self.first), (f"Those that stay, again, {rows}", self.choice)]


@dataclass(frozen=True)
class Fitting:
    """The training rows that members are fitted on.

    Attributes:
        table: training rows from `load_pairs`, with labels.
        prompts: (training rows,) number of the prompt.
    """

    table: pd.DataFrame
    prompts: np.ndarray
    settings: BlendSettings
    seed: int

    def fit(self, members: list[Member]) -> Fitted:
        """The blend of these members, on the rows that all of them know; again, where those that stay know many more.

        Raises:
            InputError: there is no member.
        """
        if not members:
            raise InputError("Lines that begin with NOT IN THE BLEND say why no member is left; attach others.")
        fitted = self._fit(members)
        stay = [member for member in members if member.name in fitted.weights]
        more = np.all([member.known for member in stay], axis=0).sum()
        if len(stay) < len(members) and more >= MANY_MORE * fitted.known.sum():
            return replace(self._fit(stay), first=fitted.choice)
        return fitted

    def fit_in(self, members: list[Member], fits: Callable[[Fitted], list[str]]) -> Fitted:
        """The same, and again without those that do not fit the time. `fits` names those that do."""
        fitted = self.fit(members)
        names = fits(fitted)
        if set(names) < set(fitted.weights):
            return self.fit([member for member in members if member.name in names])
        return fitted

    def _fit(self, members: list[Member]) -> Fitted:
        known = np.all([member.known for member in members], axis=0)
        rows, several = self.table[known], len(members) > 1
        # A single model was calibrated by its own run: it only predicts.
        calibrate = self.settings.calibrate and (several or isinstance(members[0], ForeignMember))
        choice = choose_blend(
            {member.name: member.oof[known] for member in members},
            rows["label"].to_numpy(),
            self.prompts[known],
            calibration_groups(rows, self.seed),
            self.seed,
            lengths=answer_lengths(rows) if self.settings.stacker and several else None,
            calibrate=calibrate,
        )
        return Fitted(choice, members, known)

    def scoring_run(self, members: list[Member], seconds: Mapping[str, float], hours: float) -> Fitted | None:
        """What the scoring run will blend: it has other test rows, which only models can answer; None without one.

        Args:
            members: all that were found, whether they are in this run's blend or not.
            seconds: of each for `HIDDEN_ROWS` rows.
        """
        models = [member for member in members if not isinstance(member, ForeignMember) and member.name in seconds]
        try:
            models = common_rows(models, self.prompts)[0].members
        except InputError:  # there is none
            return None
        return self.fit_in(models, lambda fitted: fitting_in(fitted.choice, seconds, HIDDEN_ROWS, 0.9 * 3600 * hours))

    def scoring_line(self, later: Fitted | None, now: Fitted) -> str:
        """What the scoring run blends where that differs from this run, and how good that is out of fold; "" where it
        does not differ."""
        if later is None or not _other(later, now):
            return ""
        labels = self.table["label"].to_numpy()
        told = [f"{self._loss(one, labels)} on {int(one.known.sum()):,} rows" for one in (later, now)]
        return (
            f"The scoring run will blend {', '.join(later.weights)} only: out of fold its log loss is {told[0]}, where "
            f"this run's blend has {told[1]}."
        )

    def judge(self, later: Fitted | None, now: Fitted) -> Banner:
        """The banner: of what the scoring run blends first, where that differs from this run."""
        named = {"this run's blend, out of fold": now}
        if later and _other(later, now):
            named = {"the scoring run's blend, which is what counts, out of fold": later} | named
        labels, strips = self.table["label"].to_numpy(), []
        for name, one in named.items():
            own, prompts = labels[one.known], self.prompts[one.known]
            shares = class_shares(labels, one.choice.cross_fitted.shape[1])
            strips += judge_predictions(name, own, one.choice.cross_fitted, shares, prompts).strips
        return Banner(strips)

    def _loss(self, fitted: Fitted, labels: np.ndarray) -> str:
        own = labels[fitted.known]
        losses = -np.log(fitted.choice.cross_fitted[np.arange(len(own)), own].clip(1e-15))
        return f"{losses.mean():.4f} (+-{half_width(losses, self.prompts[fitted.known]):.4f})"


def _other(later: Fitted, now: Fitted) -> bool:
    return set(later.weights) != set(now.weights)
