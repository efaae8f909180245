"""A recipe's cells as text: jupytext's percent format, formatted by ruff."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

PERCENT = {"extension": ".py", "format_name": "percent"}


class SyncError(Exception):
    """A notebook cannot be built or pulled; the message says why."""


def read_cells(source: str) -> list[NotebookNode]:
    """The cells of a recipe's source, without metadata."""
    cells = jupytext.reads(source, fmt=PERCENT).cells
    for cell in cells:
        cell.metadata = {}
    return cells


def to_source(cells: Sequence[NotebookNode], root: Path) -> str:
    """The cells as a recipe's source.

    Raises:
        SyncError: for a cell that is not Python, or one that would not come back from the source as it is.
    """
    text = _write(cells)
    back = read_cells(text)
    for number, cell in enumerate(cells):
        if number >= len(back) or _content(back[number]) != _content(cell):
            raise SyncError(
                f"Own cell {number + 1} ({_first_line(cell)!r}) would not come back from its source: a line that "
                "begins with '# %%' ends a cell there, and a cell cannot begin with '%%' alone. Change that line."
            )
    if len(back) != len(cells):
        raise SyncError("The notebook's cells would not come back from their source; is there a line '# %%' in one?")
    for _ in range(3):  # ruff may change what jupytext then writes otherwise, as after a trailing semicolon
        text, before = _format(_write(back), root), text
        if text == before:
            break
        back = read_cells(text)
    if [cell.cell_type for cell in back] != [cell.cell_type for cell in cells]:
        raise SyncError("The formatted cells are not the notebook's cells any more; is there a line '# %%' in one?")
    parse(text, "The notebook's own cells")
    return text


def parse(text: str, name: str) -> ast.Module:
    """The syntax tree of a source that is never executed.

    Raises:
        SyncError: where it is not Python.
    """
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise SyncError(f"{name} is not valid Python, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyncError(f"{name} cannot be parsed: {error or type(error).__name__}") from error


def _write(cells: Sequence[NotebookNode]) -> str:
    """jupytext's text; the blank lines around a cell marker are ruff's business."""
    make = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }
    copies = [make[cell.cell_type](cell.source) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=copies)
    notebook.metadata["jupytext"] = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "-all"}
    return re.sub(r"\n{2,}# %%", "\n\n# %%", jupytext.writes(notebook, fmt=PERCENT))


def _format(text: str, root: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", "notebooks/recipe.py", "-"],
        input=text,
        capture_output=True,
        encoding="utf-8",
        cwd=root,
    )
    if done.returncode:
        raise SyncError(f"The notebook's own cells are not valid Python: {done.stderr.strip()}")
    return done.stdout


def _content(cell: NotebookNode) -> tuple[str, str]:
    return cell.cell_type, cell.source.strip("\n")


def _first_line(cell: NotebookNode) -> str:
    return cell.source.strip().partition("\n")[0][:60]
