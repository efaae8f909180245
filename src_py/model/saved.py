"""Trained models as folders: write one, read it back, predict with several."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from src_py.errors import InputError
from src_py.evaluation.metrics import apply_temperature
from src_py.kaggle.files import write_text, writing
from src_py.kaggle.inputs import TRAINED_MARKER, find_named
from src_py.model.encoder import load_encoder
from src_py.model.predict import predict_pairs
from src_py.model.preference import PreferenceModel, make_head
from src_py.pairs.tokenizer import load_tokenizer


def save_trained(model: PreferenceModel, tokenizer, folder: str | Path, settings: dict) -> None:
    """Write encoder, tokenizer, head and settings as one folder, all weights as safetensors.

    The encoder alone can be read back with `AutoModel.from_pretrained(folder)`. The marker file comes last, so
    that a half-written folder is never taken for a trained one.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRAINED_MARKER).unlink(missing_ok=True)
        model.encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_file({k: v.contiguous().cpu() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")
    write_text(folder / TRAINED_MARKER, json.dumps(settings, indent=1))


def load_trained(folder: str | Path, fast_attention: bool = True) -> tuple[PreferenceModel, dict]:
    """Read a folder written by `save_trained`: the model in float32, eval mode, and its settings."""
    folder = Path(folder)
    try:
        settings = json.loads((folder / TRAINED_MARKER).read_text(encoding="utf-8"))
        encoder = load_encoder(folder, fast_attention)
        head = make_head(
            settings["style"], encoder.config.hidden_size, settings["n_classes"], 0.0, settings["side_bias"]
        )
        head.load_state_dict(load_file(folder / "head.safetensors"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"The trained folder {folder} cannot be read ({type(error).__name__}: {error}); "
            "attach the complete output of a finished run."
        ) from error
    return PreferenceModel(encoder, head, settings["pooling"]).eval(), settings


class FineTuned(NamedTuple):
    """Out-of-fold probabilities (training rows, classes), NaN where there are none, and the trained folders."""

    oof: np.ndarray
    folders: list[Path]


def find_fine_tuned(root: str | Path, table: pd.DataFrame, classes: tuple[str, ...]) -> FineTuned | None:
    """The output of `finetune_deberta` below `root`: `oof.csv` beside its `fold_*` folders; None when there is none.

    Raises:
        InputError: several are attached, its rows or labels are not those of `table`, or its folders are missing.
    """
    found = find_named(root, "oof.csv")
    if not found:
        return None
    if len(found) > 1:
        raise InputError(f"Several files oof.csv are attached ({', '.join(map(str, found))}); keep one.")
    oof = pd.read_csv(found[0], dtype={"id": str}).set_index("id")
    rows = oof.reindex(table["id"])
    wrong = rows["label"].notna().to_numpy() & (rows["label"].to_numpy() != table["label"].to_numpy())
    if wrong.any() or not oof.index.isin(table["id"]).all():
        raise InputError(f"{found[0]} was made from other training rows; attach the run on this data, or none.")
    folders = sorted(path.parent for path in found[0].parent.glob(f"fold_*/{TRAINED_MARKER}"))
    if not folders:
        raise InputError(f"{found[0]} has no fold_* folders beside it; attach the whole output of finetune_deberta.")
    return FineTuned(rows[list(classes)].to_numpy(float), folders)


def predict_fine_tuned(folders: list[Path], table: pd.DataFrame, precision: str) -> np.ndarray:
    """Mean probabilities of the trained folders, each at its own temperature, (rows, classes)."""
    parts = []
    for folder in folders:
        model, settings = load_trained(folder)
        reading = {key: settings[key] for key in ("style", "max_length", "prompt_share", "head_share")}
        predicted = predict_pairs(model, load_tokenizer(folder), table, **reading, precision=precision)
        parts.append(apply_temperature(predicted, settings["temperature"]))
    return np.mean(parts, axis=0)
