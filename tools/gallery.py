"""The gallery: what each recipe shows after Run All, as pages that GitHub renders.

python -m tools.gallery [--recipe NAME] [--data DIR [--model DIR] [--cfg 'key=value ...']] [--out FOLDER]

Without data, it shows what `make demo` shows; a demo of these very sources is not run again.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat

from tools import arguments
from tools.build import SETUP, digest
from tools.gallery_check import STAMP, index, mark
from tools.gallery_page import page
from tools.hygiene import problems
from tools.percent import SyncError
from tools.recipes import RECIPES, Recipe, find_recipe
from tools.run import DEMO_TRAIN_ROWS, demo, run_notebook

ROOT = Path(__file__).resolve().parent.parent
_GENERATED = (
    f"{DEMO_TRAIN_ROWS:,} generated pairs and a tiny DeBERTa with random weights, so that its figures say nothing "
    "about real data, real models or a leaderboard"
)


def write_page(recipe: Recipe, executed: Path, out: Path, about: str, repeat: str) -> Path:
    """Write the page of an executed notebook, and its pictures, in place of earlier ones.

    Args:
        about: where and with what it ran, for the note on top: "on a CPU with ...".
        repeat: the command that makes the page.

    Raises:
        SyncError: when a cell did not finish, or the page would show a path of this machine.
    """
    notebook = nbformat.read(executed, as_version=4)
    setup = next((cell.source for cell in notebook.cells if cell.source.startswith(SETUP)), "")
    text, pictures = page(notebook, recipe.name)
    named = f"{recipe.name}.ipynb"
    if out.is_relative_to(ROOT):  # elsewhere a link would show where this project lies
        named = f"[{named}]({Path(os.path.relpath(ROOT / 'notebooks' / named, out)).as_posix()})"
    colours = " GitHub shows the coloured banner without its colour." if "<blockquote>" in text else ""
    head = (
        f"\n> **What you see after Run All** of {named}, recorded {about}. "
        f"The code is folded, and the helper cells are left out.{colours} To repeat it: `{repeat}`\n\n"
    )
    target = out / f"{recipe.name}.md"
    text = without_paths(head + text, executed.parent)
    wrong = problems(target.name, text)
    if wrong:
        raise SyncError(f"{wrong[0]} It comes from the notebook's output; see `without_paths` in tools/gallery.py.")
    marked = mark(recipe.name, setup, text, pictures) + text
    out.mkdir(parents=True, exist_ok=True)
    for earlier in out.glob(f"{recipe.name}-*.png"):
        earlier.unlink()
    for number, picture in enumerate(pictures, 1):
        (out / f"{recipe.name}-{number}.png").write_bytes(picture)
    target.write_text(marked, encoding="utf-8")
    return target


def without_paths(text: str, ran_in: Path) -> str:
    """The text with paths as a notebook on Kaggle prints them, and without addresses of objects."""
    mounts = ran_in / "kaggle" / "input"
    links = {str(path.resolve()): f"/kaggle/input/{path.name}" for path in mounts.rglob("*") if path.is_symlink()}
    shown = links | {
        str(mounts): "/kaggle/input",
        str(ran_in): "/kaggle/working",
        str(ROOT): "",
        tempfile.gettempdir(): "/tmp",
        sys.prefix: "",
        str(Path.home()): "~",
    }
    for path, replacement in sorted(shown.items(), key=lambda pair: -len(pair[0])):
        text = re.sub(re.escape(path) + r"(?![\w.-])", replacement, text)
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x…", text)


def on_generated(recipe: Recipe, out: Path) -> Path:
    """The page of `make demo`."""
    executed = ROOT / "build" / "demo" / recipe.name / "executed.ipynb"
    if _is_of_these_sources(executed, recipe):
        print(f"{recipe.name}: the demo of these sources has run already; its page is made from it.", flush=True)
    else:
        demo(recipe)
    changed = f". Changed settings: `{recipe.demo_cfg}`" if recipe.demo_cfg else ""
    return write_page(
        recipe, executed, out, f"on a CPU with {_GENERATED}{changed}", f"make gallery RECIPE={recipe.name}"
    )


def on_real(recipe: Recipe, out: Path, data: Path, model: Path | None, cfg: str) -> Path:
    """The page of `make run` on given data."""
    ran_in = ROOT / "build" / "gallery" / recipe.name
    shutil.rmtree(ran_in, ignore_errors=True)  # a run would use its results again, and show that it did
    mounts = ran_in / "kaggle" / "input"
    for given, folder in ((data, "data"), (model, "models")):
        if given and (folder == "data" or recipe.takes_encoder):
            (mounts / folder).mkdir(parents=True)
            (mounts / folder / given.name).symlink_to(given.resolve())
    overrides, about, repeat = {"input_dir": str(mounts)}, f"with the data `{data.name}`", f"DATA={data.name}"
    if model and recipe.takes_encoder:
        overrides["model_dir"] = str(mounts / "models" / model.name)
        about += f" and the encoder `{model.name}`"
        repeat += f" MODEL={model.name}"
    if cfg:
        about += f". Changed settings: `{cfg}`"
        repeat += f" CFG='{cfg}'"
    run_notebook(recipe.name, ran_in, overrides, cfg)
    command = f"make gallery RECIPE={recipe.name} {repeat}"
    return write_page(recipe, ran_in / "executed.ipynb", out, about, command)


def write_index(out: Path) -> None:
    """README.md of a gallery: GitHub shows it below the list of files."""
    (out / "README.md").write_text(index(out, ROOT), encoding="utf-8")


def _is_of_these_sources(executed: Path, recipe: Recipe) -> bool:
    """Whether a demo ran to its end, with the notebook as it is now and with the tools as they are."""
    tools = [ROOT / "tools" / name for name in ("demo_data.py", "recipes.py", "run.py")]
    if not executed.is_file() or executed.stat().st_mtime < max(path.stat().st_mtime for path in tools):
        return False
    try:
        notebook = nbformat.read(executed, as_version=4)
        page(notebook, recipe.name)
        setup = next((cell.source for cell in notebook.cells if cell.source.startswith(SETUP)), "")
    except (SyncError, ValueError):
        return False
    return bool(STAMP.search(setup)) and all(digest(ROOT / name) == value for name, value in STAMP.findall(setup))


def _build(chosen: argparse.Namespace) -> None:
    out = (chosen.out or ROOT / "gallery").resolve()
    data, model = (path and path.resolve() for path in (chosen.data, chosen.model))  # "." has no name
    if not chosen.data and (chosen.model or chosen.cfg):
        raise SyncError("MODEL and CFG are for real pairs; give DATA=folder too.")
    if chosen.cfg and not chosen.recipe:
        raise SyncError("CFG is for one recipe, since each has settings of its own; give RECIPE=name too.")
    for recipe in [chosen.recipe] if chosen.recipe else RECIPES.values():
        if not chosen.data:
            written = on_generated(recipe, out)
        elif recipe.members and not chosen.recipe:
            print(f"{recipe.name} needs outputs of other recipes: put them below DATA and give RECIPE={recipe.name}.")
            continue
        else:
            written = on_real(recipe, out, data, model, chosen.cfg)
        print(f"written: {written}", flush=True)
    write_index(out)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.gallery", description="Pages of what the recipes show.")
    parser.add_argument("--recipe", type=arguments.checked(find_recipe), help="default: all")
    parser.add_argument("--data", type=arguments.checked(arguments.existing_folder), help="default: generated pairs")
    parser.add_argument("--model", type=arguments.checked(arguments.existing_folder), help="encoder folder")
    parser.add_argument("--cfg", default="", help="'key=value ...', on real pairs")
    parser.add_argument("--out", type=arguments.checked(arguments.new_folder), help="default: gallery")
    try:
        _build(parser.parse_args(words))
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
