"""Runs: resume one that was interrupted, set aside the results of another, and predict with a finished one."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.kaggle.files import write_text, writing
from src_py.kaggle.identity import (
    ELSEWHERE,
    changes,
    code_changes,
    helper_digests,
    imported_files,
    key_of,
    setting_changes,
)
from src_py.kaggle.inputs import EARLIER, find_named
from src_py.kaggle.page import say

_FOLD = re.compile(r"fold_\d+(_seed_\d+)?")
MODES, RESUMES = ("auto", "train", "predict"), ("auto", "never")


@dataclass(frozen=True)
class RunSettings(Settings):
    """What a run does.

    Args:
        mode: "train", "predict" with a finished run that is attached, or "auto": predict if one is attached.
        resume: "auto" uses finished folds and checkpoints of the same run, "never" starts from the beginning.
        rows: training rows of a debug run, whose results are marked and never predicted with; 0: all rows.
    """

    mode: str = setting("auto", choices=MODES)
    resume: str = setting("auto", choices=RESUMES)
    rows: int = setting(0, least=0)


class RunFiles(NamedTuple):
    """What a recipe leaves in its output folder.

    Attributes:
        recipe: whose the results are.
        results: what is used again when the run resumes.
        final: what is written at the end, such as the submission.
        temporary: folders that are removed when the run ends.
        shared: folders of results that name what they depend on themselves, so that any run may use them.
    """

    recipe: str
    results: tuple[str, ...]
    final: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def record(self) -> str:
        return f"{self.recipe}_run.json"


def find_finished(
    root: str | Path, recipe: str, mode: str, config: dict, marker: str = "fold_*/preference.json"
) -> Path | None:
    """The output folder of the finished run to predict with; None when this run trains.

    What is chosen, and which settings and code are therefore ignored, is printed in one line. A debug run, on a few
    rows, is never chosen, and that is printed too.

    Args:
        root: where inputs are attached.
        mode: from `RunSettings`.
        config: this notebook's settings, from `Config.values`.
        marker: pattern of a file that a run to predict with has.

    Raises:
        InputError: mode "predict" without a run to predict with, or several of them.
    """
    if mode == "train":
        return None
    records = {folder: _read(folder / f"{recipe}_run.json") for folder in _attached(root, recipe)}
    debug = {folder: rows for folder, record in records.items() if (rows := _debug_rows(record))}
    for folder, rows in debug.items():
        del records[folder]
        say(f"{folder} is not used: it was a debug run on {rows:,} rows. Attach the output of a run with CFG.rows = 0.")
    usable = [folder for folder, record in records.items() if record.get("finished") and record.get("learned", True)]
    if not usable and (mode == "predict" or is_scoring_run()):
        usable = [folder for folder, record in records.items() if record.get("results") and list(folder.glob(marker))]
    if len(usable) > 1:
        raise InputError(
            f"Several finished runs of {recipe} are attached ({', '.join(map(str, usable))}); keep one of them, or set "
            "CFG.mode = 'train'."
        )
    if not usable:
        if mode == "predict":
            only = f" but a debug run ({', '.join(map(str, debug))})" if debug else ""
            raise InputError(
                f"CFG.mode is 'predict', but no finished run of {recipe}{only} is attached below {root}; attach the "
                "output of a notebook that ran to its end, or set CFG.mode = 'train'."
            )
        for folder, record in records.items():
            if record.get("finished"):
                say(f"{folder} is not used: that run did not learn.")
        return None
    record = records[usable[0]]
    ignored = setting_changes(record.get("config", {}), json.loads(json.dumps(config, default=str)))
    ignored = [text for text in ignored if text.split()[0].removeprefix("CFG.") not in ELSEWHERE - {"folds", "seeds"}]
    stored = {name: text for name, text in record.get("identity", {}).get("code", {}).items() if "()" not in name}
    edited = code_changes(stored, helper_digests()) if stored else []
    also = f" Ignored, because that run had other settings: {', '.join(ignored)}." if ignored else ""
    also += f" Its code was different: {', '.join(edited)}." if edited else ""
    state = "finished" if record.get("finished") else "interrupted"
    state += "" if record.get("learned", True) else ", NOT LEARNED"
    say(f"PREDICTING ONLY, with the {state} run in {usable[0]}.{also} To train instead, set CFG.mode = 'train'.")
    return usable[0]


def edited_helpers(output: Path, recipe: str, modules: Iterable[str]) -> tuple[str, ...]:
    """Helper files, of those that the `modules` import, that had another text in the run that `output` holds."""
    stored = _read(output / f"{recipe}_run.json").get("identity", {}).get("code", {})
    used = imported_files(modules)
    before, now = ({name: code[name] for name in code if name in used} for code in (stored, helper_digests()))
    return tuple(code_changes(before, now)) if stored else ()


def recorded_run(output: Path, recipe: str) -> tuple[str, list[str] | None]:
    """Key of the run that `output` holds, which its results carry too, and the results that its submission was made
    from: None when the run did not come to its end.

    Raises:
        InputError: when there is no record of it.
    """
    record = _read(output / f"{recipe}_run.json")
    if "identity" not in record:
        raise InputError(f"{output} has no record of a run of {recipe}; attach the complete output of a run.")
    used = record.get("used") if record.get("finished") else None
    missing = [name for name in used or () if not (output / name).exists()]
    if missing:
        raise InputError(f"{output} lacks {', '.join(missing)} of its run; attach the complete output of that run.")
    return key_of(record["identity"]), used


def begin_run(
    output: Path, root: str | Path, identity: dict, files: RunFiles, config: dict, resume: str = "auto"
) -> None:
    """Make `output` hold what an earlier run with this identity has done, and no result of another.

    Results of another run are moved to `earlier_runs/`, from where they come back when its settings and code do; they
    are deleted only when the disk has no room. What belongs to no run is left alone.

    Args:
        root: where inputs are attached; a run with this identity that lies there is copied.
        identity: from `identify`.
        config: all settings, for the record.

    Raises:
        InputError: when the folder cannot be written.
    """
    key = key_of(identity)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        record = _read(output / files.record)
        same = record.get("identity") == identity
        if same and resume == "auto":
            say(f"Resuming the run in {output}: {_progress(output)}. CFG.resume = 'never' starts from the beginning.")
        else:
            known = record.get("identity")
            why = "their run is unknown"
            if known:
                why = "CFG.resume is 'never'" if same else f"changed: {', '.join(changes(known, identity))}"
            own = {*files.results, *files.final, *files.temporary}
            names = sorted(own | {name for name in record.get("results", []) if _FOLD.fullmatch(name)})
            # Until the end of this function the results belong to nobody: a kill must not leave them to another run.
            write_text(output / files.record, json.dumps({"recipe": files.recipe, "results": names}))
            _set_aside(output, names, record, files, why, keep=not same)
            found = resume == "auto" and (_bring_back(output, key) or _copy_attached(output, root, identity, files))
            if not found:
                say("This run starts from the beginning.")
        results = sorted({*files.results, *files.final, *files.temporary, *(record.get("results", []) if same else [])})
    state = {"recipe": files.recipe, "identity": identity, "config": config, "results": results}
    # Written last: copying that was itself interrupted starts again.
    write_text(output / files.record, json.dumps(state | {"finished": False}, indent=1, default=str))


def end_run(output: Path, files: RunFiles, learned: bool = True, used: list[str] | None = None) -> None:
    """The run is complete: attached to another notebook, it is for predicting if it has `learned`.

    Args:
        used: the results that the submission was made from; all unless given.
    """
    for name in files.temporary:
        shutil.rmtree(output / name, ignore_errors=True)
    state = _read(output / files.record) | {
        "finished": True,
        "learned": learned,
        "used": list(files.results if used is None else used),
    }
    write_text(output / files.record, json.dumps(state, indent=1))


def debug_run_rows(folder: Path, recipe: str) -> int:
    """Rows that the run of `recipe` in this folder was cut to by CFG.rows; 0 for a run on all rows."""
    return _debug_rows(_read(folder / f"{recipe}_run.json"))


def run_problem(folder: Path, recipe: str) -> str:
    """Why the results of `recipe` in this folder should not be used; "" for a finished run on all rows that learned."""
    record = _read(folder / f"{recipe}_run.json")
    if not record:
        return "it has no record of its run; attach the complete output"
    if not record.get("finished"):
        return "its run did not come to its end; attach a finished one"
    if not record.get("learned", True):
        return "its run did not learn"
    rows = _debug_rows(record)
    return f"it was a debug run on {rows:,} rows; attach a run with CFG.rows = 0" if rows else ""


def is_scoring_run() -> bool:
    """Kaggle runs the notebook again, on the hidden test rows."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def _set_aside(output: Path, names: list[str], record: dict, files: RunFiles, why: str, keep: bool) -> None:
    names = [name for name in names if (output / name).exists()]
    if not names:
        return
    target = output / EARLIER / key_of(record.get("identity", {}))
    size = sum(path.stat().st_size for name in names for path in [output / name, *(output / name).rglob("*")])
    room = keep and shutil.disk_usage(output).free > 2 * size  # as much again for the results to come
    done = f"moved to {target.relative_to(output)}" if room else "removed"
    say(f"The earlier results {', '.join(names)} are {done} ({why}).")
    for name in names:
        if room:
            target.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target / name, ignore_errors=True)  # of the same run: this one is newer
            shutil.move(output / name, target / name)
        elif (output / name).is_dir():
            shutil.rmtree(output / name)
        else:
            (output / name).unlink()


