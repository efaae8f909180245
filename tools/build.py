"""A notebook from its sources: the recipe's own cells, and the helpers that they import. Nothing is imported."""

import ast
import hashlib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.helper_files import split_files
from tools.percent import SyncError, parse, read_cells, to_source

HELPERS = "%%helpers "
SETUP = "# Helpers (generated). To change one, edit its cell below, then choose Run All."
FILE = "# ==== {} ===="
HEADING = "## Helpers"
# In the order of design: a room imports from rooms before it.
ROOMS = ("", "kaggle", "evaluation", "pairs", "model", "doctor", "training", "tabular", "blend", "ablation")
MOST_BYTES = 1_000_000  # Kaggle: "The kernel source must be less than 1 megabytes in size."
_MAGIC = Path(__file__).with_name("helper_files.py")


def recipes(root: Path) -> list[Path]:
    """The recipes' sources."""
    return sorted((root / "notebooks").glob("*.py"))


def read(path: Path) -> str:
    """A source as it stands in its file, line ends included.

    Raises:
        SyncError: for a file that is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SyncError(f"{path} is not UTF-8: {error}") from error


def digest(path: Path) -> str:
    """What a notebook's stamp says about a source; zeros where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else "0" * 12


def room_of(path: str) -> str:
    """The package below src_py that a file belongs to; "" for src_py itself."""
    return "/".join(Path(path).parts[1:-1])


def needed_modules(source: str, root: Path) -> list[str]:
    """Files below src_py that `source` imports, transitively, sorted by room and name.

    A room's `__init__.py`, which imports all that the room offers, comes along only where the room itself is imported;
    without it the room is a namespace package. So a notebook carries what it uses, and stays below Kaggle's limit.

    Raises:
        SyncError: an import from src_py that names no file, a relative import, a room that is not in `ROOMS`, or
            modules that import each other.
    """
    found: set[str] = set()

    def add(module: str, chain: tuple[str, ...]) -> None:
        path = _module_file(module, root)
        if path is None:
            raise SyncError(
                f"{chain[-1] if chain else 'The recipe'} imports {module}, but src_py has no file of that name."
            )
        if path in chain:
            raise SyncError(f"Import cycle: {' -> '.join((*chain, path))}")
        if room_of(path) not in ROOMS:
            raise SyncError(f"{path} is in an unknown room; ROOMS in tools/build.py names {', '.join(ROOMS[1:])}.")
        if path not in found:
            found.add(path)
            visit(read(root / path), path, (*chain, path))

    def visit(text: str, name: str, chain: tuple[str, ...]) -> None:
        for node in ast.walk(parse(text, name)):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                if node.level or node.module is None:
                    raise SyncError(f"{name} has a relative import; write out src_py.")
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [module if _module_file(module, root) else node.module for module in inner]
            else:
                continue
            for module in modules:
                if module.partition(".")[0] == "src_py":
                    add(module, chain)

    visit(source, "The recipe", ())
    if found and (top := _module_file("src_py", root)):
        found.add(top)
    return sorted(found, key=lambda path: (ROOMS.index(room_of(path)), not path.endswith("__init__.py"), path))


def build(recipe: Path, root: Path) -> str:
    """The notebook of one recipe as text: its own cells, with the helper cells below the heading for them.

    Raises:
        SyncError: for a source that would not come back from its notebook byte for byte, or a notebook that is too
            large for Kaggle.
    """
    source = read(recipe)
    cells = read_cells(source)
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i:02d}"
    heading = [i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and cell.source.startswith(HEADING)]
    if len(heading) != 1:
        raise SyncError(f"{recipe.name} needs one Markdown cell that begins with {HEADING!r}: the helpers go below it.")
    if to_source(cells, root) != source:
        raise SyncError(
            f"{recipe.name} would not come back from its notebook as it is; run `make lint`, and see that "
            "every Markdown line begins with '#'."
        )
    place = heading[0] + 1
    notebook = nbformat.v4.new_notebook(
        cells=[*cells[:place], *_helper_cells(recipe, source, root), *cells[place:]],
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, indent=1) + "\n"
    if len(text.encode()) >= MOST_BYTES:
        raise SyncError(
            f"The notebook of {recipe.name} has {len(text.encode()):,} bytes; Kaggle does not save one of "
            f"{MOST_BYTES:,} or more. Import less: helpers travel with what imports them."
        )
    return text


def _module_file(module: str, root: Path) -> str | None:
    """The file of a module or package, relative to `root`; None when there is none."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (root / name).is_file()), None)


def setup_code() -> str:
    """The setup cell without its stamps."""
    register = 'get_ipython().register_magic_function(helpers, "cell")'
    return "\n".join([SETUP, read(_MAGIC), "", register])


def _helper_cells(recipe: Path, source: str, root: Path) -> list[NotebookNode]:
    """The setup cell and one cell a room; Kaggle collapses their input and their output."""
    modules = needed_modules(source, root)
    stamps = [f"# built from {name} {digest(root / name)}" for name in [f"notebooks/{recipe.name}", *modules]]
    bodies = [("src-setup", "\n".join([setup_code(), "", *stamps]))]
    for room in dict.fromkeys(map(room_of, modules)):
        files = {name: read(root / name) for name in modules if room_of(name) == room}
        text = "\n".join(f"{FILE.format(name)}\n{text}" for name, text in files.items()).rstrip("\n")
        _check_comes_back(files, text)
        bodies.append((f"src-{room or 'base'}", f"{HELPERS}src_py/{room}\n{text}"))
    cells = [nbformat.v4.new_code_cell(body, id=name) for name, body in bodies]
    hidden = {"source_hidden": True, "outputs_hidden": True}
    for cell in cells:
        cell.metadata = nbformat.from_dict({"_kg_hide-input": True, "_kg_hide-output": True, "jupyter": hidden})
    return cells


def _check_comes_back(files: dict[str, str], text: str) -> None:
    try:
        back = split_files(text)
    except ValueError as error:
        raise SyncError(f"One of {', '.join(files)} would not come back: {error}") from error
    broken = [name for name in files if back.get(name) != files[name]] or [name for name in back if name not in files]
    if broken:
        raise SyncError(
            f"{broken[0]} would not come back from its notebook: it holds a line like {FILE.format('path')!r} or a "
            "carriage return, or does not begin and end with a line of text."
        )
