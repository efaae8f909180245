"""An edited notebook back into its sources. It is read and parsed, never executed; all files change, or none."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode

from tools.build import HELPERS, ROOMS, SETUP, build, digest, read, recipes, room_of, setup_code
from tools.helper_files import split_files
from tools.percent import SyncError, parse, to_source

_STAMP = re.compile(r"^# built from (\S+) ([0-9a-f]{12})$", re.MULTILINE)
_HELPER = re.compile(rf"{re.escape(HELPERS.strip())}(?![^\s])[^\n]*\n?")


@dataclass(frozen=True)
class Pulled:
    """What a pull has done: the files that changed, and what did not come along, one sentence each."""

    changed: list[str]
    notes: list[str]

    def __str__(self) -> str:
        return "\n".join([*(f"pulled {name}" for name in self.changed), *self.notes]) or "Nothing changed."


@dataclass(frozen=True)
class _Edited:
    """A notebook taken apart: the digests that it was built from, its helper files, and the recipe's own cells."""

    stamps: dict[str, str]
    files: dict[str, str]
    own: list[NotebookNode]
    notes: list[str]


def pull(path: Path, root: Path) -> Pulled:
    """Write an edited notebook back to its sources.

    Cells are recognised by their first line, since metadata may be lost on the way. A helper file that the notebook
    adds is written; one that it has lost stays, with a note. The notebooks are rebuilt in a scratch copy before
    anything is written.

    Raises:
        SyncError: when the git tree has other changes, a source changed since the notebook was built, the notebook
            is damaged or was not built by `make sync`, or it would write anything but the sources it was built from.
    """
    _refuse_changes(root, path)
    edited = _take_apart(path)
    recipe = _recipe_of(edited, path, root)
    texts = edited.files | {recipe: to_source(edited.own, root)}
    for name in texts:
        _check_target(name, recipe, path, root)
    for name, text in texts.items():
        parse(text, name)

    changed = [name for name, text in texts.items() if not (root / name).is_file() or read(root / name) != text]
    unstamped = [name for name in changed if name not in edited.stamps and (root / name).exists()]
    if unstamped:
        raise SyncError(
            f"{path.name} changes {', '.join(unstamped)}, but has no stamp of what it was built from; "
            "build it again with `make sync` and repeat the edit there."
        )
    moved = [name for name in changed if name in edited.stamps and edited.stamps[name] != digest(root / name)]
    if moved:
        raise SyncError(
            f"{', '.join(moved)} changed since {path.name} was built; check out the commit it was built from, pull "
            "there, and merge."
        )
    if changed:
        _try_build({name: texts[name] for name in changed}, root)
        write_all({root / name: texts[name] for name in changed}, root)
    lost = [name for name in edited.stamps if name not in texts]
    return Pulled(
        changed, [*edited.notes, *(f"{name} is not in the notebook; the file stays as it is." for name in lost)]
    )


def write_all(texts: dict[Path, str], root: Path) -> None:
    """Write all files or none: after a failure the old texts stand, and what is new is gone. No link is followed.

    Raises:
        SyncError: when a file cannot be written.
    """
    parts: dict[Path, Path] = {}
    done: dict[Path, bytes | None] = {}
    folders: list[Path] = []
    try:
        for path, text in texts.items():
            _refuse_links(path, root)
            for folder in [folder for folder in reversed(path.parents) if not folder.exists()]:
                folder.mkdir()
                folders.append(folder)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                parts[path] = Path(file.name)
                file.write(text.encode("utf-8"))
            parts[path].chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        for path, part in parts.items():
            old = path.read_bytes() if path.exists() else None
            part.replace(path)
            done[path] = old
    except BaseException as error:
        for path, content in done.items():
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
        for part in parts.values():
            part.unlink(missing_ok=True)
        for folder in reversed(folders):
            folder.rmdir()
        if isinstance(error, OSError):
            raise SyncError(f"Nothing was written: {error}") from error
        raise


def _take_apart(path: Path) -> _Edited:
    setup, own, notes = [], [], []
    files: dict[str, str] = {}
    for number, cell in enumerate(_cells(path), 1):
        top = cell.source.lstrip()
        match = _HELPER.match(top) if cell.cell_type == "code" else None
        if match:
            try:
                found = split_files(top[match.end() :])
            except ValueError as error:
                raise SyncError(f"{path.name}, cell {number}: {error}") from error
            twice = [name for name in found if name in files]
            if twice:
                raise SyncError(f"{path.name} holds {twice[0]} twice; keep one of them.")
            files |= found
        elif cell.cell_type == "code" and top.startswith(SETUP):
            setup.append(cell.source)
        elif cell.source.strip():
            notes += _notes(cell, number)
            own.append(cell)
    if len(setup) != 1:
        raise SyncError(
            f"{path} has {len(setup)} cells that begin with {SETUP!r}; `make sync` builds one. Pull a "
            "notebook that was built from these sources."
        )
    lines = [line.rstrip() for line in _STAMP.sub("", setup[0]).splitlines() if line.strip()]
    if lines != [line.rstrip() for line in setup_code().splitlines() if line.strip()]:
        notes.append("The setup cell differs from the one that `make sync` builds; its changes are not pulled.")
    return _Edited(dict(_STAMP.findall(setup[0])), files, own, notes)


