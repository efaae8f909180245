"""The arms of an ablation: the posted settings, the recipe's, what lies between them, and the recipe with levers.

*Posted* are the settings of the notebook in the forum thread "DeBERTa is not learning patterns?".
"""

import re
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, get_type_hints

from src_py.ablation.levers import LEVERS
from src_py.config import Settings, parse_value, suggest
from src_py.errors import InputError
from src_py.model.preference import ModelSettings, check_options
from src_py.pairs.encode import Reading
from src_py.training.trainer import TrainingSettings

REPAIRS = {  # what each of them changes in the posted settings
    "pairwise": "P+A and P+B are read and compared, not P, A and B in one sequence",
    "line_break": "the line break is a token matched before normalization; no marker tokens, no shrunk matrix",
    "cut": "prompt and answers are cut separately, not the end of the sequence",
    "batch": "the recipe's batch, not 2 pairs a step",
    "rates": "learning rates by size, head and layer, not 2e-5 for all",
    "warmup": "the learning rate rises over the first steps",
    "head": "starts at the constant predictor and pools the mean, not random on [CLS]",
    "frozen": "word embeddings are frozen",
    "features": "counts of length and format go to the head beside the text",
}
KINDS = (Reading, ModelSettings, TrainingSettings)  # whose settings an arm may change
_ENCODER = re.compile(r"[A-Za-z0-9_.]+")  # part of a file name, and no sign that begins another part
SAME = {"evals_per_epoch", "save_fp16", "attention", "micro_batch"}  # but these: they change no trial's result
_CHANGE = re.compile(r"(?=[+-][A-Za-z_])")  # a value may hold a sign, too: encoder_dropout=-1, lr=1e-5
Kind = TypeVar("Kind", bound=Settings)


@dataclass(frozen=True)
class Arm:
    """`name` as it stands in `CFG.arms`; `repairs` are those of `REPAIRS` that it applies to the posted settings;
    `levers` those of `LEVERS` on top, and `changes` all settings that these and `field=value` set."""

    name: str
    repairs: frozenset[str]
    levers: tuple[str, ...] = ()
    changes: tuple[tuple[str, Any], ...] = ()

    def __contains__(self, repair: str) -> bool:
        return repair in self.repairs

    @property
    def base(self) -> str:
        """The arm without its levers and settings."""
        if self.name.startswith("posted"):
            return self.name
        return "".join(part for part in _CHANGE.split(self.name) if not part.startswith("+"))

    @property
    def encoder(self) -> str:
        """A part of the path of the encoder, where that is another one than CFG.model_dir; else empty."""
        return dict(self.changes).get("encoder", "")

    @property
    def longer(self) -> int:
        return max((LEVERS[lever].longer for lever in self.levers), default=1)

    @property
    def models(self) -> int:
        return max((LEVERS[lever].models for lever in self.levers), default=1)

    @property
    def needs(self) -> frozenset[str]:
        """What the training rows must have, keys of `NEEDS`."""
        asked = {LEVERS[lever].needs for lever in self.levers} - {""}
        return frozenset(asked | ({"names"} if dict(self.changes).get("names_loss") else set()))

    @property
    def trains(self) -> tuple:
        """Equal for arms that are trained alike, whatever the order and the form of what their names hold."""
        changes = {"features": "on" if "features" in self else "off"} | dict(self.changes)
        repairs = self.repairs - {"features"}
        return self.name.startswith("posted"), repairs, frozenset(changes.items()), self.longer, self.models, self.needs

    def change(self, settings: Kind) -> Kind:
        """`settings` with those that the arm changes."""
        own = {declared.name for declared in fields(settings)}
        return replace(settings, **{name: value for name, value in self.changes if name in own})


def parse_arm(name: str) -> Arm:
    """Read `posted`, `recipe`, `posted+pairwise`, `recipe-batch-warmup`, `recipe+lora`, `recipe+pooling=cls`,
    `recipe-frozen+ema+epochs=3`, `recipe+encoder=large` (another attached encoder: a part of its path).

    Raises:
        InputError: for any other form, a repair, lever or setting that does not exist or is named twice, a value that
            the setting cannot have, or settings that exclude each other.
    """
    base, *parts = _CHANGE.split(name)
    plus, minus = ([part[1:] for part in parts if part[0] == sign] for sign in "+-")
    repairs = plus if base == "posted" else minus
    known = set(repairs) <= set(REPAIRS) and len(set(parts)) == len(parts)
    if base == "posted" and known and not minus:
        return Arm(name, frozenset(repairs))
    levers = [part for part in plus if "=" not in part]
    if base == "recipe" and known and set(levers) <= set(LEVERS):
        given = [change for part in plus for change in _changes(name, part)]
        for setting in {setting for setting, _ in given}:
            if sum(setting == other for other, _ in given) > 1:
                raise InputError(f"CFG.arms: {name!r} sets {setting} twice; name one of the two.")
        arm = Arm(name, frozenset(set(REPAIRS) - set(repairs)), tuple(levers), tuple(given))
        for kind in KINDS:
            _check(arm, kind)
        _check_together(arm)
        return arm
    raise InputError(
        f"CFG.arms: {name!r} is not an arm; write posted, recipe, posted+REPAIR, recipe-REPAIR, recipe+LEVER or "
        f"recipe+SETTING=VALUE, where REPAIR is one of {', '.join(REPAIRS)}, and LEVER one of {', '.join(LEVERS)}."
    )


