"""All checks of `make gpu`, in the order in which they run: what may be wrong comes before what may be slow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gpu import card, equal, faults, inside, memory, project, speed, two
from benchmarks.gpu.rows import Row
from benchmarks.gpu.scale import Scale


@dataclass(frozen=True)
class Check:
    """A check and how many seconds it may take: meant to be ample for a T4, where it has not run yet."""

    name: str
    run: Callable[[Scale], Iterator[Row]]
    seconds: float


CHECKS = (
    Check("architecture", card.architecture, 20),
    Check("loopback", card.loopback, 90),
    Check("equal", equal.equal, 90),
    Check("overflow", faults.overflow, 60),
    Check("out of memory", faults.out_of_memory, 90),
    Check("memory", memory.peak_memory, 150),
    Check("blocking copies", inside.blocking_copies, 60),
    Check("speed of the card", card.speed_of_the_card, 30),
    Check("seconds a part", speed.seconds_a_part, 150),
    Check("automatic choice", speed.automatic_choice, 60),
    Check("frozen layers", speed.frozen_layers, 60),
    Check("kernels", inside.kernels, 60),
    Check("doctor", project.doctor, 180),
    Check("two against one", two.two_against_one, 150),
    Check("predictions", project.predictions, 90),
    Check("forecast", project.forecast, 120),
)
