"""Trained models as folders: write one, read it back, predict with several."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from src_py.errors import InputError
from src_py.evaluation.metrics import apply_temperature
from src_py.kaggle.files import file_digest, require_space, write_text, writing
from src_py.kaggle.inputs import TRAINED_MARKER, find_named
from src_py.kaggle.session import free_memory
from src_py.model.attention import use_attention
from src_py.model.attention_choice import choose_attention
from src_py.model.encoder import load_encoder
from src_py.model.predict import TOKENS, predict_pairs
from src_py.model.preference import Architecture, ModelSettings, PreferenceModel
from src_py.pairs.encode import Reading
from src_py.pairs.tokenizer import load_tokenizer

HEAD = "head.safetensors"
TABLES = ("validation.csv", "history.csv")  # that a fold has beside its model
TEMPERATURES = (0.05, 20.0)  # wider than `fit_temperature` looks


@dataclass(frozen=True)
class SavedSettings:
    """What a trained folder says of its model.

    Args:
        recipe, run: the recipe that saved it, and the key of its run (`kaggle.identity.key_of`).
        classes: names of the classes, in the order of the model's outputs.
        reading: how the model reads a pair.
        model: what is built on its encoder.
        temperature, tie_shift: calibrate its probabilities.
        stopped: why its training was stopped by the watcher; "" when it was not.
        ended: at which step the time limit ended its training; "" when it did not.

    Raises:
        InputError: a value that no run writes.
    """

    recipe: str
    classes: tuple[str, ...]
    reading: Reading
    model: ModelSettings = field(default_factory=ModelSettings)
    temperature: float = 1.0
    tie_shift: float = 0.0
    run: str = ""
    stopped: str = ""
    ended: str = ""

    def __post_init__(self) -> None:
        texts = (self.recipe, self.run, self.stopped, self.ended, *self.classes)
        if not all(isinstance(text, str) for text in texts):
            raise InputError("a name is not a text")
        if len(self.classes) not in (2, 3) or len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes are {list(self.classes)}; they must be two or three different names")
        low, high = TEMPERATURES
        if not (isinstance(self.temperature, (int, float)) and low <= self.temperature <= high):
            raise InputError(f"temperature is {self.temperature!r}; it must be between {low:g} and {high:g}")


def save_trained(
    model: PreferenceModel, tokenizer, folder: str | Path, settings: SavedSettings, half: bool = False
) -> None:
    """Write encoder, tokenizer, head and settings as one folder, all weights as safetensors.

    The encoder alone can be read back with `AutoModel.from_pretrained(folder)`. The marker file comes last and holds
    a digest of every other file, so that a half-written or altered folder is never taken for a trained one.

    Args:
        half: store the encoder's weights in fp16, which takes half of the space; the model is not changed.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    folder = Path(folder)
    size = sum(p.numel() * (2 if half else 4) for p in model.parameters())
    require_space(folder, size, f"Saving the model in {folder.name}")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRAINED_MARKER).unlink(missing_ok=True)
        weights = {k: v.half() if half and v.is_floating_point() else v for k, v in model.encoder.state_dict().items()}
        model.encoder.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)
        save_file({name: value.contiguous().cpu() for name, value in _own_weights(model).items()}, folder / HEAD)
    marker = asdict(settings) | {"files": _digests(folder)}
    write_text(folder / TRAINED_MARKER, json.dumps(marker | {"digest": _marker_digest(marker)}, indent=1))


