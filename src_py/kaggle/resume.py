"""Go on with a run that was broken off: which files are its, and where an attached output left them."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from src_py.kaggle.files import folder_digest, write_text, writing
from src_py.kaggle.inputs import TRAINED_MARKER, find_named, find_trained

ELSEWHERE = ("input_dir", "model_dir", "output_dir", "hours", "processes", "micro_batch", "stop_on_failure", "folds")


class Files(NamedTuple):
    """What a recipe leaves in its output folder, as patterns: results, what goes when the run ends, and what runs with
    other settings may use too. `record` says whose they are."""

    record: str
    results: tuple[str, ...]
    passing: tuple[str, ...] = ()
    common: tuple[str, ...] = ()


FINE_TUNING = Files("finetune_run.json", results=("fold_*",), passing=("checkpoints",))
TABULAR = Files("tabular_run.json", results=("tabular",), common=("embeddings",))


def run_key(config, data: Path, model: Path | None) -> str:
    """Digest of what a run's result depends on: settings, training file, encoder (if there is one).

    Where files lie, the folds asked for, the time limit and the number of processes change no fold's result.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode())
    with open(data, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    if model:
        digest.update(folder_digest(model, (".json", ".safetensors", ".bin", ".model")).encode())
    return digest.hexdigest()[:16]


def finished_folds(root: str | Path) -> list[Path]:
    """Trained folders below `root` to predict with: those of finished runs, for a broken-off one is gone on with.

    In the scoring run, which has no time to train, those of a broken-off one too.
    """
    left = [] if is_scoring_run() else _unfinished(root, FINE_TUNING)
    return [folder for folder in find_trained(root) if folder.parent not in left]


def begin_run(output: Path, root: str | Path, key: str, files: Files = FINE_TUNING) -> None:
    """Make `output` hold what an earlier run with this key has done, and no result of another.

    What is there already comes first, then the attached outputs of broken-off runs below `root`.

    Raises:
        InputError: when the folder cannot be written.
    """
    with writing(output):
        if _read(output, files).get("key") == key:
            print(f"Going on in {output}: {_told(output)}. For a run from the beginning change CFG.seed or the folder.")
        else:
            _remove(output, files.results + files.passing)
            _take_over(output, root, key, files)
        _write(output, files, key, finished=False)  # last: copying that was itself broken off starts again


def end_run(output: Path, key: str, files: Files = FINE_TUNING) -> None:
    """The run is complete: attached to another one its folds are for predicting."""
    _remove(output, files.passing)
    _write(output, files, key, finished=True)


def open_folds(output: Path, folds: tuple[int, ...]) -> list[int]:
    """The folds that are still to be trained."""
    return [fold for fold in folds if not (output / f"fold_{fold}" / TRAINED_MARKER).is_file()]


def is_scoring_run() -> bool:
    """Kaggle runs the notebook again, on the hidden test rows."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def _take_over(output: Path, root: str | Path, key: str, files: Files) -> None:
    left = _unfinished(root, files)
    mine = [attached for attached in left if _read(attached, files).get("key") == key]
    for attached in left:
        if attached not in mine:
            print(f"{attached} was broken off with other settings, rows or encoder; it is not used.")
    for attached in mine[:1]:
        print(f"Going on from {attached}: {_told(attached)}.")
        parts = files.results + files.passing + files.common
        for source in (path for part in parts for path in attached.glob(f"{part}/**/*")):
            # One by one: whole folders would come with the rights of a read-only mount. A workers' job is made again.
            if source.is_file() and "job" not in source.parts:
                target = output / source.relative_to(attached)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def _remove(output: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for left in output.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _unfinished(root: str | Path, files: Files) -> list[Path]:
    return [path.parent for path in find_named(root, files.record) if not _read(path.parent, files).get("finished")]


def _read(folder: Path, files: Files) -> dict:
    try:
        found = json.loads((folder / files.record).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(folder: Path, files: Files, key: str, finished: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / files.record, json.dumps({"key": key, "finished": finished}))


def _told(folder: Path) -> str:
    folds = sorted(path.parent.name for path in folder.glob(f"fold_*/{TRAINED_MARKER}"))
    folds += sorted(path.stem for path in folder.glob("tabular/fold_*.npz"))
    steps = sorted(path.name for path in folder.glob("checkpoints/*/checkpoint-*"))
    return f"finished {', '.join(folds) or 'no fold'}" + "".join(f", {step}" for step in steps)