def lever_arm(lever: str) -> str:
    """The recipe with a lever of `CFG.levers`."""
    return f"recipe+{lever}"


def with_epochs(name: str, epochs: float) -> str | None:
    """The arm with this number of epochs in place of its own; None where it has none that can be set."""
    kept = "".join(part for part in _CHANGE.split(name) if not part.startswith("+epochs="))
    try:
        return parse_arm(f"{kept}+epochs={epochs:g}").name
    except InputError:
        return None


def with_encoder(name: str, encoder: str) -> str | None:
    """The arm with this encoder; None where it has one of its own, or none that can be set."""
    try:
        return None if parse_arm(name).encoder else parse_arm(f"{name}+encoder={encoder}").name
    except InputError:
        return None


def has_levers(name: str) -> bool:
    """Whether the arm is one with levers or settings of its own."""
    arm = parse_arm(name)
    return arm.base != arm.name


def _changes(name: str, part: str) -> list[tuple[str, Any]]:
    """The settings that a lever, or `field=value`, sets."""
    known = {field: kind for kind in KINDS for field, kind in get_type_hints(kind).items() if field not in SAME}
    known["encoder"] = str
    field, given, text = part.partition("=")
    changes = {field: text} if given else LEVERS[part].changes
    for field in changes.keys() - known.keys():
        raise InputError(f"CFG.arms: {name!r} sets {field}, which no arm can change; {suggest(field, known)}")
    if field == "encoder" and not _ENCODER.fullmatch(text):
        raise InputError(
            f"CFG.arms: {name!r} has the encoder {text!r}; write a part of its path from letters, digits, '.' and '_', "
            "such as encoder=large."
        )
    if given:
        try:
            return [(field, parse_value(field, text, known[field]))]
        except InputError as error:
            raise _in_arm(name, error) from error
    return list(changes.items())


def _check(arm: Arm, kind: type[Settings]) -> None:
    try:
        arm.change(kind())
    except InputError as error:
        raise _in_arm(arm.name, error) from error


def _check_together(arm: Arm) -> None:
    """As the first cell of `finetune_deberta` does: settings of which each is fine alone."""
    try:
        features = "on" if "features" in arm else "off"
        reading = arm.change(Reading("pairwise" if "pairwise" in arm else "joint", features=features))
        pooling = "mean" if "head" in arm else "cls"
        model = arm.change(ModelSettings(pooling=pooling, freeze_embeddings="frozen" in arm))
        check_options(reading.style, reading.features, model)
    except InputError as error:
        raise _in_arm(arm.name, error) from error


def _in_arm(name: str, error: InputError) -> InputError:
    return InputError(f"CFG.arms: in {name!r}, {str(error).removeprefix('CFG.')}")


def label(name: str) -> str:
    """The name in words: `recipe-pairwise+lora` is "recipe without pairwise, with lora"."""
    base, *parts = _CHANGE.split(name)
    words = []
    for sign, word in (("-", "without"), ("+", "with")):
        changes = [part[1:] for part in parts if part[0] == sign]
        if changes:
            words.append(f"{word} {' and '.join(changes)}")
    return f"{base} {', '.join(words)}".strip()


def single_repairs(repairs: tuple[str, ...]) -> list[str]:
    """For each repair: the posted settings with it, and the recipe without it."""
    names = [name for repair in repairs for name in (f"posted+{repair}", f"recipe-{repair}")]
    return [parse_arm(name).name for name in names]


def submission_arm(arms: tuple[str, ...]) -> str | None:
    """The last of `arms` whose model can answer the test rows: one that reads pairs as `encode_pairs` does, is one
    model, and has the encoder of CFG.model_dir."""
    found = [parse_arm(name) for name in arms]
    readable = [
        arm.name for arm in found if {"line_break", "cut"} <= arm.repairs and arm.models == 1 and not arm.encoder
    ]
    return readable[-1] if readable else None
