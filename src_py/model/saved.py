"""Trained models as folders: write one, read it back, predict with several."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from src_py.errors import InputError
from src_py.evaluation.calibration import TIE_SHIFTS, Calibration
from src_py.kaggle.files import file_digest, require_space, write_text, writing
from src_py.kaggle.inputs import TRAINED_MARKER, find_named
from src_py.kaggle.page import say
from src_py.kaggle.session import free_memory
from src_py.model.attention import use_attention
from src_py.model.attention_choice import choose_attention
from src_py.model.encoder import load_encoder
from src_py.model.lora import merge_lora
from src_py.model.predict import TOKENS, predict_pairs
from src_py.model.preference import Architecture, ModelSettings, PreferenceModel
from src_py.pairs.encode import Reading
from src_py.pairs.tokenizer import load_tokenizer
from src_py.pairs.trivial import apply_trivial, check_priors

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
        calibration: of its probabilities.
        trivial: class probabilities of pairs that need no reading, from `fit_trivial`, used in their place; None: none.
        stopped: why its training was stopped by the watcher; "" when it was not.
        ended: at which step the time limit ended its training; "" when it did not.

    Raises:
        InputError: a value that no run writes.
    """

    recipe: str
    classes: tuple[str, ...]
    reading: Reading
    model: ModelSettings = field(default_factory=ModelSettings)
    calibration: Calibration = field(default_factory=Calibration)
    trivial: dict[str, list[float]] | None = None
    run: str = ""
    stopped: str = ""
    ended: str = ""

    def __post_init__(self) -> None:
        texts = (self.recipe, self.run, self.stopped, self.ended, *self.classes)
        if not all(isinstance(text, str) for text in texts):
            raise InputError("recipe, run and classes must be texts")
        if len(self.classes) not in (2, 3) or len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes are {list(self.classes)}; they must be two or three different names")
        limits = {"temperature": TEMPERATURES, "tie_shift": TIE_SHIFTS}
        for name, (low, high) in limits.items():
            value = getattr(self.calibration, name)
            if not (isinstance(value, (int, float)) and low <= value <= high):
                raise InputError(f"{name} is {value!r}; it must be between {low:g} and {high:g}")
        if self.trivial is not None:
            check_priors(self.trivial, len(self.classes))

    def finish(self, probabilities: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Calibrated probabilities (rows, classes) of a table's rows, trivial pairs by their prior."""
        calibrated = self.calibration.apply(probabilities)
        return calibrated if self.trivial is None else apply_trivial(calibrated, table, self.trivial)


def save_trained(
    model: PreferenceModel, tokenizer, folder: str | Path, settings: SavedSettings, half: bool = False
) -> None:
    """Write encoder, tokenizer, head and settings as one folder, all weights as safetensors.

    The encoder alone can be read back with `AutoModel.from_pretrained(folder)`: adapters are folded into its weights
    first, in `model` too. The marker file comes last and holds
    a digest of every other file, so that a half-written or altered folder is never taken for a trained one.

    Args:
        half: store the encoder's weights in fp16, which takes half of the space; those of the model stay fp32.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    folder = Path(folder)
    merge_lora(model.encoder)
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
            raise ValueError("a field differs from what was saved")
        digests = found.pop("files")
        kinds = {"reading": Reading, "model": ModelSettings, "calibration": Calibration}
        parts = {name: kind(**found[name]) for name, kind in kinds.items()}
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
            "attach the complete output of a finished run, and undo edits of the helpers since then."
        ) from error
    return model.eval(), settings


def load_to_predict(
    folder: str | Path, precision: str, attention: str = "auto"
) -> tuple[PreferenceModel, SavedSettings]:
    """As `load_trained`, with the attention that is fastest here for predictions in this precision."""
    model, settings = load_trained(folder)
    length = settings.reading.max_length
    kind = choose_attention(folder, attention, max(1, TOKENS // length), length, precision, training=False)
    use_attention(model.encoder, kind)
    return model, settings


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


def model_names(folds: tuple[int, ...], seeds: int) -> dict[str, tuple[int, int]]:
    """Folder of each model of a run, with its fold and the number of its seed: fold_0, fold_0_seed_1, ..., fold_1."""
    pairs = [(fold, seed) for fold in folds for seed in range(seeds)]
    return {f"fold_{fold}" + (f"_seed_{seed}" if seed else ""): (fold, seed) for fold, seed in pairs}


def finished_models(output: Path, run: str) -> list[str]:
    """Folders of the models that this run has saved in `output` completely; damaged ones are said and left out."""
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
        except InputError as error:
            say(f"{folder.name} is trained again: {error}")
            continue
        found.append(folder.name)
        if settings.ended:
            say(f"CFG.hours ended {folder.name} at {settings.ended}; remove that folder to train it in full.")
    return found


def stopped_models(output: Path, names: Iterable[str]) -> dict[str, str]:
    """Saved models whose training the watcher stopped, and why."""
    saved = [name for name in names if (output / name / TRAINED_MARKER).is_file()]
    reasons = {name: read_settings(output / name).stopped for name in saved}
    return {name: reason for name, reason in reasons.items() if reason}


def predict_saved(
    folders: list[Path],
    table: pd.DataFrame,
    classes: tuple[str, ...],
    precision: str = "fp32",
    attention: str = "auto",
    cache_dir: str | Path | None = None,
    what: str = "test rows",
) -> np.ndarray:
    """Mean probabilities of trained folders, each with its own calibration, float64 of shape (rows, classes).

    Args:
        classes: of the contest, in order.
        cache_dir: where tokenised texts are kept for models that read alike, as in `encode_pairs`.
        what: the rows are, for the bars' titles.

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
        model, settings = load_to_predict(folder, precision, attention)
        options: dict[str, Any] = {"precision": precision, "cache_dir": cache_dir, "what": f"{what}, {folder.name}"}
        predicted = predict_pairs(model, load_tokenizer(folder), table, settings.reading, **options)
        total += settings.finish(predicted, table)
        del model
        free_memory()
    return total / len(folders)