def _cells(path: Path) -> list[NotebookNode]:
    """Type and source of each cell; metadata, ids and outputs do not matter."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SyncError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise SyncError(f"{path} is not a whole notebook ({error}); download it again.") from error
    cells = content.get("cells") if isinstance(content, dict) else None
    if not isinstance(cells, list) or content.get("nbformat", 4) != 4:
        raise SyncError(f"{path} is not a notebook of format 4; download it again from Kaggle as .ipynb.")
    found = []
    for number, cell in enumerate(cells, 1):
        kind, source = (cell.get("cell_type"), cell.get("source")) if isinstance(cell, dict) else (None, None)
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if kind not in ("code", "markdown", "raw") or not isinstance(source, str):
            raise SyncError(f"{path}, cell {number}: not a notebook cell; download the notebook again.")
        _refuse_half_characters(source, f"{path}, cell {number}")
        text = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        found.append(NotebookNode(cell_type=kind, source=text, metadata={}, attachments=cell.get("attachments") or {}))
    return found


def _notes(cell: NotebookNode, number: int) -> list[str]:
    """What a source cannot hold; the cell is tidied in place."""
    notes = []
    if cell.attachments:
        notes.append(f"Cell {number} has pictures attached; they do not come along.")
    if cell.cell_type == "markdown":
        if re.search(r"  +\n(?=.*\S)", cell.source):
            notes.append(f"Cell {number}: spaces that break a line do not come along; end the line with a backslash.")
        cell.source = re.sub(r"[ \t]+$", "", cell.source, flags=re.MULTILINE)
    cell.source = re.sub(r"\A(?:[ \t]*\n)+|\s+\Z", "", cell.source)
    return notes


def _recipe_of(edited: _Edited, path: Path, root: Path) -> str:
    names = [name for name in edited.stamps if name.startswith("notebooks/")]
    known = [f"notebooks/{recipe.name}" for recipe in recipes(root)]
    if len(names) != 1:
        raise SyncError(
            f"{path} does not say which recipe it was built from: its setup cell has {len(names)} lines "
            "'# built from notebooks/...'. Build it again with `make sync` and repeat the edit there."
        )
    if names[0] not in known:
        raise SyncError(f"{path} was built from {names[0]}, which is not a recipe here; these are: {', '.join(known)}.")
    return names[0]


def _check_target(name: str, recipe: str, path: Path, root: Path) -> None:
    if name != recipe and not re.fullmatch(r"src_py(/\w+)?/\w+\.py", name, re.ASCII):
        raise SyncError(f"{path} would write {name}; only files in src_py/ and notebooks/ are pulled.")
    if name != recipe and room_of(name) not in ROOMS:
        raise SyncError(f"{path} would write {name}; the rooms of src_py are {', '.join(ROOMS[1:])}.")
    _refuse_links(root / name, root)
    if (root / name).exists() and not (root / name).is_file():
        raise SyncError(f"{name} is not a file; move it away first.")


def _refuse_links(target: Path, root: Path) -> None:
    below = [target, *target.parents][: len(target.relative_to(root).parts)]
    link = next((path for path in below if path.is_symlink()), None)
    if link:
        raise SyncError(f"{link.relative_to(root)} is a link; pull does not write through links. Replace it first.")
    if not target.resolve().is_relative_to(root.resolve()):
        raise SyncError(f"{target} lies outside {root}.")


def _refuse_half_characters(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SyncError(f"{name} holds half a character (a lone surrogate); delete it: {error}") from error


def _try_build(texts: dict[str, str], root: Path) -> None:
    """Build every notebook from a copy of the sources with `texts` in place."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch).resolve()
        for folder in ("notebooks", "src_py"):
            shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
        shutil.copy(root / "pyproject.toml", copy)
        for name, text in texts.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(text.encode("utf-8"))
        for recipe in recipes(copy):
            try:
                build(recipe, copy)
            except SyncError as error:
                raise SyncError(f"Nothing was pulled, since the notebook could not be built again: {error}") from error


def _refuse_changes(root: Path, notebook: Path) -> None:
    """The git tree must be clean, but for the notebook that is pulled."""
    words = ["git", "-C", str(root), "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SyncError(f"git status: {done.stderr.strip()}")
    names = [entry[3:] for entry in done.stdout.split("\0") if entry]
    others = [name for name in names if (root / name).resolve() != notebook.resolve()]
    if others:
        raise SyncError(f"The git tree has uncommitted changes ({others[0]}); commit or stash them first.")
