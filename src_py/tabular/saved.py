"""What a run of the LightGBM recipe leaves on disk: its folds, LightGBM's settings, and the blend that uses them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src_py.errors import InputError
from src_py.evaluation.calibration import TIE_SHIFTS
from src_py.kaggle.files import ENCODER_FILES, folder_digest, write_arrays, write_text
from src_py.kaggle.page import say
from src_py.tabular.embeddings import POOLINGS
from src_py.tabular.folds import FoldResult
from src_py.tabular.groups import GROUPS, Counted, FeatureSettings, FoldFeatures, group_sets
from src_py.tabular.models import LIGHTGBM, MODELS, Model, load_model
from src_py.tabular.sides import join

RECIPE, MARKER, OPTIONS, OOF = "embed_deberta_lightgbm", "tabular.json", "options.json", "oof_lightgbm.csv"
FINE_TUNED = "fine-tuned"  # the member of the blend that comes from finetune_deberta
DIGEST = "digest"


@dataclass(frozen=True)
class SavedBlend:
    """What predicting needs to know of a finished run.

    Args:
        classes: of the contest.
        features: which features the models learned.
        models: which models learned them.
        folds: those that were fitted.
        weights: of the blend's members, "set of groups/model" or `FINE_TUNED`, summing to 1.
        temperature, tie_shift: of the blend's `Calibration`.
        encoder: digest of the folder whose embeddings were used, or "".
        fine_tuned: digest of the output of `finetune_deberta` in the blend, or "".
    """

    classes: tuple[str, ...]
    features: FeatureSettings
    models: tuple[str, ...]
    folds: tuple[int, ...]
    weights: dict[str, float]
    temperature: float
    encoder: str = ""
    fine_tuned: str = ""
    tie_shift: float = 0.0


def encoder_digest(folder: Path | None) -> str:
    """What `SavedBlend` stores of an encoder: its weights and its tokenizer; "" where there is none."""
    return folder_digest(folder, ENCODER_FILES) if folder else ""


def save_fold(folder: Path, fold: int, result: FoldResult) -> None:
    """Arrays of one fold as fold_<n>.npz, with a digest of them all.

    Raises:
        InputError: when the folder cannot be written or the disk is full.
    """
    arrays = {f"features/{name}": array for name, array in result.features.arrays().items()}
    for (groups, name), model in result.models.items():
        parts = model.arrays() | {"curve": np.array(model.curve)}
        arrays |= {f"models/{groups}/{name}/{part}": array for part, array in parts.items()}
        arrays[f"predictions/{groups}/{name}"] = result.predictions[groups, name]
    write_arrays(folder / f"fold_{fold}.npz", arrays | {DIGEST: np.array(_arrays_digest(arrays, fold))})


def load_fold(folder: Path, fold: int) -> FoldResult:
    """What `save_fold` wrote. Its digest is compared first: LightGBM ends the whole process when a model is damaged.

    Raises:
        InputError: when the file is missing or damaged.
    """
    path = folder / f"fold_{fold}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if str(arrays.pop(DIGEST, "")) != _arrays_digest(arrays, fold):
            raise ValueError("its contents were changed")
        return _fold(arrays)
    except Exception as error:  # zip and numpy raise many kinds
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); attach the complete output of a finished run.") from error


def finished_fold(folder: Path, fold: int) -> FoldResult | None:
    """A fold that an interrupted run has stored; None when there is none that can be read."""
    if not (folder / f"fold_{fold}.npz").is_file():
        return None
    try:
        return load_fold(folder, fold)
    except InputError as error:
        say(f"Fold {fold} is fitted again: {error}")
        return None


def save_options(folder: Path, options: dict[str, Any]) -> None:
    """LightGBM's settings as they were searched: a search bounded by time does not find the same twice."""
    write_text(folder / OPTIONS, json.dumps(options))


