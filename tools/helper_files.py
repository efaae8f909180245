"""Helper files travel in notebook cells. This module stands, word for word, in the setup cell of every notebook."""

import importlib.util
import re
import sys
from pathlib import Path


def split_files(cell: str) -> dict[str, str]:
    """The files in a helper cell, path to text; a line `# ==== path ====` begins each of them.

    Raises:
        ValueError: for text above the first such line, a path outside src_py/, or a path that occurs twice.
    """
    text = cell.replace("\r\n", "\n").replace("\r", "\n")
    above, *rest = re.split(r"^# ==== (\S+) ====[ \t]*$", text, flags=re.MULTILINE)
    files: dict[str, str] = {}
    if above.strip():
        raise ValueError("A helper cell has text above its first line '# ==== path ===='; move it below that line.")
    for path, body in zip(rest[::2], rest[1::2]):
        if not re.fullmatch(r"src_py(/\w+)?/\w+\.py", path, re.ASCII):
            raise ValueError(f"A helper cell would write {path}; only files in src_py/ are written.")
        if path in files:
            raise ValueError(f"A helper cell holds {path} twice; keep one of them.")
        files[path] = body.strip("\n") + "\n" if body.strip() else ""
    return files


def helpers(room: str, cell: str) -> None:
    """The cell magic %%helpers: write the files in the cell. The next import reads those that changed."""
    changed = False
    for path, text in split_files(cell).items():
        target, content = Path(path), text.encode()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
            changed = True
    if changed:
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.partition(".")[0] == "src_py"]:
            del sys.modules[name]
