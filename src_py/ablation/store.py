"""Finished trials and models on disk, and which of them a run may use."""

import json
import re
import shutil
from pathlib import Path

import numpy as np

from src_py.ablation.arms import parse_arm
from src_py.ablation.problem import RECIPE, Outcome, Problem, Trial
from src_py.errors import InputError
from src_py.kaggle.files import write_arrays, write_text, writing
from src_py.kaggle.identity import changes, key_of
from src_py.kaggle.inputs import EARLIER, find_named
from src_py.kaggle.page import say
from src_py.kaggle.resume import find_finished, is_scoring_run
from src_py.model.saved import find_trained

RECORD, TRIALS, MODELS = f"{RECIPE}_run.json", "trials", "trained"
NAMED = 6  # changes that a sentence names before it counts the rest
_TRIAL = re.compile(r"([0-9a-f]{12})_.+_\d+_\d+_\d+\.npz")
_MODEL = re.compile(r"([0-9a-f]{12})_(.+)_(\d{8})")


def find_runs(root: str | Path) -> tuple[Path, ...]:
    """Output folders of this recipe's earlier runs below `root`, finished or interrupted."""
    return tuple(path.parent for path in find_named(root, RECORD))


def find_answered(root: str | Path, mode: str, config: dict) -> Path | None:
    """The output folder of the run to predict with; None when this run trains. Says which in one line.

    An attached run is usually there to be continued, so that "auto" only predicts in the scoring run.

    Args:
        root: where inputs are attached.
        mode: from `RunSettings`.
        config: this notebook's settings, from `Config.values`.

    Raises:
        InputError: mode "predict" without a finished run or with several, or a run that saved no model.
    """
    finished = find_finished(root, RECIPE, "train" if mode == "auto" and not is_scoring_run() else mode, config)
    if finished and finished_model(finished):
        return finished
    if finished and mode == "predict":
        raise InputError(
            f"The run in {finished} has no trained model in {MODELS}/; attach its whole output, or set "
            "CFG.mode = 'train'."
        )
    if finished:
        say(f"TRAINING after all: the run in {finished} has no trained model in {MODELS}/.")
    elif mode == "auto" and is_scoring_run():
        say(f"TRAINING in the scoring run: no finished run of {RECIPE} is attached.")
    elif runs := find_runs(root):
        say(
            f"TRAINING what the attached runs ({', '.join(map(str, runs))}) have not trained yet. To only predict, as "
            "the scoring run does, set CFG.mode = 'predict'."
        )
    return None


def write_record(output: str | Path, identity: dict, config: dict, finished: bool) -> None:
    """Say in `output` whose results lie there; a finished run can be attached to predict with it.

    Raises:
        InputError: when the folder cannot be written.
    """
    state = {"recipe": RECIPE, "identity": identity, "config": config, "results": [TRIALS, MODELS]}
    write_text(Path(output) / RECORD, json.dumps(state | {"finished": finished}, indent=1, default=str))


def finished_model(run: Path) -> Path | None:
    """The model of the run in this folder that was trained on the most rows."""
    return _largest([run], key_of(_json(run / RECORD).get("identity", {})))