def _own_weights(model: PreferenceModel) -> dict[str, torch.Tensor]:
    """Everything that predictions need beside the encoder."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith(("encoder.", "names."))}


def _marker_digest(marker: dict) -> str:
    """Finds fields that were altered by accident or by hand; who wants to deceive can compute it too."""
    return hashlib.sha256(json.dumps(marker, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that the model needs; tables of results beside them may change."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".csv" and path.name != TRAINED_MARKER)
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


def read_settings(folder: str | Path) -> SavedSettings:
    """The settings of a folder that `save_trained` wrote.

    Raises:
        InputError: when they are missing, damaged, or hold a value that no run writes.
    """
    return _read_marker(folder)[0]


def _read_marker(folder: str | Path) -> tuple[SavedSettings, dict[str, str]]:
    """Settings and file digests."""
    try:
        found = json.loads((Path(folder) / TRAINED_MARKER).read_text(encoding="utf-8"))
        if found.pop("digest") != _marker_digest(found):
            raise InputError("a field differs from what was saved")
        digests = found.pop("files")
        parts = {"reading": Reading(**found["reading"]), "model": ModelSettings(**found["model"])}
        return SavedSettings(**found | parts | {"classes": tuple(found["classes"])}), dict(digests)
    except Exception as error:  # whatever a damaged file makes of these lines
        raise InputError(
            f"The trained folder {folder} cannot be read: {TRAINED_MARKER} is damaged or of another version "
            f"({type(error).__name__}: {str(error)[:150]}); attach the complete output of a finished run."
        ) from error


def load_trained(folder: str | Path) -> tuple[PreferenceModel, SavedSettings]:
    """Read a folder written by `save_trained`: the model in float32, eval mode, and its settings.

    Raises:
        InputError: when anything in it is missing or damaged.
    """
    folder = Path(folder)
    settings = _check_files(folder)
    reading = settings.reading
    model = PreferenceModel(
        load_encoder(folder), Architecture(reading.style, len(settings.classes), settings.model, reading.features)
    )
    try:
        weights = load_file(folder / HEAD)
        if wrong := set(weights) ^ set(_own_weights(model)):
            raise ValueError(f"{sorted(wrong)[0]} is missing or not expected")
        model.load_state_dict(weights, strict=False)
    except Exception as error:  # safetensors and torch raise many kinds
        raise InputError(
            f"The head of the trained folder {folder} cannot be read ({type(error).__name__}: {error}); "
            "attach the complete output of a finished run."
        ) from error
    return model.eval(), settings


def _check_files(folder: Path) -> SavedSettings:
    """The settings of a folder whose files are all as they were saved."""
    settings, digests = _read_marker(folder)
    for name, digest in digests.items():
        if Path(name).name != name or not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise InputError(
                f"The trained folder {folder} cannot be read: {name} is missing or differs from what was saved; attach "
                "the complete output of a finished run."
            )
    return settings


def find_trained(root: str | Path, recipe: str | None = None) -> list[Path]:
    """Trained folders below `root`, in order of their path: all of them, or those of one recipe.

    Raises:
        InputError: as for `read_settings`.
    """
    folders = [path.parent for path in find_named(root, TRAINED_MARKER)]
    return [folder for folder in folders if recipe is None or read_settings(folder).recipe == recipe]


def finished_folds(output: Path, run: str) -> list[int]:
    """Folds that this run has saved in `output` completely; a damaged one is said and counts as not saved."""
    found = []
    for marker in sorted(output.glob(f"fold_*/{TRAINED_MARKER}")):
        folder = marker.parent
        try:
            if read_settings(folder).run != run:
                continue
            settings = _check_files(folder)
            missing = [name for name in TABLES if not (folder / name).is_file()]
            if missing:
                raise InputError(f"{folder} lacks {missing[0]}.")
            found.append(int(folder.name.removeprefix("fold_")))
        except (InputError, ValueError) as error:
            print(f"{folder.name} is trained again: {error}")
            continue
        if settings.ended:
            print(f"CFG.hours ended {folder.name} at {settings.ended}; remove that folder to train it in full.")
    return found


def stopped_folds(output: Path, folds: tuple[int, ...]) -> dict[int, str]:
    """Saved folds whose training the watcher stopped, and why."""
    saved = [fold for fold in folds if (output / f"fold_{fold}" / TRAINED_MARKER).is_file()]
    reasons = {fold: read_settings(output / f"fold_{fold}").stopped for fold in saved}
    return {fold: reason for fold, reason in reasons.items() if reason}


def predict_saved(
    folders: list[Path],
    table: pd.DataFrame,
    classes: tuple[str, ...],
    precision: str = "fp32",
    attention: str = "auto",
) -> np.ndarray:
    """Mean probabilities of trained folders, each at its own temperature, float64 of shape (rows, classes).

    Raises:
        InputError: when there is no folder, or one was trained for other classes than `classes`.
    """
    if not folders:
        raise InputError("There is no trained model to predict with; train one, or attach the whole output of a run.")
    for folder in folders:
        if (found := read_settings(folder).classes) != tuple(classes):
            raise InputError(
                f"The model in {folder} was trained for the classes {', '.join(found)}, but this contest has "
                f"{', '.join(classes)}; attach a run on this contest's data."
            )
    total = np.zeros((len(table), len(classes)))
    for folder in folders:
        model, settings = load_trained(folder)
        length = settings.reading.max_length
        kind = choose_attention(folder, attention, max(1, TOKENS // length), length, precision, training=False)
        use_attention(model.encoder, kind)
        predicted = predict_pairs(model, load_tokenizer(folder), table, settings.reading, precision=precision)
        tempered = predicted if settings.temperature == 1 else apply_temperature(predicted, settings.temperature)
        total += tempered
        del model
        free_memory()
    return total / len(folders)
