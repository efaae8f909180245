"""Trained models as folders: write one, read it back, predict with several."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from src_py.errors import InputError
from src_py.evaluation.metrics import apply_temperature
from src_py.kaggle.files import write_text, writing
from src_py.kaggle.inputs import TRAINED_MARKER, find_named
from src_py.kaggle.session import free_memory
from src_py.model.encoder import load_encoder
from src_py.model.predict import predict_pairs
from src_py.model.preference import PreferenceModel, make_head
from src_py.pairs.encode import Reading
from src_py.pairs.tokenizer import load_tokenizer

HEAD = "head.safetensors"


@dataclass(frozen=True)
class SavedSettings:
    """What a trained folder says of its model: which recipe saved it, for which classes, and how it reads a pair."""

    recipe: str
    classes: tuple[str, ...]
    reading: Reading
    pooling: str = "mean"
    side_bias: bool = False
    temperature: float = 1.0


def save_trained(model: PreferenceModel, tokenizer, folder: str | Path, settings: SavedSettings) -> None:
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
        save_file({k: v.contiguous().cpu() for k, v in model.head.state_dict().items()}, folder / HEAD)
    write_text(folder / TRAINED_MARKER, json.dumps(asdict(settings), indent=1))


def read_settings(folder: str | Path) -> SavedSettings:
    """The settings of a folder that `save_trained` wrote.

    Raises:
        InputError: when they are missing, damaged, or hold a value that no run writes.
    """
    try:
        found = json.loads((Path(folder) / TRAINED_MARKER).read_text(encoding="utf-8"))
        reading = Reading(**found.pop("reading"))
        return SavedSettings(**found | {"classes": tuple(found["classes"]), "reading": reading})
    except Exception as error:
        raise InputError(
            f"The settings of the trained folder {folder} cannot be read ({type(error).__name__}: {error}); "
            "attach the complete output of a finished run."
        ) from error


def load_trained(folder: str | Path, fast_attention: bool = True) -> tuple[PreferenceModel, SavedSettings]:
    """Read a folder written by `save_trained`: the model in float32, eval mode, and its settings.

    Raises:
        InputError: when anything in it is missing or damaged.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    encoder = load_encoder(folder, fast_attention)
    style, n_classes = settings.reading.style, len(settings.classes)
    head = make_head(style, encoder.config.hidden_size, n_classes, 0.0, settings.side_bias)
    try:
        head.load_state_dict(load_file(folder / HEAD))
    except Exception as error:  # safetensors and torch raise many kinds
        raise InputError(
            f"The head of the trained folder {folder} cannot be read ({type(error).__name__}: {error}); "
            "attach the complete output of a finished run."
        ) from error
    return PreferenceModel(encoder, head, settings.pooling).eval(), settings


def find_trained(root: str | Path, recipe: str | None = None) -> list[Path]:
    """Trained folders below `root`, in order of their path: all of them, or those of one recipe.

    Raises:
        InputError: as for `read_settings`.
    """
    folders = [path.parent for path in find_named(root, TRAINED_MARKER)]
    return [folder for folder in folders if recipe is None or read_settings(folder).recipe == recipe]


def predict_saved(
    folders: list[Path], table: pd.DataFrame, precision: str = "fp32", fast_attention: bool = True
) -> np.ndarray:
    """Mean probabilities of trained folders, each at its own temperature, float64 of shape (rows, classes)."""
    total = 0.0
    for folder in folders:
        model, settings = load_trained(folder, fast_attention)
        predicted = predict_pairs(model, load_tokenizer(folder), table, settings.reading, precision=precision)
        total = total + apply_temperature(predicted, settings.temperature)
        del model
        free_memory()
    return total / len(folders)
