"""Checkpoints of an interrupted training: which one is complete, and how much disk they need."""

import json
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

STATE, WEIGHTS = "trainer_state.json", "model.safetensors"
NEEDED = (STATE, WEIGHTS, "optimizer.pt", "scheduler.pt")
# Of a training with averaged weights, which are those in `WEIGHTS`: the trained weights as the optimizer left them.
UNAVERAGED = "unaveraged.safetensors"


def checkpoint_bytes(model, averaged: bool = False) -> int:
    """Size of a checkpoint: all weights, two Adam states for each that is trained, and those once more if averaged."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return 4 * (sum(p.numel() for p in model.parameters()) + (3 if averaged else 2) * trained)


def disk_needed(model, folds: int, half: bool, averaged: bool = False) -> float:
    """Bytes that training `folds` folds one after another takes at its peak.

    Three checkpoints of one fold (the best, the last, and the next one while it is written), and the saved folders of
    all folds.

    Args:
        averaged: whether the training averages its weights (`TrainingSettings.ema`).
    """
    weights = sum(4 * p.numel() for p in model.parameters())
    return 3 * checkpoint_bytes(model, averaged) + folds * weights / (2 if half else 1)


def last_good_checkpoint(folder: str | Path, averaged: bool = False) -> Path | None:
    """The newest whole checkpoint in a Trainer's output folder; damaged ones are removed, with a message.

    A checkpoint is whole when the Trainer's state, which it writes last, is there, every archive passes its checksums,
    the weights are as long as their header says, and the same holds for the weights of the best checkpoint so far.

    Args:
        averaged: as in `disk_needed`; a checkpoint without `UNAVERAGED` is then not whole.
    """
    found = sorted(Path(folder).glob("checkpoint-*"), key=_step, reverse=True)
    for checkpoint in found:
        problem = _problem(checkpoint, (*NEEDED, UNAVERAGED) if averaged else NEEDED)
        if problem is None:
            return checkpoint
        print(f"{checkpoint.name} is not used: {problem}.", flush=True)
        shutil.rmtree(checkpoint)
    return None


def _problem(checkpoint: Path, needed: tuple[str, ...]) -> str | None:
    missing = [name for name in needed if not (checkpoint / name).is_file()]
    if missing:
        return f"it was interrupted before {missing[0]} was written"
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        if state["best_model_checkpoint"]:
            _move_best(checkpoint, state)
            best = Path(state["best_model_checkpoint"])
            if best != checkpoint and not _reads(best / WEIGHTS):
                return f"the best weights so far, {best.name}, are damaged"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is damaged"
    for name in (WEIGHTS, UNAVERAGED):
        if name in needed and not _reads(checkpoint / name):
            return f"{name} is damaged"
    for archive in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        if not _passes(archive):
            return f"{archive.name} is damaged"
    return None


def _move_best(checkpoint: Path, state: dict) -> None:
    """The state names the best checkpoint by the path of that time; it may lie elsewhere by now."""
    here = checkpoint.parent / Path(state["best_model_checkpoint"]).name
    if here != Path(state["best_model_checkpoint"]):
        state["best_model_checkpoint"] = str(here)
        (checkpoint / STATE).write_text(json.dumps(state, indent=2), encoding="utf-8")


def _reads(weights: Path) -> bool:
    try:
        with safe_open(weights, "pt") as file:
            return bool(list(file.keys()))
    except (OSError, SafetensorError):
        return False


def _passes(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
