"""Fail when a recipe changed and its page in gallery/ did not.

python -m tools.gallery_check
"""

import hashlib
import re
import sys
from pathlib import Path

from tools.build import digest, read
from tools.percent import SyncError
from tools.recipes import RECIPES

LIMIT = 3_000_000  # bytes of all pages and pictures
STAMP = re.compile(r"# built from (\S+) ([0-9a-f]{12})")
_MARK = re.compile(r"<!-- make gallery: (\w+), source ([0-9a-f]{12}), helpers ([0-9a-f]{12}) -->")


def mark(name: str, setup: str) -> str:
    """The line on top of a page that says from which sources it was made.

    Args:
        setup: the notebook's setup cell.

    Raises:
        SyncError: when that cell does not say what the notebook was built from.
    """
    source, helpers = _digests(setup)
    return f"<!-- make gallery: {name}, source {source}, helpers {helpers} -->"


def check(root: Path) -> list[str]:
    """What is wrong with the gallery, one sentence each; changed helpers alone are printed and are not wrong."""
    folder, found = root / "gallery", []
    for name in RECIPES:
        if not (folder / f"{name}.md").is_file():
            found.append(f"gallery/{name}.md is missing; run `make gallery RECIPE={name}`.")
    pages = [path for path in sorted(folder.rglob("*.md")) if path.name != "README.md"]
    for path in pages:
        text, shown = read(path), path.relative_to(root)
        marked = _MARK.match(text)
        if not marked or marked[1] not in RECIPES:
            found.append(f"{shown} is not a page of a recipe; remove it.")
            continue
        name, source, helpers = marked.groups()
        if source != digest(root / "notebooks" / f"{name}.py"):
            found.append(f"{shown} is older than notebooks/{name}.py; run `make gallery RECIPE={name}`.")
        elif helpers != _digests(read(root / "notebooks" / f"{name}.ipynb"))[1]:
            print(f"{shown} was made with earlier helpers; `make gallery RECIPE={name}` makes it anew.")
        found += [
            f"{shown} shows {picture}, which is missing; run `make gallery RECIPE={name}`."
            for picture in re.findall(r"^!\[.*\]\((.+\.png)\)$", text, re.MULTILINE)
            if not (path.parent / picture).is_file()
        ]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        found.append(f"gallery/ has {size:,} bytes, and at most {LIMIT:,} are committed; show less in the notebooks.")
    return found


def _digests(text: str) -> tuple[str, str]:
    """The digests of a recipe's source and of its helpers, by what a notebook's setup cell says it was built from.

    Raises:
        SyncError: when there is no such cell.
    """
    found = STAMP.findall(text)
    source = next((value for name, value in found if name.startswith("notebooks/")), None)
    if source is None:
        raise SyncError("The notebook does not say which sources it was built from; run `make sync`, then this again.")
    helpers = sorted(f"{name} {value}" for name, value in found if name.startswith("src_py/"))
    return source, hashlib.sha256("\n".join(helpers).encode()).hexdigest()[:12]


def main(root: Path) -> int:
    try:
        found = check(root)
    except SyncError as error:
        found = [str(error)]
    print("\n".join(found) or "The gallery is in step with the recipes.", file=sys.stderr if found else sys.stdout)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