def _bring_back(output: Path, key: str) -> bool:
    source = output / EARLIER / key
    if not source.is_dir():
        return False
    say(f"The results of this run are back from {source.relative_to(output)}.")
    for path in list(source.iterdir()):
        if not (output / path.name).exists():
            shutil.move(path, output / path.name)
    shutil.rmtree(source)
    return True


def _copy_attached(output: Path, root: str | Path, identity: dict, files: RunFiles) -> bool:
    for folder in _attached(root, files.recipe):
        record = _read(folder / files.record)
        different = changes(record.get("identity", {}), identity)
        if different:
            state = "finished" if record.get("finished") else "interrupted"
            say(f"The {state} run in {folder} is not resumed; changed since then: {', '.join(different)}.")
            continue
        say(f"Resuming the run in {folder}: {_progress(folder)}.")
        # What the record names does not count: an attached file must not choose what is written here.
        for name in [*files.results, *files.temporary, *files.shared]:
            for source in [folder / name, *(folder / name).rglob("*")]:
                # One by one: whole folders would come with the rights of a read-only mount. Links are left out.
                if source.is_file() and source.resolve() == folder.resolve() / source.relative_to(folder):
                    target = output / source.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
        return True
    return False


def _attached(root: str | Path, recipe: str) -> list[Path]:
    return [path.parent for path in find_named(root, f"{recipe}_run.json")]


