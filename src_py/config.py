"""The settings of a notebook: what its `CFG` class may hold, checked in seconds before anything is read."""

import difflib
import math
import os
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from src_py.errors import InputError

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text in quotes"}
MISSPELT = 0.75  # difflib's ratio from which an unknown name counts as a misspelt one: "epoch" and "epochs" have 0.91

# What others call these settings, as far as the words differ too much to look misspelt.
SYNONYMS = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "micro_batch",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "max_len": "max_length",
    "model_name": "model_dir",
    "model_path": "model_dir",
    "data_path": "data_dir",
    "fp16": "precision",
    "bf16": "precision",
    "n_splits": "n_folds",
    "fold": "folds",
    "random_state": "seed",
    "heads": "models",
    "fast_attention": "attention",
}

Kind = TypeVar("Kind")


def setting(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple = (),
    folder: bool = False,
) -> Any:
    """A field of a settings dataclass, with what `check_config` lets it be.

    Args:
        least, most: inclusive bounds of a number, or of each item of a tuple.
        above, below: exclusive bounds.
        choices: the allowed values, or the allowed items of a tuple, each at most once.
        folder: the value names a folder that must exist.
    """
    limits = {"least": least, "most": most, "above": above, "below": below, "choices": choices, "folder": folder}
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class Settings:
    """Base of settings dataclasses: every value is checked when one is made.

    Raises:
        InputError: a wrong type, a value out of range, an unknown choice, or a folder that does not exist.
    """

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for declared in fields(self):
            value = _checked(declared.name, getattr(self, declared.name), kinds[declared.name], declared.metadata)
            object.__setattr__(self, declared.name, value)


class Config:
    """Checked settings: every value by its name, and `part` for those that belong together."""

    def __init__(self, values: dict[str, Any], parts: dict[type, Any]):
        self.__dict__.update(values)
        self._parts = parts

    def __getattr__(self, name: str) -> Any:  # only called for names that are absent
        raise AttributeError(f"CFG has no setting {name!r}.")

    def part(self, kind: type[Kind]) -> Kind:
        """The settings of one dataclass, such as `Reading`."""
        return self._parts[kind]

    def values(self) -> dict[str, Any]:
        """All settings by name, and the plain values that the user added; what they are may change results."""
        return {name: value for name, value in vars(self).items() if name != "_parts" and _is_plain(value)}


def read_overrides(text: str, known: Collection[str]) -> dict[str, str]:
    """The names and texts of `key=value ...`; where a name stands twice, the last counts.

    Args:
        known: the names that may be set.

    Raises:
        InputError: for any other form, or a name that is not known.
    """
    try:
        items = shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"CFG: {text!r} cannot be split into key=value ({error}); put values that hold quotes or spaces in quotes."
        ) from error
    found = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise InputError(f"CFG: {item!r} is not a setting; write key=value.")
        if name not in known:
            raise InputError(f"CFG has no setting {name!r}; {suggest(name, known)}")
        found[name] = value
    return found


