"""What a result depends on: settings, rows, encoder and code, as digests that can be compared part by part."""

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from src_py.config import Config
from src_py.errors import InputError
from src_py.kaggle.files import ENCODER_FILES, folder_digest

HELPERS = Path(__file__).resolve().parents[1]
# They say where files lie, how long a run may take and on how many processes: no fold's result depends on them.
ELSEWHERE = {
    "input_dir",
    "data_dir",
    "model_dir",
    "output_dir",
    "hours",
    "processes",
    "micro_batch",
    "attention",
    "folds",
    "seeds",
} | {
    "stop_on_failure",
    "mode",
    "resume",
}


def identify(config: Config, rows: Iterable, encoder: Path | None, code: Iterable[Callable]) -> dict:
    """Everything that the results of a run depend on, part by part, as plain JSON values.

    Args:
        config: all settings; those of `ELSEWHERE` change no result and are left out.
        rows: tables and arrays that the run learns from, as they are in memory.
        encoder: folder of the pretrained encoder.
        code: functions that the notebook's own cells define for the run; own functions and classes that they use
            count too.

    Raises:
        InputError: when a helper was edited after it was imported, so that old code would run under a new name.
    """
    if getattr(sys.modules.get(__name__), "identify", None) is not identify:
        raise InputError("Helpers were edited after the Setup cell imported them; choose Run All.")
    digest = hashlib.sha256()
    for part in rows:
        digest.update(rows_digest(part).encode())
    settings = {name: value for name, value in config.values().items() if name not in ELSEWHERE}
    return {
        "settings": json.loads(json.dumps(settings, default=str)),
        "rows": digest.hexdigest()[:16],
        "encoder": folder_digest(encoder, ENCODER_FILES) if encoder else "",
        "code": helper_digests() | _own_sources(code),
    }


def _own_sources(code: Iterable[Callable]) -> dict[str, str]:
    """Digests of functions and of what they use of their own module, by name."""
    found: dict[str, str] = {}
    waiting = list(code)
    while waiting:
        function = waiting.pop()
        function = inspect.unwrap(getattr(function, "func", function))  # a partial's function
        name = f"{getattr(function, '__qualname__', repr(type(function)))}()".rpartition("<locals>.")[2]
        if name in found:
            continue
        try:
            found[name] = _short(inspect.getsource(function))
        except (TypeError, OSError) as error:
            raise InputError(f"The source of {name} cannot be read ({error}); define it with def in a cell.") from error
        parts = vars(function).values() if inspect.isclass(function) else [function]
        for part in parts:
            names = _names_in(getattr(part, "__code__", None))
            used = [getattr(part, "__globals__", {}).get(word) for word in names]
            own = [x for x in used if x is not None and (inspect.isfunction(x) or inspect.isclass(x))]
            waiting += [x for x in own if x.__module__ == getattr(part, "__module__", None)]
    return found


def _names_in(code) -> set[str]:
    """Global names that a code object uses, those of functions inside it included."""
    if code is None:
        return set()
    return set(code.co_names).union(*(_names_in(part) for part in code.co_consts if inspect.iscode(part)))


def key_of(identity: dict) -> str:
    """One name for an identity: 12 hex digits."""
    return _short(json.dumps(identity, sort_keys=True))


def changes(old: dict, new: dict) -> list[str]:
    """What differs between two identities, in words."""
    found = setting_changes(old.get("settings", {}), new["settings"])
    if old.get("rows") != new["rows"]:
        found.append("the training rows or folds")
    if old.get("encoder") != new["encoder"]:
        found.append("the encoder")
    return found + code_changes(old.get("code", {}), new["code"])


def setting_changes(old: dict, new: dict) -> list[str]:
    """Settings with another value, such as "CFG.epochs (3.0, was 2.0)"."""
    return [
        f"CFG.{name} ({new.get(name, 'absent')!r}, was {old.get(name, 'absent')!r})"
        for name in sorted(old.keys() | new.keys())
        if json.dumps(old.get(name), default=str) != json.dumps(new.get(name), default=str)
    ]


def code_changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Helper files and notebook functions with another text."""
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def helper_digests() -> dict[str, str]:
    """Digest of every helper file, as it is on disk now."""
    return {str(path.relative_to(HELPERS.parent)): _file_digest(path) for path in sorted(HELPERS.rglob("*.py"))}


def module_digest(name: str) -> str:
    """Digest of a helper module and of all helper modules that it imports: what a cache made by it depends on."""
    digest = hashlib.sha256()
    for path in sorted(_imported(HELPERS.parent / (name.replace(".", "/") + ".py"), set())):
        digest.update(f"{path.relative_to(HELPERS)} {_file_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


def imported_files(modules: Iterable[str]) -> set[str]:
    """The files of helper modules and of all helper modules that they import, such as "src_py/pairs/counts.py"."""
    found: set[Path] = set()
    for name in modules:
        _imported(HELPERS.parent / (name.replace(".", "/") + ".py"), found)
    return {str(path.relative_to(HELPERS.parent)) for path in found}


def rows_digest(rows: pd.DataFrame | np.ndarray | str) -> str:
    """Digest of a table (cells may be lists of texts or numbers), an array, or a text such as a fingerprint."""
    digest = hashlib.sha256()
    if isinstance(rows, str):
        digest.update(rows.encode())
    elif isinstance(rows, pd.DataFrame):
        for name in rows:
            digest.update(str(name).encode())
            for value in rows[name]:  # one by one: all of the text in one string would double the memory
                text = "\x1f".join(map(str, value)) if isinstance(value, list) else str(value)
                digest.update(text.encode("utf-8", "surrogatepass") + b"\x1e")
    else:
        array = np.ascontiguousarray(rows)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _imported(path: Path, seen: set[Path]) -> set[Path]:
    """The helper files that a helper file imports, itself included; packages' faces only re-export and do not count."""
    if path in seen or not path.is_file():
        return seen
    seen.add(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("src_py"):
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                _imported(HELPERS.parent / (name.replace(".", "/") + ".py"), seen)
    return seen


def _file_digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1000)
def _digest_of(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
