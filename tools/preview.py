"""Show a notebook as Kaggle does, hidden cells folded, light and dark, wide and narrow: pages and pictures of them.

python -m tools.preview [--recipe NAME] [--notebook FILE.ipynb] [--out FOLDER]

Without a file it shows what `make demo` executed, or, where there was no demo, the notebook as it is uploaded. The
pictures are taken by a headless Chromium if one is installed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbconvert
import nbformat

from tools import arguments
from tools.build import build
from tools.percent import SyncError
from tools.recipes import Recipe

ROOT = Path(__file__).resolve().parent.parent
THEMES = ("light", "dark")
WIDTHS = (1200, 400)  # pixels of a laptop's page and of a phone's
SLICE = 3000  # pixels of height in a picture: longer ones cannot be read, and Chromium paints at most 16,384
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# nbconvert ignores what hides a cell on Kaggle: here it folds, as there.
_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block input_group -%}
{%- if cell.metadata.get('_kg_hide-input') -%}
<details><summary>Code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock input_group -%}
{%- block output_group -%}
{%- if cell.metadata.get('_kg_hide-output') -%}
<details><summary>Output</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock output_group -%}
"""


def page(notebook: nbformat.NotebookNode, theme: str) -> str:
    """The notebook as HTML. `theme`: "light" or "dark"."""
    exported, _ = nbconvert.HTMLExporter(raw_template=_TEMPLATE, theme=theme).from_notebook_node(notebook)
    # Scripts for formulas and widgets come from the internet, and nothing here needs them.
    return re.sub(r'<script[^>]*src="https?://[^>]*>\s*</script>', "", exported)


def preview(file: Path, out: Path, browser: str | None) -> list[Path]:
    """Write the pages, and their pictures if there is a browser; returns what was written.

    Raises:
        SyncError: when the file is not a notebook, a cell of it cannot be shown, or the browser fails.
    """
    try:
        notebook = nbformat.read(file, as_version=4)
    except Exception as error:  # nbformat raises a class of its own for every kind of damage
        raise SyncError(f"{file} cannot be read as a notebook ({type(error).__name__}); give NB=file.ipynb.") from error
    out.mkdir(parents=True, exist_ok=True)
    for earlier in out.glob(f"{file.stem}-*.png"):
        earlier.unlink()  # a page that got shorter has fewer
    written = []
    for theme in THEMES:
        target = out / f"{file.stem}-{theme}.html"
        try:
            target.write_text(page(notebook, theme), encoding="utf-8")
        except Exception as error:  # as for nbformat
            why = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise SyncError(f"{file} cannot be shown ({type(error).__name__}: {why}); correct that cell.") from error
        written.append(target)
        for width in WIDTHS if browser else ():
            written += _pictures(browser or "", target, width)
    return written


def _pictures(browser: str, target: Path, width: int) -> list[Path]:
    """The whole page, in slices from top to bottom."""
    text = target.read_text(encoding="utf-8")
    # The page measures itself; a picture further down is one of the page moved up.
    measuring = "<script>onload = () => {document.title = `height ${document.documentElement.scrollHeight}`}</script>"
    dom = _shown(browser, width, text + measuring, "--dump-dom")
    found = re.search(r"<title>height (\d+)</title>", dom)
    if not found:
        raise SyncError(f"{browser} did not show {target.name}; update it, or open the page in another browser.")
    written = []
    for number, top in enumerate(range(0, int(found.group(1)), SLICE), 1):
        picture = target.with_name(f"{target.stem}-{width}-{number}.png")
        moved = f"<style>body {{margin-top: -{top}px !important}}</style>"
        _shown(browser, width, text + moved, f"--screenshot={picture.resolve()}")
        if not picture.is_file():
            raise SyncError(f"{browser} took no picture of {target.name}; update it, or open the page in a browser.")
        written.append(picture)
    return written


def _shown(browser: str, width: int, text: str, action: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(text, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{SLICE}"]
        words = [browser, *flags, f"--user-data-dir={folder}/profile", action, file.as_uri()]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired as error:
            raise SyncError(f"{browser} took more than two minutes for a page; the HTML pages are written.") from error
    return done.stdout


def find_browser() -> str | None:
    """Path of an installed Chromium or Chrome; None for none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def _default(recipe: Recipe, out: Path) -> Path:
    executed = ROOT / "build" / "demo" / recipe.name / "executed.ipynb"
    if executed.is_file():
        return executed
    out.mkdir(parents=True, exist_ok=True)
    built = out / f"{recipe.name}.ipynb"
    built.write_text(build(ROOT / "notebooks" / f"{recipe.name}.py", ROOT), encoding="utf-8")
    print(f"`make demo RECIPE={recipe.name}` has not run yet: this is the notebook without outputs.")
    return built


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.preview", description="Show a notebook as Kaggle does.")
    arguments.add_recipe(parser)
    parser.add_argument("--notebook", type=Path, help="an .ipynb to show in place of the recipe's")
    parser.add_argument("--out", type=arguments.checked(arguments.new_folder), help="default: build/preview/RECIPE")
    chosen = parser.parse_args(words)
    out = (chosen.out or ROOT / "build" / "preview" / chosen.recipe.name).resolve()
    browser = find_browser()
    if not browser:
        print("No Chromium or Chrome is installed: this writes the pages, and no pictures of them.")
    try:
        written = preview(chosen.notebook or _default(chosen.recipe, out), out, browser)
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(written)} files in {out}:", *(path.name for path in written), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
