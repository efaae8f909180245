"""Recipes to Kaggle and back, with the official client (`pip install kaggle`).

python -m tools.kaggle_client metadata --recipe NAME --user NAME            print its kernel-metadata.json
python -m tools.kaggle_client push --recipe NAME --user NAME [--seconds N]  push and run; N limits the run
python -m tools.kaggle_client pull --recipe NAME --user NAME                an edited notebook back into the sources

A recipe's first cell is the one source of its metadata. `tools.kaggle_submit` pushes, waits and submits.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tools import arguments
from tools.build import build, read
from tools.kaggle_service import client, mask
from tools.percent import SyncError, read_cells
from tools.pull import Pulled, pull

MACHINES = {"GPU T4 x2": "NvidiaTeslaT4", "none": None}
PUSHED = r"Kernel version .*successfully pushed"
SOURCES = {
    "competition": "competition_sources",
    "dataset": "dataset_sources",
    "model": "model_sources",
    "notebook": "kernel_sources",
}


def header(recipe: Path) -> dict[str, str]:
    """The rows of the table in a recipe's first cell."""
    first = read_cells(read(recipe))[0].source
    return dict(re.findall(r"^\| ([^|]+?) \| (.+?) \|$", first, re.MULTILINE))


def metadata(recipe: Path, user: str) -> dict[str, Any]:
    """kernel-metadata.json of a recipe.

    Raises:
        SyncError: when the header names an unknown accelerator, or no competition, or `user` cannot be a user name.
    """
    try:
        arguments.account(user)
    except ValueError as error:
        raise SyncError(str(error)) from error
    rows = header(recipe)
    machine = next((name for name in MACHINES if rows.get("Accelerator", "").startswith(name)), None)
    if machine is None:
        raise SyncError(f"{recipe.name}: its header's Accelerator must begin with one of {', '.join(MACHINES)}.")
    if rows.get("Internet") not in ("on", "off"):
        raise SyncError(f"{recipe.name}: its header's Internet must be on or off.")
    sources: dict[str, list[str]] = {field: [] for field in SOURCES.values()}
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


def push(recipe: Path, user: str, root: Path, seconds: int | None) -> int | None:
    """Build the notebook, write its metadata beside it, and hand both to the client.

    Returns:
        The number of the version that Kaggle made; None when Kaggle does not say.
    """
    described = metadata(recipe, user)
    folder = _empty(root / "build" / "push" / recipe.stem)
    (folder / described["code_file"]).write_text(build(recipe, root), encoding="utf-8")
    (folder / "kernel-metadata.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    words = ["kernels", "push", "-p", str(folder), *(["-t", str(seconds)] if seconds else [])]
    machine = described.get("machine_shape")
    words += ["--accelerator", machine] if machine else []
    said = client(words, PUSHED, described["id"])
    print(mask(said), flush=True)
    version = re.search(r"^Kernel version (\d+) successfully pushed", said, re.MULTILINE)
    return int(version[1]) if version else None


def pull_back(recipe: Path, user: str, root: Path) -> Pulled:
    """The notebook as it is on Kaggle, through `tools.pull.pull`."""
    name = metadata(recipe, user)["id"]
    folder = _empty(root / "build" / "pull" / recipe.stem)
    print(mask(client(["kernels", "pull", name, "-p", str(folder)], r"Source code downloaded to ", name)))
    found = list(folder.glob("*.ipynb"))
    if len(found) != 1:
        raise SyncError(f"The client wrote {len(found)} notebooks to {folder}; {name} on Kaggle should be one.")
    return pull(found[0], root)


def _empty(folder: Path) -> Path:
    """The folder, without what an earlier call left in it."""
    if folder.is_symlink():
        raise SyncError(f"{folder} is a link; remove it first.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def main(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser(prog="tools.kaggle_client", description="Recipes to Kaggle and back.")
    parser.add_argument("action", choices=["metadata", "push", "pull"])
    arguments.add_recipe(parser)
    parser.add_argument("--user", type=arguments.checked(arguments.account), required=True)
    parser.add_argument("--seconds", type=arguments.checked(arguments.seconds))
    chosen = parser.parse_args(words)
    recipe = root / "notebooks" / f"{chosen.recipe.name}.py"
    try:
        if chosen.action == "metadata":
            print(json.dumps(metadata(recipe, chosen.user), indent=1))
        elif chosen.action == "push":
            push(recipe, chosen.user, root, chosen.seconds)
        else:
            print(pull_back(recipe, chosen.user, root))
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent))
