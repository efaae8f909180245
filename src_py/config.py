"""Apply and check the settings of a recipe's CFG dataclass."""

import difflib
import shlex
from dataclasses import fields, replace
from typing import get_args, get_origin, get_type_hints

from src_py.errors import InputError

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def configure(config, overrides: str = ""):
    """Return `config` with overrides applied and every field's type checked.

    Args:
        config: an instance of the recipe's `CFG` dataclass.
        overrides: `"key=value key=value"`, split as a shell would; tuples are comma-separated.

    Raises:
        InputError: for an unknown key (with the nearest valid name) or a value of the wrong type.
    """
    types = get_type_hints(type(config))
    changes = {}
    for item in shlex.split(overrides):
        key, separator, text = item.partition("=")
        if not separator:
            raise InputError(f"CFG: {item!r} is no setting; write key=value.")
        if key not in types:
            nearest = difflib.get_close_matches(key, types, n=1, cutoff=0.0)
            raise InputError(f"CFG has no field {key!r}; did you mean {nearest[0]!r}?")
        changes[key] = _parse(key, text, types[key])
    config = replace(config, **changes)
    for field in fields(config):
        _check(field.name, getattr(config, field.name), types[field.name])
    return config


def check_choice(key: str, value: str, choices) -> None:
    """Raise `InputError` unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"CFG.{key} is {value!r}; use one of {', '.join(map(repr, choices))}.")


def check_choices(key: str, values: tuple[str, ...], choices) -> None:
    """Raise `InputError` unless `values` are some of `choices`, each once."""
    if not values or len(set(values)) < len(values) or not set(values) <= set(choices):
        raise InputError(f"CFG.{key} is {values}; name some of {', '.join(map(repr, choices))}, each once.")


def check_folds(folds: tuple[int, ...], n_folds: int) -> None:
    """Raise `InputError` unless `folds` names at least one fold, each once and below `n_folds`."""
    if not folds or len(set(folds)) < len(folds) or not set(folds) <= set(range(n_folds)):
        raise InputError(f"CFG.folds is {folds}; name some of 0 to {n_folds - 1}, each once.")


def pick(config, *keys: str) -> dict:
    """The named fields as keyword arguments."""
    return {key: getattr(config, key) for key in keys}


def _parse(key: str, text: str, kind):
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return tuple(_parse(key, part, item) for part in text.split(",") if part)
    if kind is bool and text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    try:
        return {int: int, float: float, str: str}[kind](text)
    except (KeyError, ValueError):
        raise InputError(f"CFG.{key} wants {_name(kind)}, but got {text!r}.") from None


def _check(key: str, value, kind) -> None:
    if get_origin(kind) is tuple:
        fits = isinstance(value, tuple) and all(type(v) is get_args(kind)[0] for v in value)
    elif kind is float:
        fits = type(value) in (int, float)
    else:
        fits = type(value) is kind
    if not fits:
        raise InputError(f"CFG.{key} wants {_name(kind)}, but is {value!r}.")


def _name(kind) -> str:
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    if get_origin(kind) is tuple:
        return f"a tuple, each item {names[get_args(kind)[0]]}"
    return names[kind]
