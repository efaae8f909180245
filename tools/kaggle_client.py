"""Recipes to Kaggle and back, with the official client (`pip install kaggle`).

python -m tools.kaggle_client metadata RECIPE USER        what would be pushed, as kernel-metadata.json
python -m tools.kaggle_client push RECIPE USER [SECONDS]  push and run; SECONDS limits the run
python -m tools.kaggle_client pull RECIPE USER            an edited notebook back into the sources

A recipe's first cell is the one source of its metadata. The client finds its own credentials; nothing here reads them.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext

from tools.sync import PERCENT, SyncError, build, pull

MACHINES = {"GPU T4 x2": "NvidiaTeslaT4", "GPU P100": "NvidiaTeslaP100", "none": None}
SOURCES = {
    "competition": "competition_sources",
    "dataset": "dataset_sources",
    "model": "model_sources",
    "notebook": "kernel_sources",
}


def header(recipe: Path) -> dict[str, str]:
    """The rows of the table in a recipe's first cell."""
    first = jupytext.reads(recipe.read_text(encoding="utf-8"), fmt=PERCENT).cells[0].source
    return dict(re.findall(r"^\| ([^|]+?) \| (.+?) \|$", first, re.MULTILINE))


def metadata(recipe: Path, user: str) -> dict:
    """kernel-metadata.json of a recipe.

    Raises:
        SyncError: when the header names an unknown accelerator, no input, or a user name is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+", user):
        raise SyncError(f"{user!r} is no Kaggle user name; USER is the name in the address of your profile.")
    rows = header(recipe)
    machine = next((name for name in MACHINES if rows.get("Accelerator", "").startswith(name)), None)
    if machine is None:
        raise SyncError(f"{recipe.name}: its header's Accelerator must begin with one of {', '.join(MACHINES)}.")
    if rows.get("Internet") not in ("on", "off"):
        raise SyncError(f"{recipe.name}: its header's Internet must be on or off.")
    sources = {field: [] for field in SOURCES.values()}
    for kind, name in re.findall(r"(\w+) `([^`]+)`", rows.get("Inputs to attach", "")):
        if kind in SOURCES:
            sources[SOURCES[kind]].append(name)
    if not sources["competition_sources"]:
        raise SyncError(f"{recipe.name}: its header's Inputs to attach name no competition `slug`.")
    slug = recipe.stem.replace("_", "-")
    return {
        "id": f"{user}/{slug}",
        "title": recipe.stem.replace("_", " "),
        "code_file": f"{recipe.stem}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": MACHINES[machine] is not None,
        "enable_tpu": False,
        "enable_internet": rows["Internet"] == "on",
        **({"machine_shape": MACHINES[machine]} if MACHINES[machine] else {}),
        "docker_image_pinning_type": "original",
        **sources,
    }


def push(recipe: Path, user: str, root: Path, seconds: int | None) -> None:
    """Build the notebook, write its metadata beside it, and hand both to the client."""
    told = metadata(recipe, user)
    folder = root / "build" / "push" / recipe.stem
    folder.mkdir(parents=True, exist_ok=True)
    (folder / told["code_file"]).write_text(build(recipe, root), encoding="utf-8")
    (folder / "kernel-metadata.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    words = ["kernels", "push", "-p", str(folder), *(["-t", str(seconds)] if seconds else [])]
    _client(words + (["--accelerator", told["machine_shape"]] if "machine_shape" in told else []))


def pull_back(recipe: Path, user: str, root: Path) -> list[str]:
    """The notebook as it is on Kaggle, through `tools.sync.pull`; returns the files that changed."""
    told = metadata(recipe, user)
    folder = root / "build" / "pull" / recipe.stem
    folder.mkdir(parents=True, exist_ok=True)
    _client(["kernels", "pull", told["id"], "-p", str(folder)])
    found = sorted(folder.glob("*.ipynb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SyncError(f"{told['id']} on Kaggle is no notebook.")
    return pull(found[-1], root)


def _client(words: list[str]) -> None:
    if importlib.util.find_spec("kaggle") is None:
        raise SyncError("The official client is needed: .venv/bin/python -m pip install kaggle")
    done = subprocess.run([sys.executable, "-m", "kaggle", *words], capture_output=True, text=True)
    told = (done.stdout + done.stderr).strip()
    print(told)
    # The client prints refusals of the service, or of an input, and still ends with 0.
    if done.returncode or re.search("error|not valid", told, re.IGNORECASE):
        raise SyncError(f"kaggle {' '.join(words[:2])} failed; what the client said stands above.")


def main(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser(prog="tools.kaggle_client", description="Recipes to Kaggle and back.")
    parser.add_argument("action", choices=["metadata", "push", "pull"])
    parser.add_argument("recipe", choices=sorted(path.stem for path in (root / "notebooks").glob("*.py")))
    parser.add_argument("user")
    parser.add_argument("seconds", nargs="?", type=int)
    chosen = parser.parse_args(words)
    recipe = root / "notebooks" / f"{chosen.recipe}.py"
    try:
        if chosen.action == "metadata":
            print(json.dumps(metadata(recipe, chosen.user), indent=1))
        elif chosen.action == "push":
            push(recipe, chosen.user, root, chosen.seconds)
        else:
            changed = pull_back(recipe, chosen.user, root)
            print("\n".join(f"pulled {name}" for name in changed) or "Nothing changed.")
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent))
