"""Find the encoder among what is attached."""

import json
import re
from pathlib import Path

from src_py.errors import InputError
from src_py.kaggle.inputs import TRAINED_MARKER, find_named
from src_py.model.families import NAMES, Problem, architecture_problem
from src_py.pairs.tokenizer import TOKENIZER_FILES

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OTHER_WEIGHTS = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax", "model.onnx": "ONNX"}
_CHOOSE = "choose the Transformers variation of the model"
_KERAS = Problem("a Keras preset", _CHOOSE)
_SAVED_MODEL = Problem("a TensorFlow SavedModel", _CHOOSE)
_ADAPTER = Problem(
    "a LoRA adapter without its base model",
    "merge it into the base model (merge_and_unload, save_pretrained) and attach the result",
)
# Files that a folder with a model in it has, in whatever format.
_SIGNS = ("config.json", "adapter_config.json", "task.json", "model.weights.h5", "saved_model.pb")
_SHOWN = 8


def find_encoder(root: str | Path, wanted: str = "", named: str = "CFG.model_dir") -> Path:
    """Find the folder of the encoder to use: any family in `families.FAMILIES`, with weights and tokenizer.

    Folders that a recipe saved after training are left out, unless `wanted` is the path of one.

    Args:
        root: where inputs are attached.
        wanted: CFG.model_dir. Empty: the only encoder that is attached. A path with a config.json: that folder. An
            absolute path of another folder: the only encoder below it. Anything else: a part of the path below
            `root`, upper or lower case, which picks among several. A part matches in three ways, and only the best
            way that occurs counts: it is one or more whole names of the path ("base" in `transformers/base/1`); it
            is whole words, where a change from letter to digit ends a word ("base" in `deberta-v3-base` and
            `debertav3base`, but neither in `database` nor "small" in `xsmall`); it begins a word ("deberta" in
            `debertav3base`).
        named: where the user wrote `wanted`, for errors.

    Raises:
        InputError: nothing usable is attached (says what was found instead), `wanted` matches nothing (another model
            is never taken for it), or several remain.
    """
    wanted = wanted.strip()
    if wanted:
        folder = Path(wanted).expanduser()
        if folder.is_absolute() and not folder.is_dir():
            raise InputError(f"{named} is {wanted}, which is not a folder; check the path, or leave it empty.")
        if folder.is_absolute() or (folder / "config.json").is_file():
            problem = folder_problem(folder)
            if (folder / "config.json").is_file() and not problem:
                return folder
            if problem:
                raise InputError(f"{named} is {wanted}, which holds {problem.what}; {problem.advice}.")
            root, wanted = folder, ""
    usable, unusable = _attached(root)
    chosen = _matching(usable, Path(root), wanted) if wanted else usable
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise InputError(
            f"Several encoders are attached ({_listed(chosen)}); set {named} to one of them, or to a part of "
            "its path that only this one has."
        )
    if wanted:
        meant = _matching(list(unusable), Path(root), wanted)
        if meant:
            raise InputError(f"{named} is {wanted!r}, which matches no usable encoder: {_found(meant, unusable)}.")
        attached = f"attached: {_listed(usable)}" if usable else "no encoder is attached"
        raise InputError(
            f"{named} is {wanted!r}, which matches no encoder below {root} ({attached}); "
            "attach such a model, set it to a part of one of these paths, or leave it empty to take the only one."
        )
    if unusable:
        # What comes closest to an encoder was meant; a config.json alone can be anybody's.
        closest = sorted(unusable, key=lambda folder: "config.json" in unusable[folder].what)
        raise InputError(f"No usable encoder below {root}: {_found(closest, unusable)}.")
    raise InputError(
        f"No folder below {root} holds an encoder (config.json, weights and tokenizer of {NAMES}); "
        f"attach one (Add Input > Models, for example deberta-v3-base) or set {named}."
    )


def attached_encoders(root: str | Path) -> list[Path]:
    """Folders below `root` that hold an encoder to start from, in order of their path."""
    return _attached(root)[0]


def folder_problem(folder: Path) -> Problem | None:
    """Why this folder cannot be used as an encoder; None when it can, or when it does not hold a model at all."""
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        return _ADAPTER
    config = _json(folder / "config.json")
    if config.get("model_type"):
        return architecture_problem(config) or _missing_files(names, config["model_type"])
    keras = {"class_name", "registered_name"}
    if "model.weights.h5" in names or keras & {*config, *_json(folder / "task.json")}:
        return _KERAS
    if "saved_model.pb" in names:
        return _SAVED_MODEL
    if "config.json" in names:
        what = "a config.json without model_type" if config else "a config.json that cannot be read"
        return Problem(what, "attach a complete Hugging Face model folder")
    return None


def _missing_files(names: set[str], model_type: str) -> Problem | None:
    needed = {"weights": WEIGHT_FILES, "tokenizer": TOKENIZER_FILES}
    missing = [what for what, files in needed.items() if not names & set(files)]
    if not missing:
        return None
    other = next((kind for name, kind in _OTHER_WEIGHTS.items() if name in names), None)
    if other and "weights" in missing:
        return Problem(f"the {other} weights of a {model_type} model", _CHOOSE)
    advice = "attach the complete model folder (model.safetensors or pytorch_model.bin, and the tokenizer's files)"
    return Problem(f"a {model_type} model without {' and '.join(missing)}", advice)


def _json(path: Path) -> dict:
    """Empty where the file is missing, damaged, or not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _attached(root: str | Path) -> tuple[list[Path], dict[Path, Problem]]:
    """Folders below `root` that hold an encoder, and those that hold something else with the reason."""
    folders = {path.parent for name in _SIGNS for path in find_named(root, name)}
    usable, unusable = [], {}
    for folder in sorted(folders):
        if (folder / TRAINED_MARKER).is_file():
            continue
        problem = folder_problem(folder)
        if problem:
            unusable[folder] = problem
        else:
            usable.append(folder)
    return usable, unusable


def _matching(folders: list[Path], root: Path, part: str) -> list[Path]:
    """The folders whose path below `root` matches `part` in the best way that occurs."""
    part = re.escape(part.strip("/").lower())
    # Where a word begins or ends: at any other character, and between a letter and a digit.
    begin = rf"(?:(?<![a-z0-9])|(?<=[0-9])(?=[a-z])|(?<=[a-z])(?=[0-9])){part}"
    end = r"(?:(?![a-z0-9])|(?<=[0-9])(?=[a-z])|(?<=[a-z])(?=[0-9]))"
    for pattern in (rf"(?:^|/){part}(?:/|$)", begin + end, begin):
        found = [folder for folder in folders if re.search(pattern, folder.relative_to(root).as_posix().lower())]
        if found:
            return found
    return []


def _found(folders: list[Path], problems: dict[Path, Problem]) -> str:
    found = ", ".join(f"{problems[folder].what} at {folder}" for folder in folders[:_SHOWN])
    return f"found {found}; {problems[folders[0]].advice}"


def _listed(folders: list[Path]) -> str:
    more = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
    return ", ".join(map(str, folders[:_SHOWN])) + more
