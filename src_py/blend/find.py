"""Find the members of a blend among what is attached, and say why others cannot take part."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.blend.boosted import BoostedMember
from src_py.blend.foreign import ForeignMember, is_foreign
from src_py.blend.member import Member, left_out_if_scoring
from src_py.blend.trained import FineTunedMember, join_folds
from src_py.errors import InputError
from src_py.evaluation.report import half_width
from src_py.kaggle.inputs import TRAINED_MARKER, walk
from src_py.kaggle.page import say
from src_py.model.find import attached_encoders
from src_py.model.fine_tuned import RECIPE as FINE_TUNED
from src_py.pairs.contest import Contest
from src_py.tabular.saved import MARKER as TABULAR_MARKER
from src_py.tabular.saved import RECIPE as BOOSTED
from src_py.tabular.saved import encoder_digest

RECORD = "blend_submissions_run.json"
OTHER_OUTPUTS = {
    RECORD: "it is an output of this notebook; its members take part when they are attached themselves",
    "ablate_subset_vs_full_run.json": "an ablation has no out-of-fold predictions; train finetune_deberta with what it "
    "found, and attach that",
}
FEWEST_ROWS = 200  # below, the standard error of a difference in log loss (0.3 / sqrt(rows)) is above 0.02
FEWEST_PROMPTS = 5
SAME = 1e-6  # probabilities that are closer are the same
TOO_GOOD = 0.1  # nats below the best checked member
# Lines of `score_table`.
RESERVED = ("constant predictor", "plain mean", "blend", "blend, on the rows it was fitted on")


class Found(NamedTuple):
    """Members that can take part, and one sentence for each folder that cannot."""

    members: list[Member]
    left_out: list[str]


def find_members(
    root: str | Path, table: pd.DataFrame, prompts: np.ndarray, contest: Contest, exclude: Sequence[str] = ()
) -> Found:
    """Outputs of the recipes, and foreign folders, below `root` that predict rows of `table` out of fold.

    Args:
        table: training rows from `load_pairs`.
        prompts: (training rows,) number of the prompt.
        exclude: names of members that the user does not want.

    Raises:
        InputError: a name in `exclude` that no member has.
    """
    folders = dict(walk(root))
    trained, boosted, foreign, others = _sort(folders)
    name_of = _names([*trained, *boosted, *foreign], Path(root))
    found = Found([], [f"{folder}: {OTHER_OUTPUTS[name]}." for folder, name in others.items()])
    classes, read = contest.classes, _Read(name_of, found.left_out)
    read.add(trained, lambda name, folder: FineTunedMember.read(name, folder, table, classes))
    single = [member for member in read.members if isinstance(member, FineTunedMember)]
    tuned = {member.digest: member for member in single}
    read.members[:] = join_folds([member for member in single if member.name not in exclude])
    encoders = {encoder_digest(folder): folder for folder in attached_encoders(root)} if boosted else {}
    read.add(boosted, lambda name, folder: BoostedMember.read(name, folder, table, classes, encoders, tuned))
    read.add(foreign, lambda name, folder: ForeignMember.read(name, folder, table, contest))
    kept = _without(exclude, [*single, *read.members], name_of, found.left_out)
    for member in (member for member in read.members if member.name in kept):
        if problem := _problem(member, found.members, prompts):
            found.left_out.append(f"{member.folder}: {problem}.")
        else:
            found.members.append(member)
    return found


def _without(exclude: Sequence[str], members: list[Member], name_of: dict[Path, str], left_out: list[str]) -> set[str]:
    """Names of the members that `exclude` does not name, by their own name or their folder's; the others are left out.

    Raises:
        InputError: it names something that is not there, or every member.
    """
    names = {folder: {name} for folder, name in name_of.items()}  # a member.json gives another name
    for member in members:
        names[member.folder] = names[member.folder] | {member.name}
    shown = {member.name for member in members}
    shown |= {name for folder, name in name_of.items() if folder not in {member.folder for member in members}}
    for name in exclude:
        if not any(name in own for own in names.values()):
            nearest = difflib.get_close_matches(name, shown, n=1)
            hint = f"did you mean {nearest[0]!r}? Attached" if nearest else "attached"
            raise InputError(f"CFG.exclude names {name!r}; {hint} are {', '.join(sorted(shown)) or 'none'}.")
    excluded = [member for member in members if {member.name, name_of[member.folder]} & set(exclude)]
    left_out.extend(dict.fromkeys(f"{member.folder}: CFG.exclude names it." for member in excluded))
    kept = {member.name for member in members} - {member.name for member in excluded}
    if excluded and not kept:
        raise InputError("CFG.exclude names every member; leave at least one.")
    return kept


class _Read:
    """Members as they are read, each with a name that no other has; what cannot be read goes to `left_out`."""

    def __init__(self, name_of: dict[Path, str], left_out: list[str]):
        self.members: list[Member] = []
        self.name_of, self.left_out = name_of, left_out

    def add(self, folders: list[Path], read: Callable[[str, Path], Member]) -> None:
        for folder in folders:
            name = self.name_of[folder]
            member = None
            with left_out_if_scoring(folder, self.left_out):  # beside the two below, what nobody foresaw
                try:
                    member = read(name, folder)
                except (InputError, OSError) as error:
                    self.left_out.append(str(error))
            if member is None:
                continue
            taken = {*RESERVED, *(other.name for other in self.members), *(set(self.name_of.values()) - {name})}
            if member.name in taken:  # a foreign one says its name itself
                member = replace(member, name=f"{member.name} ({name})")
            self.members.append(member)


def _sort(folders: dict[Path, set[str]]) -> tuple[list[Path], list[Path], list[Path], dict[Path, str]]:
    """Folders by what they hold: outputs of finetune_deberta, of embed_deberta_lightgbm, foreign predictions; and other
    outputs with the name of their record."""

    def holding(record: str) -> set[Path]:
        return {folder for folder, names in folders.items() if record in names}

    others = {folder: record for record in OTHER_OUTPUTS for folder in sorted(holding(record))}
    trained = {folder.parent for folder in holding(TRAINED_MARKER)}
    trained = {folder for folder in trained if not {folder, folder.parent} & set(others)}
    trained |= holding(f"{FINE_TUNED}_run.json")
    boosted = {folder.parent for folder in holding(TABULAR_MARKER)} | holding(f"{BOOSTED}_run.json")
    inside = {*trained, *boosted, *others}
    foreign = [folder for folder, names in folders.items() if folder not in inside and is_foreign(names)]
    return sorted(trained), sorted(boosted), foreign, others


def doubts(members: list[Member], labels: np.ndarray) -> list[str]:
    """One sentence for each reason not to believe a member's out-of-fold loss: helpers that were edited since, a file
    that does not say its folds, and a loss that is too good to be out of fold."""
    sentences = [
        f"{member.name} was trained with other helpers than this notebook's ({', '.join(member.edited)}): its models "
        "may predict worse than its out-of-fold loss says. If you edited them there, make the same edits here."
        for member in members
        if member.edited
    ]
    trusted = [_losses(member, labels).mean() for member in members if not isinstance(member, ForeignMember)]
    for member in members:
        if not isinstance(member, ForeignMember):
            continue
        losses, parts = _losses(member, labels), member.fold_of[member.known]
        if len(set(parts.tolist())) < 2:
            sentences.append(
                f"{member.name} does not say its folds: nobody can check that its predictions are out of fold."
            )
        by_fold = [losses[parts == fold].mean() for fold in np.unique(parts)]
        if trusted and losses.mean() < min(trusted) - TOO_GOOD:
            why = f"Its log loss of {losses.mean():.4f} is far below that of the models here"
        elif min(by_fold) < np.median(by_fold) - TOO_GOOD:
            why = f"Its log loss is {min(by_fold):.4f} in one fold and {np.median(by_fold):.4f} in most others"
        else:
            continue
        sentences.append(
            f"{member.name} is too good to be true. {why}; if its models have seen these rows, it gets far too much "
            "weight. Name it in CFG.exclude unless you know better."
        )
    return sentences


def _losses(member: Member, labels: np.ndarray) -> np.ndarray:
    """(known rows,) log losses."""
    known = member.known
    return -np.log(member.oof[known, labels[known]].clip(1e-15))


def say_left_out(sentences: Iterable[str]) -> None:
    """Print why members are not in the blend, one line each."""
    for sentence in sentences:
        say(f"NOT IN THE BLEND: {sentence}")


def common_rows(members: list[Member], prompts: np.ndarray) -> tuple[Found, np.ndarray]:
    """Members that are known for the same rows, and (training rows,) which these are.

    While they have too few rows in common, the one that costs the others most rows is left out.

    Raises:
        InputError: there is no member.
    """
    if not members:
        raise InputError(
            "There is nothing to predict with: attach the output of a finished run of finetune_deberta or "
            "embed_deberta_lightgbm. Lines above that begin with NOT IN THE BLEND say what was found and why it cannot."
        )
    found = Found(list(members), [])
    while True:
        known = np.all([member.known for member in found.members], axis=0)
        if len(found.members) < 2 or _enough(known, prompts):
            return found, known
        without = [[other for other in found.members if other is not member] for member in found.members]
        rows = [int(np.all([member.known for member in rest], axis=0).sum()) for rest in without]
        worst = found.members.pop(int(np.argmax(rows)))
        found.left_out.append(
            f"{worst.folder}: all members together are known for {int(known.sum())} rows, {max(rows):,} without this "
            f"one, and weights need {FEWEST_ROWS}; train its other folds."
        )


def limiting_line(members: list[Member], known: np.ndarray) -> str:
    """On how many rows the weights are fitted, and which member limits them most, if one does.

    Args:
        known: (training rows,) from `common_rows`.
    """
    line = f"Candidates: {', '.join(member.name for member in members)}. All of them know {int(known.sum()):,} of "
    line += f"{len(known):,} training rows."
    without = {
        member.name: int(np.all([other.known for other in members if other is not member], axis=0).sum())
        for member in (members if len(members) > 1 else [])
    }
    most = max(without, key=lambda name: without[name], default="")
    if most and without[most] > 1.5 * known.sum():
        line += f" Without {most} they know {without[most]:,}: train its other folds, or name it in CFG.exclude."
    return line


def member_table(
    members: list[Member], labels: np.ndarray, prompts: np.ndarray, seconds: dict[str, float], hidden_rows: int
) -> pd.DataFrame:
    """One row a member: what it is, rows known, log loss on them with half of its 95 % interval, its own temperature,
    gigabytes, and minutes for so many hidden rows, from `seconds`."""
    rows = {}
    for member in members:
        known, losses = member.known, _losses(member, labels)
        rows[member.name] = {
            "recipe": member.recipe,
            "encoder": member.encoder,
            "folds": member.folds or "unknown",
            "rows known": int(known.sum()),
            "log loss": losses.mean(),
            "+-": half_width(losses, prompts[known]),
            "temperature": member.temperature,
            "GB": member.size / 1e9,
            f"minutes for {hidden_rows:,} rows": seconds.get(member.name, float("nan")) / 60,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("member")


def _problem(member: Member, earlier: list[Member], prompts: np.ndarray) -> str:
    """Why it cannot take part beside the earlier ones: too few rows, or a copy; "" if it can."""
    known = member.known
    if not _enough(known, prompts):
        return (
            f"it is known for {int(known.sum())} rows with {len(np.unique(prompts[known]))} prompts, while weights "
            f"need {FEWEST_ROWS} rows with {FEWEST_PROMPTS} prompts; attach a run on more rows"
        )
    for other in earlier:
        same = known.tolist() == other.known.tolist() and np.abs(member.oof[known] - other.oof[known]).max() < SAME
        if other.digest == member.digest or same:
            return f"it predicts the same as {other.folder}; one of them is enough"
    return ""


def _enough(known: np.ndarray, prompts: np.ndarray) -> bool:
    return known.sum() >= FEWEST_ROWS and len(np.unique(prompts[known])) >= FEWEST_PROMPTS


def _names(folders: list[Path], root: Path) -> dict[Path, str]:
    """The end of each path that no other has; whole paths below `root` where one is the end of another."""
    parts = {folder: folder.relative_to(root).parts or (root.name,) for folder in folders}

    def name(folder: Path) -> str:
        for count in range(1, len(parts[folder]) + 1):
            end = parts[folder][-count:]
            if sum(other[-count:] == end for other in parts.values()) == 1:
                return "/".join(end)
        return "/".join(parts[folder])

    return {folder: name(folder) for folder in folders}
