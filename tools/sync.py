"""Build the notebooks from their sources, check them, and bring edits made on Kaggle back.

python -m tools.sync build            NAME.py + src_py/ -> NAME.ipynb, for every recipe
python -m tools.sync check            fail, with a diff, when a notebook is stale
python -m tools.sync pull FILE.ipynb  an edited notebook back into NAME.py and src_py/
"""

import argparse
import ast
import difflib
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat

HELPERS = "%%helpers "
SETUP = "# Helpers (generated). To change one, edit its cell below, then choose Run All."
FILE = "# ==== {} ===="
HEADING = "## Helpers"
PERCENT = {"extension": ".py", "format_name": "percent"}
# In the order of design: a room imports from rooms before it.
ROOMS = ("", "kaggle", "evaluation", "pairs", "model", "doctor", "training", "tabular", "ablation")
_SETUP_CODE = """
import re
import sys
from pathlib import Path

from IPython.core.magic import register_cell_magic


@register_cell_magic
def helpers(_, cell):
    \"\"\"Write the helper files of one room; a line `# ==== path ====` begins each of them.\"\"\"
    parts = re.split(r"^# ==== (src_py/[\\w/]+\\.py) ====$\\n?", cell, flags=re.MULTILINE)
    for path, text in zip(parts[1::2], parts[2::2]):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text.rstrip("\\n") + "\\n" if text.strip() else "", encoding="utf-8")


for name in [name for name in sys.modules if name.partition(".")[0] == "src_py"]:
    del sys.modules[name]  # so that an edited helper is read again
"""
_FILE = re.compile(r"^# ==== (\S+) ====$\n?", re.MULTILINE)
_STAMP = re.compile(r"^# built from (\S+) ([0-9a-f]{12})$", re.MULTILINE)


class SyncError(Exception):
    """A notebook cannot be built or pulled; the message says why."""


def recipes(root: Path) -> list[Path]:
    """The recipes' sources."""
    return sorted((root / "notebooks").glob("*.py"))


def needed_modules(source: str, root: Path) -> list[str]:
    """Files below src_py that `source` imports, transitively, sorted by room and name.

    Raises:
        SyncError: an import from src_py that names no file, a relative import, or modules that import each other.
    """
    found: set[str] = set()

    def add(module: str, chain: tuple[str, ...]) -> None:
        path = _module_file(module, root)
        if path is None:
            raise SyncError(f"{chain[-1] if chain else 'the recipe'} imports {module}, which is no file below src_py.")
        if path in chain:
            raise SyncError(f"Import cycle: {' -> '.join((*chain, path))}")
        if path not in found:
            parent = module.rpartition(".")[0]
            if parent and _module_file(parent, root) not in chain:
                add(parent, chain)
            if path not in found:
                visit((root / path).read_text(encoding="utf-8"), (*chain, path))
                found.add(path)

    def visit(text: str, chain: tuple[str, ...]) -> None:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                if node.level:
                    raise SyncError(f"{chain[-1] if chain else 'the recipe'} has a relative import; write out src_py.")
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [name if _module_file(name, root) else node.module for name in inner]
            else:
                continue
            for module in modules:
                if module.partition(".")[0] == "src_py":
                    add(module, chain)

    visit(source, ())
    return sorted(found, key=lambda path: (ROOMS.index(_room(path)), not path.endswith("__init__.py"), path))


