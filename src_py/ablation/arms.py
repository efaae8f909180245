"""The arms of an ablation: the posted settings, the recipe's, and what lies between them.

*Posted* are the settings of the notebook in the forum thread "DeBERTa is not learning patterns?".
"""

from dataclasses import dataclass

from src_py.errors import InputError

REPAIRS = {  # what each of them changes in the posted settings
    "pairwise": "P+A and P+B are read and compared, not P, A and B in one sequence",
    "line_break": "the line break is a token matched before normalization; no marker tokens, no shrunk matrix",
    "cut": "prompt and answers are cut separately, not the end of the sequence",
    "batch": "the recipe's batch, not 2 pairs a step",
    "rates": "learning rates by size, head and layer, not 2e-5 for all",
    "warmup": "the learning rate rises over the first steps",
    "head": "starts at the constant predictor and pools the mean, not random on [CLS]",
    "frozen": "word embeddings are frozen",
}


@dataclass(frozen=True)
class Arm:
    """`name` as it stands in `CFG.arms`; `repairs` are those of `REPAIRS` that it applies to the posted settings."""

    name: str
    repairs: frozenset[str]

    def __contains__(self, repair: str) -> bool:
        return repair in self.repairs


def parse_arm(name: str) -> Arm:
    """Read `posted`, `recipe`, `posted+pairwise`, `recipe-batch-warmup`.

    Raises:
        InputError: for any other form, a repair that does not exist, or one that is named twice.
    """
    for base, sign in (("posted", "+"), ("recipe", "-")):
        first, *changes = name.split(sign)
        if first == base and set(changes) <= set(REPAIRS) and len(set(changes)) == len(changes):
            repairs = set(changes) if base == "posted" else set(REPAIRS) - set(changes)
            return Arm(name, frozenset(repairs))
    raise InputError(
        f"CFG.arms: {name!r} is not an arm; write posted, recipe, posted+REPAIR or recipe-REPAIR, where REPAIR is one "
        f"of {', '.join(REPAIRS)}."
    )


def label(name: str) -> str:
    """The name in words: `recipe-pairwise` is "recipe without pairwise"."""
    for base, sign, word in (("posted", "+", "with"), ("recipe", "-", "without")):
        first, *repairs = name.split(sign)
        if first == base and repairs:
            return f"{base} {word} {' and '.join(repairs)}"
    return name


def single_repairs(repairs: tuple[str, ...]) -> list[str]:
    """For each repair: the posted settings with it, and the recipe without it."""
    names = [name for repair in repairs for name in (f"posted+{repair}", f"recipe-{repair}")]
    return [parse_arm(name).name for name in names]


def submission_arm(arms: tuple[str, ...]) -> str | None:
    """The last of `arms` whose model can answer the test rows: one that reads pairs as `encode_pairs` does."""
    readable = [name for name in arms if {"line_break", "cut"} <= parse_arm(name).repairs]
    return readable[-1] if readable else None
