"""Build the notebooks from their sources, check them, and bring edits made on Kaggle back.

python -m tools.sync build            NAME.py + src_py/ -> NAME.ipynb, for every recipe
python -m tools.sync check            fail, with a diff, when a notebook is stale
python -m tools.sync pull FILE.ipynb  an edited notebook back into NAME.py and src_py/
"""

import argparse
import difflib
import sys
from pathlib import Path

from tools.build import build, recipes
from tools.percent import SyncError
from tools.pull import pull, write_all


def build_all(root: Path) -> None:
    """Write every notebook, or none when one cannot be built."""
    texts = {recipe.with_suffix(".ipynb"): build(recipe, root) for recipe in recipes(root)}
    write_all(texts, root)
    print("\n".join(f"built notebooks/{path.name}" for path in texts))


def check(root: Path) -> bool:
    """Whether every notebook is what its sources build; prints how it differs."""
    stale = 0
    for recipe in recipes(root):
        target = recipe.with_suffix(".ipynb")
        old = target.read_text(encoding="utf-8") if target.is_file() else ""
        new = build(recipe, root)
        if old != new:
            stale += 1
            names = str(target.relative_to(root)), "rebuilt"
            diff = difflib.unified_diff(old.splitlines(), new.splitlines(), *names, n=1, lineterm="")
            print("\n".join(list(diff)[:80]))
    print(f"{stale} notebooks are stale: run `make sync`." if stale else "Notebooks are in step with their sources.")
    return not stale


def main(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser(prog="tools.sync", description="Notebooks and their sources.")
    parser.add_argument("action", choices=["build", "check", "pull"])
    parser.add_argument("notebook", nargs="?", default="", help="for pull: the edited notebook")
    chosen = parser.parse_args(words)
    try:
        if chosen.action == "check":
            return 0 if check(root) else 1
        if chosen.action == "pull":
            if not chosen.notebook.strip():
                raise SyncError("Name the edited notebook: make pull NB=file.ipynb")
            print(pull(Path(chosen.notebook), root))
        else:
            build_all(root)
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent))
