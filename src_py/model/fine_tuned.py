"""The output of `finetune_deberta` as a member of a blend: its out-of-fold predictions and its trained folders."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.inputs import TRAINED_MARKER
from src_py.kaggle.resume import debug_run_rows
from src_py.model.saved import find_trained, read_settings
from src_py.pairs.load import prompt_key
from src_py.pairs.split import file_name

RECIPE, OOF = "finetune_deberta", "oof.csv"


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

    Its split need not be the one of `table`: a prediction is out of fold when no row with the same prompt was trained
    on, whichever fold that prompt has elsewhere. This is checked: all rows of a prompt must lie in one of its folds.

    Args:
        table: training rows from `load_pairs`.
        rows: CFG.rows. Only a debug run uses the output of a debug run, which is said; and since it has some of the
            training rows only, it leaves out the predictions for the others.

    Raises:
        InputError: several are attached, a file is missing or damaged, the classes are others, or `oof.csv` was made
            from other rows, other labels, or a split that separates rows of a prompt.
    """
    trained = find_trained(root, RECIPE)
    outputs = sorted({folder.parent for folder in trained})
    for folder in [] if rows else list(outputs):
        if few := debug_run_rows(folder, RECIPE):
            outputs.remove(folder)
            print(f"{folder} is not used: it was a debug run on {few:,} rows. Attach a run with CFG.rows = 0.")
    trained = [folder for folder in trained if folder.parent in outputs]
    if not outputs:
        return None
    if len(outputs) > 1:
        raise InputError(f"Several outputs of {RECIPE} are attached ({', '.join(map(str, outputs))}); keep one.")
    path = outputs[0] / file_name(OOF, debug_run_rows(outputs[0], RECIPE))
    oof = _read_oof(path, classes)
    if rows:
        oof = oof[oof.index.isin(table["id"])]
    found = oof.reindex(table["id"])
    wrong = found["label"].notna().to_numpy() & (found["label"].to_numpy() != table["label"].to_numpy())
    if wrong.any() or oof.empty or not oof.index.isin(table["id"]).all():
        raise InputError(f"{path} was made from other training rows; attach the run on this data, or none.")
    if found["fold"].fillna(-1).groupby(prompt_key(table).to_numpy()).nunique().max() > 1:
        raise InputError(
            f"{path} has rows of one prompt in several folds or leaves some out: its predictions may not be out of "
            "fold; attach the run on this data, or none."
        )
    folders = []
    for fold in sorted(oof["fold"].unique()):
        seeds = [folder for folder in trained if re.fullmatch(rf"fold_{fold}(_seed_\d+)?", folder.name)]
        if outputs[0] / f"fold_{fold}" not in seeds:
            raise InputError(f"{path} has predictions of fold_{fold}, but that folder is missing; {_ATTACH}")
        folders += seeds
    for folder in folders:
        if (known := read_settings(folder).classes) != classes:
            raise InputError(
                f"{folder} was trained for the classes {', '.join(known)}, but this contest has {', '.join(classes)}; "
                "attach the run on this data, or none."
            )
    digest = hashlib.sha256(path.read_bytes())
    for folder in folders:
        digest.update((folder / TRAINED_MARKER).read_bytes())
    return FineTuned(found[list(classes)].to_numpy(float), folders, outputs[0], digest.hexdigest()[:24])


_ATTACH = f"attach the complete output of a run of {RECIPE} that ended, or none."


def _read_oof(path: Path, classes: tuple[str, ...]) -> pd.DataFrame:
    """Columns fold, label and the classes' probabilities, indexed by id; raises `InputError` unless all are sound."""
    if not path.is_file():
        raise InputError(f"{path.parent} has trained folders but no {path.name}; {_ATTACH}")
    try:
        oof = pd.read_csv(path, dtype={"id": str}, keep_default_na=False).set_index("id")
        oof = oof[["fold", "label", *classes]].apply(pd.to_numeric)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise InputError(f"{path} cannot be read ({reason}); {_ATTACH}") from error
    probabilities = oof[list(classes)].to_numpy(float)
    whole = [np.isin(oof[name], range(limit)).all() for name, limit in (("fold", 100), ("label", len(classes)))]
    sound = (probabilities >= 0).all() and (np.abs(probabilities.sum(1) - 1) < 1e-3).all()
    if not (len(oof) and all(whole) and sound and oof.index.is_unique):
        raise InputError(
            f"{path} does not hold one row an id with a fold, a label and probabilities that sum to 1; {_ATTACH}"
        )
    return oof.astype({"fold": int, "label": int})
