"""The output of `finetune_deberta` as a member of a blend: its out-of-fold predictions and its trained folders."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.inputs import TRAINED_MARKER
from src_py.kaggle.page import say
from src_py.kaggle.resume import debug_run_rows
from src_py.model.saved import find_trained, read_settings
from src_py.pairs.oof import read_oof
from src_py.pairs.split import file_name

RECIPE, OOF = "finetune_deberta", "oof.csv"
_ATTACH = f"attach the complete output of a run of {RECIPE} that ended, or none"


class FineTuned(NamedTuple):
    """Out-of-fold probabilities `oof` (training rows, classes), NaN where there are none; the trained folders; their
    output folder; and a digest that tells one output from another."""

    oof: np.ndarray
    folders: list[Path]
    output: Path
    digest: str

    @property
    def known(self) -> np.ndarray:
        """(training rows,) whether a row has a prediction."""
        return np.isfinite(self.oof).all(1)


def find_fine_tuned(root: str | Path, table: pd.DataFrame, classes: tuple[str, ...], rows: int = 0) -> FineTuned | None:
    """The output of `finetune_deberta` below `root`, recognised by its trained folders; None when there is none.

    Args:
        table: training rows from `load_pairs`.
        rows: CFG.rows. Only a debug run uses the output of a debug run, which is said; and since it has some of the
            training rows only, it leaves out the predictions for the others.

    Raises:
        InputError: several are attached, or as for `read_fine_tuned`.
    """
    outputs = sorted({folder.parent for folder in find_trained(root, RECIPE)})
    for folder in [] if rows else list(outputs):
        if few := debug_run_rows(folder, RECIPE):
            outputs.remove(folder)
            say(f"{folder} is not used: it was a debug run on {few:,} rows. Attach a run with CFG.rows = 0.")
    if not outputs:
        return None
    if len(outputs) > 1:
        raise InputError(f"Several outputs of {RECIPE} are attached ({', '.join(map(str, outputs))}); keep one.")
    return read_fine_tuned(outputs[0], table, classes, subset=rows > 0)


def read_fine_tuned(output: Path, table: pd.DataFrame, classes: tuple[str, ...], subset: bool = False) -> FineTuned:
    """What `finetune_deberta` left in this folder; every fold with predictions must have its trained folder.

    Args:
        table, subset: as in `read_oof`, which also says when predictions are out of fold.

    Raises:
        InputError: a file is missing or damaged, the classes are others, or as for `read_oof`.
    """
    path = output / file_name(OOF, debug_run_rows(output, RECIPE))
    if not path.is_file():
        raise InputError(f"{output} has trained folders but no {path.name}; {_ATTACH}.")
    oof = read_oof(path, table, classes, _ATTACH, subset)
    trained = sorted(marker.parent for marker in output.glob(f"fold_*/{TRAINED_MARKER}"))
    folders = []
    for fold in sorted(set(oof.fold_of[oof.fold_of >= 0].tolist())):
        seeds = [folder for folder in trained if re.fullmatch(rf"fold_{fold}(_seed_\d+)?", folder.name)]
        if output / f"fold_{fold}" not in seeds:
            raise InputError(f"{path} has predictions of fold_{fold}, but that folder is missing; {_ATTACH}.")
        folders += seeds
    for folder in folders:
        if (known := read_settings(folder).classes) != tuple(classes):
            raise InputError(
                f"{folder} was trained for the classes {', '.join(known)}, but this contest has {', '.join(classes)}; "
                "attach the run on this data, or none."
            )
    digest = hashlib.sha256(path.read_bytes())
    for folder in folders:
        digest.update((folder / TRAINED_MARKER).read_bytes())
    return FineTuned(oof.probabilities, folders, output, digest.hexdigest()[:24])
