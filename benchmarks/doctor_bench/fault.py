"""What a fault is: one change to a healthy set-up, and the words with which the doctor names it."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.doctor_bench.case import OURS, PLAIN, Case

FAULTS: dict[str, "Fault"] = {}
BOTH = (OURS, PLAIN)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: what is wrong, in a few words.
        family: data, tokenizer, model, loss, optimisation, batch or machine.
        apply: changes a `Case`.
        before: checks whose FAIL or WARN names the cause; empty where nobody has written a rule for it. That counts as
            missed, as a rule does that the doctor does not run. A check that fires as a consequence, with advice about
            something else, is not listed.
        during: words of the watcher's sentences that name the cause.
        after: verdicts that name the cause.
        kinds, encoders: set-ups in which it is tried.
        base: makes a healthy set-up in which the fault can occur; None: as it is.
    """

    name: str
    family: str
    apply: Callable[[Case], None]
    before: tuple[str, ...] = ()
    during: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    kinds: tuple[str, ...] = BOTH
    encoders: tuple[str, ...] = ()
    base: Callable[[Case], None] | None = None

    @property
    def base_name(self) -> str:
        return self.base.__name__ if self.base else ""


def fault(family: str, **details) -> Callable:
    """Decorator: the function is a fault of `family`, named by its own name."""

    def add(apply: Callable[[Case], None]) -> Callable[[Case], None]:
        name = apply.__name__.replace("_", " ").strip()
        if name in FAULTS:
            raise ValueError(f"two faults are called {name!r}")
        FAULTS[name] = Fault(name, family, apply, **details)
        return apply

    return add


def joint(case: Case) -> None:
    """Both answers in one sequence."""
    case.style = "joint"


def accumulated(case: Case) -> None:
    """A step of four forward passes."""
    case.set(batch_size=4, gradient_accumulation_steps=4)


def imbalanced(case: Case) -> None:
    """Nine tenths of the rows are of one class."""
    from benchmarks.doctor_bench import world

    case.tables = world.classification(case.classes, case.seed, shares=(0.8, 0.1, 0.1))
