"""What a user says to `make`: checked before anything runs, refused in one sentence."""

import argparse
import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from src_py.config import read_overrides
from src_py.errors import InputError
from tools.build import read
from tools.percent import SyncError, parse
from tools.recipes import RECIPES, find_recipe

SESSION_SECONDS = 12 * 3600  # Kaggle ends a session after twelve hours
Value = TypeVar("Value")


def checked(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """`read` as the type of an argparse argument: the sentence of its ValueError is what the user sees."""

    def convert(text: str) -> Value:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The option --recipe: the name of an entry in `tools.recipes`."""
    parser.add_argument("--recipe", type=checked(find_recipe), default=RECIPES["finetune_deberta"])


def existing_folder(text: str) -> Path:
    """A folder to read from."""
    if not text.strip():
        raise ValueError(
            "no folder is given; write DATA=folder, with the contest's files (`make data` fetches them), and "
            "MODEL=folder, with an encoder"
        )
    if not Path(text).is_dir():
        raise ValueError(f"{text!r} is not a folder")
    return Path(text)


def new_folder(text: str) -> Path:
    """A folder to write to; it need not exist."""
    path = Path(text)
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not text.strip() or not existing.is_dir():
        raise ValueError(f"{text!r} cannot be a folder to write to")
    return path


def setting_names(recipe: Path) -> list[str]:
    """The names in the `class CFG` of a recipe's source, which is read and not executed."""
    nodes = ast.walk(parse(read(recipe), recipe.name))
    body = next(node.body for node in nodes if isinstance(node, ast.ClassDef) and node.name == "CFG")
    targets = [target for line in body if isinstance(line, ast.Assign) for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def check_cfg(text: str, recipe: Path) -> None:
    """Refuse names that are no settings of a recipe, before a kernel starts; the notebook checks the values.

    Raises:
        SyncError: for such a name, or text that is not `key=value ...`.
    """
    try:
        read_overrides(text, setting_names(recipe))
    except InputError as error:
        raise SyncError(str(error)) from error


def seconds(text: str) -> int:
    """How long a run on Kaggle may take."""
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 0 < int(text) <= SESSION_SECONDS:
        raise ValueError(f"SECONDS is {text!r}; write a whole number from 1 to {SESSION_SECONDS}")
    return int(text)


def version(text: str) -> int:
    """The number of a notebook's version on Kaggle."""
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or int(text) == 0:
        raise ValueError(f"VERSION is {text!r}; write the whole number that the push printed")
    return int(text)


def minutes(text: str) -> int:
    """How long to wait for Kaggle; 0: look once."""
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
        raise ValueError(f"WAIT is {text!r}; write whole minutes, at most 9999")
    return int(text)


def count(text: str) -> int:
    """Rows of a table."""
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or int(text) == 0:
        raise ValueError(f"TOP is {text!r}; write a whole number from 1 to 999")
    return int(text)


def account(text: str) -> str:
    """The name of a Kaggle account."""
    if not text.strip():
        raise ValueError("Say whose account: USER=name, the name in the address of your Kaggle profile")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,49}", text, re.ASCII):
        raise ValueError(f"{text!r} is not a Kaggle user name; USER is the name in the address of your profile")
    return text


def yes(text: str) -> bool:
    """A switch, 1 or 0."""
    if text not in ("0", "1"):
        raise ValueError(f"{text!r} is neither on nor off; write 1 or 0")
    return text == "1"