def saved_options(folder: Path) -> dict[str, Any] | None:
    """What `save_options` wrote; None when there is none.

    Raises:
        InputError: when it is damaged or holds anything but settings of LightGBM.
    """
    if not (folder / OPTIONS).is_file():
        return None
    found = _read_json(folder / OPTIONS)
    for name, value in found.items():
        if name not in LIGHTGBM or not _is_number(value, 0, 1e6) or type(value) is not type(LIGHTGBM[name]):
            raise _refused(folder, f"{OPTIONS} has {name} = {value!r}")
    return found


def save_blend(folder: Path, blend: SavedBlend) -> None:
    """Written last: a folder with it is complete. It names the digest of every other file."""
    fields = asdict(blend)
    fields |= fields.pop("features")
    names = [*(f"fold_{fold}.npz" for fold in blend.folds), OPTIONS]
    digests = {name: _file_digest(folder / name) for name in names if (folder / name).is_file()}
    fields = json.loads(json.dumps({"recipe": RECIPE} | fields | {"files": digests}))
    write_text(folder / MARKER, json.dumps(fields | {DIGEST: _fields_digest(fields)}, indent=1))


def read_blend(folder: Path) -> SavedBlend:
    """What `save_blend` wrote, every field and every file checked.

    Raises:
        InputError: when anything is missing, damaged, or holds a value that no run writes.
    """
    found = _read_json(folder / MARKER)
    for name, allows in _FIELDS.items():
        if name not in found:
            raise _refused(folder, f"{MARKER} has no {name}")
        if not allows(found[name]):
            raise _refused(folder, f"{MARKER} has {name} = {str(found[name])[:100]!r}")
    possible = {f"{name}/{model}" for name in group_sets(found["groups"]) for model in found["models"]} | {FINE_TUNED}
    if unknown := set(found["weights"]) - possible:
        raise _refused(folder, f"{MARKER} weighs {sorted(unknown)[0]}, which was not trained")
    if bool(found["fine_tuned"]) != (FINE_TUNED in found["weights"]):
        raise _refused(folder, f"{MARKER} contradicts itself about the fine-tuned model")
    if bool(found["encoder"]) != ("embeddings" in found["groups"]):
        raise _refused(folder, f"{MARKER} contradicts itself about the encoder")
    files = found["files"]
    for name in [*(f"fold_{fold}.npz" for fold in found["folds"]), *files]:
        if name not in files or not (folder / name).is_file():
            raise _refused(folder, f"{name} is missing")
        if _file_digest(folder / name) != files[name]:
            raise _refused(folder, f"{name} is not the file that was saved")
    if found.pop(DIGEST) != _fields_digest(found):
        raise _refused(folder, f"{MARKER} was changed after it was saved")
    features = FeatureSettings(tuple(found["groups"]), found["max_length"], found["pooling"])
    values: dict[str, Any] = {name: tuple(found[name]) for name in ("classes", "models", "folds")}
    values |= {name: found[name] for name in ("weights", "temperature", "tie_shift", "encoder", "fine_tuned")}
    return SavedBlend(features=features, **values)


def check_blend(folder: Path, blend: SavedBlend, classes: tuple[str, ...], model_dir: Path | None) -> None:
    """Whether a finished run fits this contest and the encoder that is attached.

    Raises:
        InputError: when it does not.
    """
    if blend.classes != classes:
        raise _refused(folder, f"its classes are {', '.join(blend.classes)}, this contest's {', '.join(classes)}")
    if blend.encoder != encoder_digest(model_dir):
        raise InputError(f"{folder} was trained with another encoder than {model_dir}; attach that one.")