class TrialStore:
    """The trials of a run: one file each in `trials/`, and the recipe's largest model in `trained/`.

    Every name begins with the key of what the result depends on; `trials/KEY.json` says what that was. A trial with
    another key is never used.

    Args:
        output: the run's output folder.
        attached: output folders of earlier runs, from `find_runs`; they are only read.
        resume: "auto", or "never": attached trials are not read, and those in `output` are moved to `earlier_runs/`.

    Raises:
        InputError: when the folder cannot be written.
    """

    def __init__(self, output: str | Path, problem: Problem, attached: tuple[Path, ...] = (), resume: str = "auto"):
        self.output, self.identity = Path(output), problem.identity()
        identities = {name: problem.identity(name) for name in problem.encoders} | {"": self.identity}
        self.keys, self.resume = {name: key_of(identity) for name, identity in identities.items()}, resume
        self.shape = (len(problem.valid), problem.n_classes)
        self.others = tuple(folder for folder in attached if folder.resolve() != self.output.resolve())
        self.damaged: set[Path] = set()
        with writing(self.output):
            (self.output / TRIALS).mkdir(parents=True, exist_ok=True)
            if resume == "never":
                self._set_aside()
            for part in (self.output / TRIALS).glob("*.part"):
                say(f"{part} was half-written when a run was interrupted; it is removed.")
                part.unlink()
        for name, key in self.keys.items():
            write_text(self.output / TRIALS / f"{key}.json", json.dumps(identities[name], indent=1))

    def path(self, trial: Trial) -> Path:
        return self.output / TRIALS / f"{self._name(trial)}.npz"

    def save(self, trial: Trial, outcome: Outcome) -> None:
        """Raises InputError when the disk is full."""
        measured = {"of": self._name(trial), "at": outcome.at, "train_seconds": outcome.train_seconds}
        measured |= {"step_seconds": outcome.step_seconds, "predict_seconds": outcome.predict_seconds}
        measured |= {"memory_gb": outcome.memory_gb}
        arrays = {"probabilities": outcome.probabilities, "measured": np.array(json.dumps(measured))}
        arrays |= {} if outcome.blind is None else {"blind": outcome.blind}
        write_arrays(self.path(trial), arrays)

    def load(self, trial: Trial) -> Outcome | None:
        """The stored outcome; None when there is none that can be read. A damaged file is said once."""
        for folder in (self.output, *(self.others if self.resume == "auto" else ())):
            path = folder / TRIALS / self.path(trial).name
            if not path.is_file():
                continue
            try:
                return _read_outcome(path, self._name(trial), self.shape)
            except Exception as error:  # zip, json and numpy raise many kinds
                if path not in self.damaged:
                    say(f"{path} is damaged ({error}) and not used.")
                self.damaged.add(path)
        return None

    def outcomes(self, trials: list[Trial]) -> dict[Trial, Outcome]:
        """The finished ones of `trials`, in their order."""
        found = {trial: self.load(trial) for trial in trials}
        return {trial: outcome for trial, outcome in found.items() if outcome is not None}

    def unused(self) -> list[str]:
        """One sentence for each group of stored trials that this run does not use: how many, where, and why."""
        found = []
        for folder in (self.output, *self.others):
            names = [match[1] for path in (folder / TRIALS).glob("*.npz") if (match := _TRIAL.fullmatch(path.name))]
            for key in dict.fromkeys(sorted(names)):
                if key in self.keys.values() and (self.resume == "auto" or folder == self.output):
                    continue
                count = names.count(key)
                trials = f"{count} stored trial{'s' * (count > 1)} in {folder / TRIALS}: not used"
                found.append(f"{trials}, {self._why(folder, key)}.")
        return found

    def model_folder(self, trial: Trial) -> Path:
        return self.output / MODELS / f"{self._key(trial.arm)}_{trial.arm}_{trial.rows:08d}"

    def keep_largest_model(self, arm: str) -> None:
        """Remove the arm's models but that on the most rows."""
        for folder in _models([self.output], self._key(arm), arm)[:-1]:
            shutil.rmtree(folder, ignore_errors=True)

    def largest_model(self, arm: str) -> Path | None:
        """The arm's model on the most rows, here or attached."""
        return _largest([*(self.others if self.resume == "auto" else ()), self.output], self._key(arm), arm)

    def _name(self, trial: Trial) -> str:
        return f"{self._key(trial.arm)}_{trial.arm}_{trial.rows}_{trial.as_rows}_{trial.seed}"

    def _key(self, arm: str) -> str:
        return self.keys[parse_arm(arm).encoder]

    def _why(self, folder: Path, key: str) -> str:
        if key in self.keys.values():
            return "CFG.resume is 'never'"
        stored = _json(folder / TRIALS / f"{key}.json")
        if key_of(stored) != key:
            return f"what they were made of is not recorded in {key}.json"
        different = changes(stored, self.identity)
        rest = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
        return f"changed since then: {', '.join(different[:NAMED])}{rest}"

    def _set_aside(self) -> None:
        target = self.output / EARLIER / self.keys[""]
        kept = [self.output / name for name in (TRIALS, MODELS)]
        old = [path for folder in kept for key in self.keys.values() for path in folder.glob(f"{key}_*")]
        if not old:
            return
        shutil.rmtree(target, ignore_errors=True)
        for path in old:
            (target / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.move(path, target / path.parent.name / path.name)
        trials = sum(path.suffix == ".npz" for path in old)
        say(f"{trials} stored trials are moved to {target}: CFG.resume is 'never'.")


def _read_outcome(path: Path, name: str, shape: tuple[int, int]) -> Outcome:
    with np.load(path, allow_pickle=False) as stored:
        measured = json.loads(str(stored["measured"]))
        if not isinstance(measured, dict) or measured.pop("of", None) != name:
            raise ValueError("it holds another trial")
        if measured.keys() != {"at", "train_seconds", "step_seconds", "predict_seconds", "memory_gb"}:
            raise ValueError("its times are not complete")
        outcome = Outcome(stored["probabilities"], **measured)
        outcome.blind = stored["blind"] if "blind" in stored else None
    probabilities = outcome.probabilities
    if outcome.blind is not None and (outcome.blind.shape != shape or not np.isfinite(outcome.blind).all()):
        raise ValueError("predictions without text that are not probabilities")
    if probabilities.shape != (len(outcome.at), *shape) or not len(outcome.at):
        raise ValueError(f"predictions of shape {probabilities.shape}")
    sums = probabilities.sum(2)
    if not (np.isnan(sums) | (np.abs(sums - 1) < 1e-4)).all() or (probabilities < 0).any():
        raise ValueError("predictions that are not probabilities")
    seconds = (outcome.train_seconds, outcome.step_seconds, outcome.predict_seconds)
    numbers = (*outcome.at, *seconds, outcome.memory_gb)
    if not all(isinstance(number, (int, float)) and 0 <= number < np.inf for number in numbers):
        raise ValueError("times or memory that are not numbers of 0 or more")
    return outcome


def _models(runs: list[Path], key: str, arm: str | None = None) -> list[Path]:
    """Trained folders of this recipe with this key, by their number of rows."""
    found = []
    for run in runs:
        for folder in find_trained(run / MODELS, RECIPE) if (run / MODELS).is_dir() else ():
            match = _MODEL.fullmatch(folder.name)
            if match and match[1] == key and arm in (None, match[2]):
                found.append((int(match[3]), folder))
    return [folder for _, folder in sorted(found, key=lambda item: item[0])]


def _largest(runs: list[Path], key: str, arm: str | None = None) -> Path | None:
    models = _models(runs, key, arm)
    return models[-1] if models else None


def _json(path: Path) -> dict:
    """A record whose parts can be compared, or {} when there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