def _module_file(module: str, root: Path) -> str | None:
    """The file of a module or package, relative to `root`; None when there is none."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (root / name).is_file()), None)


def _room(path: str) -> str:
    """The package below src_py that a file belongs to; "" for src_py itself."""
    return "/".join(Path(path).parts[1:-1])


def build(recipe: Path, root: Path) -> str:
    """The notebook of one recipe as text: its own cells, with the helper cells below the heading for them."""
    source = recipe.read_text(encoding="utf-8")
    cells = jupytext.reads(source, fmt=PERCENT).cells
    for i, cell in enumerate(cells):
        cell.metadata, cell["id"] = {}, f"cell-{i:02d}"
    heading = [i for i, cell in enumerate(cells) if cell.source.startswith(HEADING)]
    if len(heading) != 1:
        raise SyncError(f"{recipe.name} needs one Markdown cell that begins with {HEADING!r}: the helpers go below it.")
    place = heading[0] + 1
    notebook = nbformat.v4.new_notebook(
        cells=[*cells[:place], *_helper_cells(recipe, source, root), *cells[place:]],
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )
    if _percent(cells, root) != source:
        raise SyncError(
            f"{recipe.name} would not come back from its notebook as it is: is a markdown line without '#'?"
        )
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1) + "\n"


def pull(path: Path, root: Path) -> list[str]:
    """Write an edited notebook back to its sources; returns the files that changed.

    Cells are recognised by their first source line, since metadata may be lost on the way.

    Raises:
        SyncError: when the git tree is dirty, or a source changed since the notebook was built.
    """
    if _git(root, "status", "--porcelain"):
        raise SyncError("The git tree has uncommitted changes; commit or stash them first.")
    cells = nbformat.read(path, as_version=4).cells
    setup = next((cell for cell in cells if cell.source.startswith(SETUP)), None)
    if setup is None:
        raise SyncError(f"{path} has no cell that begins with {SETUP!r}; it was not built by `make sync`.")
    stamps = dict(_STAMP.findall(setup.source))
    texts, own = {}, []
    for cell in cells:
        if cell.cell_type == "code" and cell.source.startswith(HELPERS):
            parts = _FILE.split(cell.source)
            texts |= {name: _file_text(body) for name, body in zip(parts[1::2], parts[2::2])}
        elif cell is not setup:
            own.append(cell)
    recipe = next(name for name in stamps if name.startswith("notebooks/"))
    texts[recipe] = _percent(own, root)
    unknown = [name for name in texts if not re.fullmatch(r"(src_py(/\w+)?|notebooks)/\w+\.py", name)]
    if unknown:
        raise SyncError(f"{path} would write {unknown[0]}; only files in src_py/ and notebooks/ are pulled.")

    changed = [name for name, text in texts.items() if not _same(root / name, text)]
    moved = [name for name in changed if name in stamps and stamps[name] != _digest(root / name)]
    if moved:
        raise SyncError(f"{', '.join(moved)} changed since {path.name} was built; pull into the version it came from.")
    for name in changed:
        (root / name).write_text(texts[name], encoding="utf-8")
    return changed


def _helper_cells(recipe: Path, source: str, root: Path) -> list:
    """The setup cell and one cell a room; Kaggle collapses their input and their output."""
    modules = needed_modules(source, root)
    stamps = [f"# built from {name} {_digest(root / name)}" for name in [f"notebooks/{recipe.name}", *modules]]
    bodies = [("src-setup", SETUP + _SETUP_CODE + "\n".join(["", *stamps]))]
    for room in dict.fromkeys(map(_room, modules)):
        files = [name for name in modules if _room(name) == room]
        texts = [f"{FILE.format(name)}\n{(root / name).read_text(encoding='utf-8')}" for name in files]
        bodies.append((f"src-{room or 'base'}", f"{HELPERS}src_py/{room}\n" + "\n".join(texts).rstrip("\n")))
    cells = [nbformat.v4.new_code_cell(body, id=name) for name, body in bodies]
    hidden = {"source_hidden": True, "outputs_hidden": True}
    for cell in cells:
        cell.metadata = nbformat.from_dict({"_kg_hide-input": True, "_kg_hide-output": True, "jupyter": hidden})
    return cells


def _file_text(body: str) -> str:
    """The text of a helper between two marker lines, as it stands in its file."""
    return body.rstrip("\n") + "\n" if body.strip() else ""


def _percent(cells: list, root: Path) -> str:
    notebook = nbformat.v4.new_notebook(cells=cells)
    for cell in notebook.cells:
        cell.metadata = {}
    notebook.metadata["jupytext"] = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "-all"}
    text = jupytext.writes(notebook, fmt=PERCENT)
    # jupytext and ruff put the blank lines around a cell marker differently: ruff has the last word.
    text = re.sub(r"\n{2,}# %%", "\n\n# %%", text)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", "notebooks/recipe.py", "-"],
        input=text,
        capture_output=True,
        text=True,
        cwd=root,
    )
    if done.returncode:
        raise SyncError(f"The notebook's cells are no valid Python: {done.stderr.strip()}")
    return done.stdout


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "0" * 12


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise SyncError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _check(root: Path) -> int:
    stale = 0
    for recipe in recipes(root):
        target = recipe.with_suffix(".ipynb")
        old = target.read_text(encoding="utf-8") if target.is_file() else ""
        new = build(recipe, root)
        if old != new:
            stale += 1
            diff = difflib.unified_diff(
                old.splitlines(), new.splitlines(), str(target.relative_to(root)), "rebuilt", n=1, lineterm=""
            )
            print("\n".join(list(diff)[:80]))
    print(f"{stale} notebooks are stale: run `make sync`." if stale else "Notebooks are in step with their sources.")
    return 1 if stale else 0


def main(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser(prog="tools.sync", description="Notebooks and their sources.")
    parser.add_argument("action", choices=["build", "check", "pull"])
    parser.add_argument("notebook", nargs="?", help="for pull: the edited notebook")
    chosen = parser.parse_args(words)
    try:
        if chosen.action == "check":
            return _check(root)
        if chosen.action == "pull":
            if not chosen.notebook:
                raise SyncError("Name the edited notebook: make pull NB=file.ipynb")
            changed = pull(Path(chosen.notebook), root)
            print("\n".join(f"pulled {name}" for name in changed) or "Nothing changed.")
            return 0
        for recipe in recipes(root):
            write_whole(recipe.with_suffix(".ipynb"), build(recipe, root))
            print(f"built notebooks/{recipe.stem}.ipynb")
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent))
