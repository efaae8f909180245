"""A copy of the project in a git repository of its own, and notebooks as Kaggle gives them back."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import nbformat

from tools.build import HEADING, HELPERS, build

ROOT = Path(__file__).resolve().parents[2]
_BUILT: dict[tuple[str, str], str] = {}


def copy_sources(root: Path) -> Path:
    """The sources of the notebooks, committed."""
    for folder in ("notebooks", "src_py"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    add_headings(root)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    commit(root)
    return root


def add_headings(root: Path) -> None:
    """Below which the helpers go, where a recipe does not have one yet."""
    for recipe in (root / "notebooks").glob("*.py"):
        text = recipe.read_text(encoding="utf-8")
        if f"# {HEADING}" not in text:
            above, below = text.split("# %%\nimport", 1)
            recipe.write_text(
                f"{above}# %% [markdown]\n# {HEADING} (skip this)\n\n# %%\nimport{below}", encoding="utf-8"
            )


def commit(root: Path) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), *who, "commit", "-qm", "x"], check=True)


def edited(root: Path, target: Path, change=lambda cells: None, recipe: str = "finetune_deberta") -> Path:
    """The built notebook after a run on Kaggle: with outputs, without metadata and ids, and with `change` made."""
    known = hashlib.sha256(b"".join(sources(root).values())).hexdigest(), recipe
    if known not in _BUILT:
        _BUILT[known] = build(root / f"notebooks/{recipe}.py", root)
    notebook = nbformat.reads(_BUILT[known], as_version=4)
    for i, cell in enumerate(notebook.cells):
        cell.metadata, cell["id"] = {}, f"other{i}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="x")], i
    notebook.metadata = {}
    change(notebook.cells)
    target.write_text(json.dumps(notebook), encoding="utf-8")
    return target


def helper_cell(cells: list, room: str):
    """The helper cell of one room."""
    return next(cell for cell in cells if cell.source.startswith(f"{HELPERS}src_py/{room}\n"))


def sources(root: Path) -> dict[Path, bytes]:
    """Every source, byte for byte."""
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*.py"))}
