"""What an ablation is to measure: the settings that say which trials there are."""

from dataclasses import dataclass, replace
from pathlib import Path

from src_py.ablation.arms import REPAIRS, lever_arm, parse_arm, single_repairs, with_encoder, with_epochs
from src_py.ablation.holdout import HOLDOUTS
from src_py.config import Settings, setting
from src_py.errors import InputError
from src_py.kaggle.clock import COMPETITION_HOURS, SESSION_HOURS
from src_py.model.find import find_encoder

PRESETS = ("data_or_code", "levers")
ORDERS = ("adaptive", "fixed")
EPOCH, ENCODER = "epoch", "encoder="  # next steps that can be measured


@dataclass(frozen=True)
class GridSettings(Settings):
    """Which trials there are.

    Args:
        preset: "data_or_code" measures `arms` and `repairs` at `sizes`; "levers" the recipe and each of `levers` at one
            size, and these settings stay unused.
        levers: of `LEVERS`, or `SETTING=VALUE`, several joined by "+"; empty takes all that the rows allow.
        lever_rows: training rows of the preset "levers"; 0 takes all.
        holdout: also measure on a kind of rows that no trial trains on: whole topics ("topic") or the longest answers
            ("length"); "auto" is "topic" for the levers and "none" otherwise.
        arms: measured at every size; `answer` compares the first with the last.
        repairs: each is added to `posted` and taken from `recipe`, alone.
        sizes: numbers of training rows; empty takes `n_sizes` of them from `smallest_share` of all rows up.
        seeds: number of subsets drawn at each size.
        order: "adaptive" runs next what narrows the question most for its minutes, "fixed" what `list_trials` has next.
        next_steps: what else the last arm is trained with at the largest size, to know what it would bring: "epoch" is
            one more of them, "encoder=NAME" another attached encoder, NAME a part of its path.
        control: also train the smallest subsets for as many steps as the larger ones.
        extra_files: further training files, in order.
        valid_rows: rows of the first of `n_folds` folds that every trial predicts, at most.
        budget_minutes: from the start of the notebook to the end of the last trial.
        seed: of the folds and of the choice of validation rows.

    Raises:
        InputError: an arm, repair, lever or next step that does not exist or is named twice, a lever that takes repairs
            from the recipe, or a budget longer than a session.
    """

    preset: str = setting("data_or_code", choices=PRESETS)
    levers: tuple[str, ...] = setting(())
    lever_rows: int = setting(0, least=0)
    holdout: str = setting("auto", choices=("auto", *HOLDOUTS))
    arms: tuple[str, ...] = setting(("posted", "recipe"))
    repairs: tuple[str, ...] = setting(tuple(REPAIRS), choices=tuple(REPAIRS))
    sizes: tuple[int, ...] = setting((), least=1)
    n_sizes: int = setting(5, least=2, most=100)
    smallest_share: float = setting(0.01, above=0, below=1)
    seeds: int = setting(3, least=1, most=1000)
    order: str = setting(ORDERS[0], choices=ORDERS)
    next_steps: tuple[str, ...] = setting((EPOCH,))
    control: bool = setting(True)
    extra_files: tuple[str, ...] = setting(())
    n_folds: int = setting(5, least=2, most=100)
    valid_rows: int = setting(2000, least=10)
    budget_minutes: float = setting(480.0, above=0)
    seed: int = setting(0, least=0, most=2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise InputError(f"CFG.arms is {list(self.arms)}; name at least one arm, and each once.")
        if len(set(self.levers)) < len(self.levers):
            raise InputError(f"CFG.levers is {list(self.levers)}; name each once.")
        if len(set(self.next_steps)) < len(self.next_steps):
            raise InputError(f"CFG.next_steps is {list(self.next_steps)}; name each once.")
        for arm in (*self.arms, *single_repairs(self.repairs), *map(lever_arm, self.levers)):
            parse_arm(arm)
        _refuse_twins("arms", self.arms)
        _refuse_twins("levers", self.levers)
        for lever in self.levers:
            if parse_arm(lever_arm(lever)).trains == parse_arm("recipe").trains:
                raise InputError(
                    f"CFG.levers: {lever!r} is what the recipe does; to see what it brings, measure the recipe without "
                    "it, such as 'features_off'."
                )
            if parse_arm(lever_arm(lever)).base != "recipe":  # whose trials it is compared with
                raise InputError(
                    f"CFG.levers: {lever!r} also takes a repair from the recipe, whose trials it would be compared "
                    f"with; leave that out, or compare {lever_arm(lever)!r} with another arm in CFG.arms."
                )
        for step in self.next_steps:
            encoder = step.removeprefix(ENCODER) if step.startswith(ENCODER) else ""
            if step != EPOCH and not encoder:
                raise InputError(
                    f"CFG.next_steps has {step!r}; write {EPOCH!r}, or {ENCODER + 'NAME'!r} with a part of the path "
                    "of another attached encoder."
                )
            if encoder and not with_encoder(self.arms[-1], encoder):
                raise InputError(
                    f"CFG.next_steps has {step!r}, but the last of CFG.arms, {self.arms[-1]!r}, cannot have it; "
                    "take a recipe without an encoder of its own as the last arm, and a NAME of letters, digits, '.' "
                    "and '_'."
                )
        if self.budget_minutes > 60 * SESSION_HOURS:
            raise InputError(
                f"CFG.budget_minutes is {self.budget_minutes:g}; Kaggle ends a session after {60 * SESSION_HOURS} "
                f"minutes, and a notebook of a code competition after {60 * COMPETITION_HOURS}."
            )


def _refuse_twins(field: str, names: tuple[str, ...]) -> None:
    """`recipe+epochs=3` and `recipe+epochs=3.0` are one arm, which would be trained twice."""
    first: dict[tuple, str] = {}
    for name in names:
        other = first.setdefault(parse_arm(lever_arm(name) if field == "levers" else name).trains, name)
        if other != name:
            raise InputError(f"CFG.{field} has {other!r} and {name!r}, which train the same; leave one of them out.")


def apply_preset(grid: GridSettings) -> GridSettings:
    """The settings with those that the preset sets: for "levers" one arm, no repair, one size and no control."""
    levers = grid.preset == "levers"
    holdout = ("topic" if levers else "none") if grid.holdout == "auto" else grid.holdout
    if not levers:
        return replace(grid, holdout=holdout, levers=())
    sizes = (grid.lever_rows,) if grid.lever_rows else ()
    return replace(grid, holdout=holdout, arms=("recipe",), repairs=(), sizes=sizes, next_steps=(), control=False)


def list_next_arms(grid: GridSettings, epochs: float) -> tuple[str, ...]:
    """The arms that measure `grid.next_steps`; an arm whose epochs or encoder cannot be changed has none.

    Args:
        epochs: of an arm that does not set its own.
    """
    last = grid.arms[-1]
    longer = with_epochs(last, float(dict(parse_arm(last).changes).get("epochs", epochs)) + 1)
    found = [longer if step == EPOCH else with_encoder(last, step.removeprefix(ENCODER)) for step in grid.next_steps]
    return tuple(filter(None, found))


def find_encoders(root: str | Path, model_dir: Path, grid: GridSettings) -> dict[str, Path]:
    """Folders of the encoders that arms ask for beside that of CFG.model_dir, by the names that arms give them.

    Raises:
        InputError: when a name matches no attached encoder, several, or that of CFG.model_dir.
    """
    fields = {"arms": grid.arms, "levers": [lever_arm(lever) for lever in grid.levers]}
    named = {parse_arm(arm).encoder: field for field, arms in fields.items() for arm in arms}
    named |= {step.removeprefix(ENCODER): "next_steps" for step in grid.next_steps if step.startswith(ENCODER)}
    found = {}
    for name, field in named.items():
        if not name:
            continue
        found[name] = find_encoder(root, name, f"encoder in CFG.{field}")
        if found[name].resolve() == model_dir.resolve():
            raise InputError(
                f"encoder in CFG.{field} is {name!r}, which is the encoder of CFG.model_dir, {model_dir}; name another "
                "attached encoder, or leave it out."
            )
    return found