def check_config(user: type, *kinds: type[Settings], overrides: str = "") -> Config:
    """Check a notebook's `CFG` class against the dataclasses that declare its settings.

    Names that no dataclass declares are kept for the notebook's own cells, and said; unless they look like a misspelt
    setting.

    Args:
        user: the class (or an instance of it) from the configuration cell; values need no annotation, and a list may
            stand for a tuple.
        kinds: subclasses of `Settings`, frozen dataclasses whose fields are made by `setting`.
        overrides: `"key=value key=value"`, split as a shell does; items of a tuple are separated by commas.

    Raises:
        InputError: an unknown, misspelt or missing name, a wrong type, a value out of range, an unknown choice, or a
            folder that does not exist; the sentence names the field.
    """
    declared = {f.name: (f, get_type_hints(kind)[f.name]) for kind in kinds for f in fields(kind)}
    kind = user if isinstance(user, type) else type(user)
    given = {name: value for part in reversed(kind.__mro__[:-1]) for name, value in vars(part).items()}
    given |= {} if isinstance(user, type) else vars(user)
    given = {name: value for name, value in given.items() if not name.startswith("_")}
    for name in given:
        if name in ("part", "values"):
            raise InputError(f"CFG.{name} is not a setting, and the helpers need that name; choose another one.")
        if name not in declared:
            if meant := _meant(name, declared):
                raise InputError(f"CFG has no setting {name!r}; did you mean {meant!r}?")
            print(f"CFG.{name} is not a setting of this notebook: only your own cells can use it.")
    for name, text in read_overrides(overrides, declared).items():
        given[name] = parse_value(name, text, declared[name][1])
    for name, (declaration, _) in declared.items():
        if name not in given:
            raise InputError(f"CFG.{name} is missing; put it back, for example {name} = {declaration.default!r}.")
    parts = {kind: kind(**{f.name: given[f.name] for f in fields(kind)}) for kind in kinds}
    checked = {name: value for part in parts.values() for name, value in vars(part).items()}
    return Config(given | checked, parts)


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: which of the known ones it may mean, or else all of them."""
    known = list(known)
    meant = _meant(name, known)
    return f"did you mean {meant!r}?" if meant else f"use one of {', '.join(known)}."


def _meant(name: str, known: Iterable[str]) -> str | None:
    """What a name that is not known may mean: what it is called elsewhere, or one that is spelt like it."""
    known = list(known)
    if SYNONYMS.get(name) in known:
        return SYNONYMS[name]
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=MISSPELT)), None)


def _is_plain(value: Any) -> bool:
    """Whether a value is text, a number or a collection of them; an object prints differently in each session."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(_is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))


def check_choice(key: str, value: str, choices) -> None:
    """Raise `InputError` unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"CFG.{key} is {value!r}; use one of {', '.join(map(repr, choices))}.")


def parse_value(name: str, text: str, kind) -> Any:
    """The value of setting `name` from its text; its limits are checked when a `Settings` object is made of it.

    Raises:
        InputError: when the text is no value of its type.
    """
    if get_origin(kind) is tuple:
        return tuple(parse_value(name, part, get_args(kind)[0]) for part in text.split(",") if part)
    if kind is bool and text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    try:
        return {int: int, float: float, str: str}[kind](text)
    except (KeyError, ValueError):
        raise InputError(f"CFG.{name} must be {_KINDS[kind]}, but got {text!r}.") from None


def _checked(name: str, value: Any, kind, limits) -> Any:
    """The value in its declared type; raises `InputError` when it cannot have it or breaks a limit."""
    if get_origin(kind) is tuple:
        item_kind = get_args(kind)[0]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"CFG.{name} is {value!r}; write a list, such as [{value!r}].")
        items = tuple(_typed(name, item, item_kind, "a list, each item ") for item in value)
        choices = limits.get("choices")
        if choices and (len(set(items)) < len(items) or not set(items) <= set(choices)):
            raise InputError(f"CFG.{name} is {list(items)}; use some of {', '.join(map(repr, choices))}, each once.")
        for item in items:
            _check_range(name, item, limits)
        return items
    value = _typed(name, value, kind)
    if limits.get("choices"):
        check_choice(name, value, limits["choices"])
    _check_range(name, value, limits)
    if limits.get("folder") and not os.path.isdir(value):
        raise InputError(
            f"The folder {value} does not exist; set CFG.{name}, or run this cell again if the inputs were attached "
            "just now."
        )
    return value


def _typed(name: str, value: Any, kind, prefix: str = "") -> Any:
    if kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) is not kind:
        quoted = "; remove the quotes" if isinstance(value, str) and _reads_as(value, kind) else ""
        raise InputError(f"CFG.{name} must be {prefix}{_KINDS[kind]}, but is {value!r}{quoted}.")
    if kind is float and not math.isfinite(value):
        raise InputError(f"CFG.{name} must be a finite number, but is {value!r}.")
    return value


def _reads_as(text: str, kind) -> bool:
    try:
        parse_value("", text, kind)
    except InputError:
        return False
    return True


def _check_range(name: str, value: Any, limits) -> None:
    least, most, above, below = (limits.get(key) for key in ("least", "most", "above", "below"))
    inside = (
        (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    if not inside:
        words = [("at least", least), ("at most", most), ("above", above), ("below", below)]
        wanted = " and ".join(f"{word} {limit:g}" for word, limit in words if limit is not None)
        raise InputError(f"CFG.{name} is {value!r}; it must be {wanted}.")
