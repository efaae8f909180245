"""Fail where a file names another version than `src_py/__init__.py`, the one place to change it.

python -m tools.version
"""

import re
import sys
from pathlib import Path

from tools.build import read, recipes
from tools.kaggle_client import header

SOURCE = "src_py/__init__.py"
FORM = ".github/ISSUE_TEMPLATE/broken.yml"


def version(root: Path) -> str:
    """The version, read and not imported; "" where there is none."""
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', _text(root / SOURCE), re.MULTILINE)
    return found[1] if found else ""


def problems(root: Path) -> list[str]:
    """What does not name the version, one sentence each."""
    wanted = version(root)
    if not wanted:
        return [f"{SOURCE} has no line `__version__` with a version such as 1.2.0; add it."]
    release = re.search(r"^## \[(.+)\] - (.+)$", _text(root / "CHANGELOG.md"), re.MULTILINE)
    cited = _text(root / "CITATION.cff")
    citation = dict(re.findall(r"""^(version|date-released): *["']?([^"'#\s]+)""", cited, re.MULTILINE))
    field = r"""^ +id: version\n(?: +\w.*\n)*? +placeholder: *["']?([^"'#\s]+)"""  # the next field begins with a dash
    form = re.search(field, _text(root / FORM), re.MULTILINE)
    named = {
        "the newest entry of CHANGELOG.md": release[1] if release else "",
        "CITATION.cff": citation.get("version", ""),
        f"the example in {FORM}": form[1] if form else "",
        **{f"the first cell of notebooks/{path.name}": header(path).get("Version", "") for path in recipes(root)},
    }
    found = [
        f"{where} has version {here or 'none'}, and {SOURCE} has {wanted}; write {wanted} there, or change {SOURCE}."
        for where, here in named.items()
        if here != wanted
    ]
    if release and release[2] != citation.get("date-released"):
        found.append(f"CITATION.cff does not have the date of version {wanted} in CHANGELOG.md, {release[2]}.")
    return found


def _text(path: Path) -> str:
    """What a file says; "" where there is none, so that it has no version."""
    return read(path) if path.is_file() else ""


def main(root: Path) -> int:
    found = problems(root)
    print("\n".join(found) or f"Version {version(root)} everywhere.", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
