"""Fail where a file names another version than `src_py/__init__.py`, the one place to change it.

python -m tools.version
"""

import re
import sys
from pathlib import Path

from tools.build import read, recipes
from tools.kaggle_client import header

SOURCE = "src_py/__init__.py"


def version(root: Path) -> str:
    """The version, read and not imported; "" where there is none."""
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', read(root / SOURCE), re.MULTILINE)
    return found[1] if found else ""


def problems(root: Path) -> list[str]:
    """What does not name the version, one sentence each."""
    wanted = version(root)
    if not wanted:
        return [f"{SOURCE} has no line `__version__` with a version such as 1.2.0; add it."]
    release = re.search(r"^## \[(.+)\] - (.+)$", read(root / "CHANGELOG.md"), re.MULTILINE)
    citation = dict(re.findall(r"^(version|date-released): (.+)$", read(root / "CITATION.cff"), re.MULTILINE))
    named = {
        "the newest entry of CHANGELOG.md": release[1] if release else "",
        "CITATION.cff": citation.get("version", ""),
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


def main(root: Path) -> int:
    found = problems(root)
    print("\n".join(found) or f"Version {version(root)} everywhere.", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
