"""Finished cells on disk: none lost, none counted half."""

import json
import os
from pathlib import Path

import numpy as np

from src_py.cell import Cell, Outcome
from src_py.errors import InputError


def find_cells(root: str | Path) -> tuple[Path, ...]:
    """Folders named `cells` below `root`: an earlier run's output, attached to go on from."""
    folders = (Path(folder) for folder, _, _ in os.walk(root, followlinks=True))
    return tuple(sorted(folder for folder in folders if folder.name == "cells"))


class CellStore:
    """One file a finished cell, written under another name first: a killed run leaves no half cell behind.

    Args:
        folder: where cells are written.
        key: from `Problem.key`; cells of another problem are not seen.
        attached: further folders to read, such as an earlier run's output.
    """

    def __init__(self, folder: str | Path, key: str, attached: tuple[Path, ...] = ()):
        self.folder, self.key, self.attached = Path(folder), key, tuple(attached)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror}); set CFG.output_dir.") from error

    def path(self, cell: Cell) -> Path:
        return self.folder / f"{self.key}_{cell.arm}_{cell.rows}_{cell.as_rows}_{cell.seed}.npz"

    def save(self, cell: Cell, outcome: Outcome) -> None:
        """Raises InputError when the disk is full."""
        path = self.path(cell)
        temporary = path.with_name(f"{path.stem}.{os.getpid()}.part")
        told = {"at": outcome.at, "train_seconds": outcome.train_seconds}
        told |= {"step_seconds": outcome.step_seconds, "predict_seconds": outcome.predict_seconds}
        try:
            with open(temporary, "wb") as file:
                np.savez(file, probabilities=outcome.probabilities, told=json.dumps(told))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"{path} cannot be written ({error.strerror}); free some space.") from error

    def load(self, cell: Cell) -> Outcome | None:
        """The stored outcome; None when there is none that can be read."""
        for folder in (self.folder, *self.attached):
            try:
                with np.load(folder / self.path(cell).name, allow_pickle=False) as stored:
                    told = json.loads(str(stored["told"]))
                    return Outcome(stored["probabilities"], **told)
            except FileNotFoundError:
                continue
            except Exception as error:  # zip and numpy raise many kinds; the cell is run again
                print(f"{folder / self.path(cell).name} cannot be read ({error}); this cell is run again")
        return None

    def done(self, cells: list[Cell]) -> set[Cell]:
        return {cell for cell in cells if self.load(cell) is not None}
