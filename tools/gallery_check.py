"""Fail when a recipe changed and its page in gallery/ did not, or when the gallery is not as `make gallery` wrote it.

python -m tools.gallery_check
"""

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.build import digest, read
from tools.percent import SyncError, read_cells
from tools.recipes import RECIPES

LIMIT = 3_000_000  # bytes of all pages and pictures
STAMP = re.compile(r"# built from (\S+) ([0-9a-f]{12})")
_MARK = re.compile(
    r"<!-- make gallery: (\w+), source ([0-9a-f]{12}), helpers ([0-9a-f]{12}), page ([0-9a-f]{12}) -->\n"
)


def mark(name: str, setup: str, text: str, pictures: Iterable[bytes]) -> str:
    """The line on top of a page that says from which sources it was made, and what it was when it was made.

    Args:
        setup: the notebook's setup cell.
        text: of the page, below this line.
        pictures: that the text shows, in order.

    Raises:
        SyncError: when that cell does not say what the notebook was built from.
    """
    source, helpers = _digests(setup)
    return f"<!-- make gallery: {name}, source {source}, helpers {helpers}, page {_content(text, pictures)} -->\n"


def index(folder: Path, root: Path) -> str:
    """README.md of a gallery: the recipes that have a page in `folder`, with first sentence and first picture."""
    parts = [
        "# Gallery",
        "What you see after Run All of each notebook. Each page says on top with which data it was made.",
    ]
    for name in RECIPES:
        if (folder / f"{name}.md").is_file():
            title, sentence, *_ = read_cells(read(root / "notebooks" / f"{name}.py"))[0].source.split("\n\n")
            title = title.removeprefix("# ")
            parts += [f"## [{title}]({name}.md)", " ".join(sentence.split())]
            parts += [f"[![{title}]({name}-1.png)]({name}.md)"] if (folder / f"{name}-1.png").is_file() else []
    return "\n\n".join(parts) + "\n"


def check(root: Path) -> list[str]:
    """What is wrong with the gallery, one sentence each; changed helpers alone are printed and are not wrong."""
    folder, found = root / "gallery", []
    for name in RECIPES:
        if not (folder / f"{name}.md").is_file():
            found.append(f"gallery/{name}.md is missing; run `make gallery RECIPE={name}`.")
    pages = [path for path in sorted(folder.rglob("*.md")) if path.name != "README.md"]
    for path in pages:
        found += _wrong_with(path, root)
    listed = folder / "README.md"
    if pages and not found and (not listed.is_file() or read(listed) != index(folder, root)):
        found.append("gallery/README.md is missing or does not list these pages; `make gallery` of a recipe writes it.")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    known = {path.parent / picture for path in pages for picture in _pictures(read(path))}
    found += [
        f"{path.relative_to(root)} is on no page; remove it."
        for path in files
        if path.suffix != ".md" and path not in known
    ]
    size = sum(path.stat().st_size for path in files)
    if size > LIMIT:
        found.append(f"gallery/ has {size:,} bytes, and at most {LIMIT:,} are committed; show less in the notebooks.")
    return found


def _wrong_with(path: Path, root: Path) -> list[str]:
    """What is wrong with one page."""
    text, shown, name = read(path), path.relative_to(root), path.stem
    again = f"run `make gallery RECIPE={name}`"
    if name not in RECIPES:
        return [f"{shown} is not a page of a recipe; remove it."]
    marked = _MARK.match(text)
    if not marked:
        return [f"{shown} does not begin with its mark; {again}, which makes it anew."]
    if marked[1] != name:
        return [f"{shown} holds the page of {marked[1]}; {again}."]
    _, source, helpers, content = marked.groups()
    missing = [picture for picture in _pictures(text) if not (path.parent / picture).is_file()]
    notebook = root / "notebooks" / f"{name}.ipynb"
    if source != digest(root / "notebooks" / f"{name}.py"):
        return [f"{shown} is older than notebooks/{name}.py; {again}."]
    if missing:
        return [f"{shown} shows {picture}, which is missing; {again}." for picture in missing]
    pictures = [(path.parent / picture).read_bytes() for picture in _pictures(text)]
    if content != _content(text[marked.end() :], pictures):
        return [f"{shown} or one of its pictures was changed after it was made; {again}."]
    if not notebook.is_file():
        return [f"notebooks/{name}.ipynb is missing; run `make sync`."]
    if helpers != _digests(read(notebook))[1]:
        print(f"{shown} was made with earlier helpers; `make gallery RECIPE={name}` makes it anew.")
    return []


def _pictures(text: str) -> list[str]:
    """The names of the pictures that a page shows, in order."""
    return re.findall(r"^!\[.*\]\((.+\.png)\)$", text, re.MULTILINE)


def _content(text: str, pictures: Iterable[bytes]) -> str:
    """The digest of a page's text and of the pictures that it shows."""
    parts = [hashlib.sha256(part).hexdigest() for part in (text.encode(), *pictures)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


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