def predict_folds(folder: Path, blend: SavedBlend, counted: Counted) -> dict[str, np.ndarray]:
    """The mean over folds of every member of the blend that these folds hold, each (rows, classes).

    Raises:
        InputError: when a fold cannot be read.
    """
    total: dict[str, Any] = {name: 0.0 for name in blend.weights if name != FINE_TUNED}
    for fold in blend.folds:
        result = load_fold(folder, fold)
        sides = result.features.transform(counted)
        for member in total:
            name, _, model = member.partition("/")
            columns = join([sides[group] for group in group_sets(blend.features.groups)[name]])
            total[member] = total[member] + result.models[name, model].predict(columns) / len(blend.folds)
    return total


def _fold(arrays: dict[str, np.ndarray]) -> FoldResult:
    features: dict[str, np.ndarray] = {}
    parts: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    predictions: dict[tuple[str, str], np.ndarray] = {}
    for path, array in arrays.items():
        kind, rest = path.split("/", 1)
        if kind == "features":
            features[rest] = array
        elif kind == "predictions":
            groups, name = rest.split("/")
            predictions[groups, name] = array
        else:
            groups, name, part = rest.split("/", 2)
            parts.setdefault((groups, name), {})[part] = array
    models: dict[tuple[str, str], Model] = {}
    for key, own in parts.items():
        curve = own.pop("curve")
        models[key] = load_model(key[1], own)
        models[key].curve = tuple(curve.tolist())
    return FoldResult(FoldFeatures.from_arrays(features), models, predictions)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path.parent, f"{path.name} cannot be read ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise _refused(path.parent, f"{path.name} does not hold settings")
    return found


def _refused(folder: Path, problem: str) -> InputError:
    return InputError(
        f"The folder {folder} cannot be used: {problem}; attach the complete output of a run of {RECIPE} that ended, "
        "or set CFG.mode = 'train' and CFG.resume = 'never'."
    )


def _is_number(value: Any, least: float, most: float) -> bool:
    """Whether a value read from JSON is a number in these bounds; NaN is in none."""
    return type(value) in (int, float) and least <= value <= most


def _are_some(values: Any, allows: Callable[[Any], bool]) -> bool:
    """A list that is not empty, of allowed values, each once."""
    return isinstance(values, list) and bool(values) and all(map(allows, values)) and len(set(values)) == len(values)


def _are_weights(values: Any) -> bool:
    """Positive numbers that sum to 1, by name."""
    fits = isinstance(values, dict) and all(_is_number(value, 1e-12, 1) for value in values.values())
    return fits and abs(sum(values.values()) - 1) < 1e-6


def _are_digests(values: Any) -> bool:
    """Texts by the name of a file beside the marker."""
    return isinstance(values, dict) and all(
        isinstance(digest, str) and Path(name).name == name for name, digest in values.items()
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "recipe": lambda value: value == RECIPE,
    "classes": lambda value: _are_some(value, lambda name: isinstance(name, str)) and len(value) > 1,
    "groups": lambda value: _are_some(value, lambda name: isinstance(name, str) and name in GROUPS),
    "max_length": lambda value: type(value) is int and 16 <= value <= 16384,
    "pooling": lambda value: isinstance(value, str) and value in POOLINGS,
    "models": lambda value: _are_some(value, lambda name: isinstance(name, str) and name in MODELS),
    "folds": lambda value: _are_some(value, lambda fold: type(fold) is int and 0 <= fold < 100),
    "weights": _are_weights,
    # fit_calibration searches between exp(-2.5) and exp(2.5)
    "temperature": lambda value: _is_number(value, 0.08, 12.5),
    "tie_shift": lambda value: _is_number(value, *TIE_SHIFTS),
    "encoder": lambda value: isinstance(value, str),
    "fine_tuned": lambda value: isinstance(value, str),
    "files": _are_digests,
    DIGEST: lambda value: isinstance(value, str),
}


def _arrays_digest(arrays: dict[str, np.ndarray], fold: int) -> str:
    """Of the fold's number too, so that the files of two folds cannot change places."""
    digest = hashlib.sha256(str(fold).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()[:24]


def _fields_digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:24]


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:24]