def _read(path: Path) -> dict:
    """A record, or {} when there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not isinstance(found.get("results"), list):
        return {}
    identity, used = found.get("identity", {"settings": {}, "code": {}}), found.get("used", [])
    valid = (
        isinstance(identity, dict)
        and all(isinstance(identity.get(part), dict) for part in ("settings", "code"))
        and isinstance(found.get("config", {}), dict)
        and isinstance(found.get("finished", False), bool)
        and isinstance(found.get("learned", True), bool)
        and isinstance(used, list)
    )
    return found if valid and all(_is_name(name) for name in (*found["results"], *used)) else {}


def _debug_rows(record: dict) -> int:
    """Rows that a debug run was cut to; 0 for a run on all rows."""
    rows = record.get("config", {}).get("rows", 0) or record.get("identity", {}).get("settings", {}).get("rows", 0)
    return rows if isinstance(rows, int) else 0


def _is_name(name: object) -> bool:
    """A record may name only what lies in its own folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _progress(folder: Path) -> str:
    folds = sorted(path.parent.name for path in folder.glob("fold_*/preference.json"))
    folds += sorted(path.stem for path in folder.glob("tabular/fold_*.npz"))
    steps = sorted(path.name for path in folder.glob("checkpoints/*/checkpoint-*"))
    return f"{', '.join(folds) or 'no fold'} finished" + "".join(f", {step}" for step in steps)
