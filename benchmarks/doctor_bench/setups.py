"""What is run: twins, single faults, pairs and triples of them, and healthy set-ups; and which half each belongs to."""

import hashlib
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import benchmarks.doctor_bench.faults
import benchmarks.doctor_bench.healthy_own  # noqa: F401 (fills HEALTHY)
from benchmarks.doctor_bench import fault as bases
from benchmarks.doctor_bench.case import OURS, PLAIN, Case
from benchmarks.doctor_bench.fault import FAULTS, Fault
from benchmarks.doctor_bench.healthy import HEALTHY
from benchmarks.doctor_bench.world import FAMILIES

TWIN, SINGLE, PAIR, TRIPLE, HEALTHY_GROUP = "twin", "single", "pair", "triple", "healthy"
LIMITS, REPORT = "limits", "report"
PAIRS, TRIPLES, TENTH = 24, 12, 10


@dataclass(frozen=True)
class Setup:
    """One set-up: `group` says what it is for, `faults` and `healthy` what was changed in it."""

    group: str
    kind: str
    encoder: str
    faults: tuple[str, ...] = ()
    healthy: str = ""
    base: str = ""

    @property
    def key(self) -> str:
        """The name of its file."""
        what = "+".join(self.faults) or self.healthy or self.base or "plain twin"
        return re.sub(r"[^a-z0-9+]+", "-", f"{self.group} {what} {self.kind} {self.encoder}".lower())

    @property
    def twin(self) -> str:
        """Key of the healthy set-up that it is compared with."""
        return Setup(TWIN, self.kind, self.encoder, base=self.base).key

    @property
    def half(self) -> str:
        """`LIMITS` or `REPORT`, by the names of the faults: all set-ups with a fault are in the same half."""
        return LIMITS if _number("+".join(sorted(self.faults)) or self.healthy or self.key) % 2 else REPORT

    def make(self, folder: Path) -> Case:
        """The `Case`, with its faults in it, not built yet."""
        case = Case(self.kind, self.encoder, folder)
        if self.base:
            getattr(bases, self.base)(case)
        if self.healthy:
            HEALTHY[f"{self.healthy}, {self.kind}"].apply(case)
        for name in self.faults:
            FAULTS[name].apply(case)
        return case


def setups(quick: bool = False) -> list[Setup]:
    """All set-ups, twins first; `quick`: a fixed tenth of each group, and the twins that it needs."""
    groups = [_singles(0), _healthy(), _several(2, PAIRS), _several(3, TRIPLES), _singles(1)]
    if quick:
        groups = [sorted(group, key=lambda s: _number(s.key))[: -(-len(group) // TENTH)] for group in groups]
    chosen = list(dict.fromkeys(itertools.chain(*groups)))
    twins = {s.twin: Setup(TWIN, s.kind, s.encoder, base=s.base) for s in chosen if s.faults}
    return [*twins.values(), *chosen]


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def _singles(turn: int) -> list[Setup]:
    """Every fault once; with `turn` 1 on the other Trainer, or at least on another encoder."""
    made = []
    for number, one in enumerate(FAULTS.values()):
        kind = one.kinds[(number + turn) % len(one.kinds)]
        encoders = one.encoders or FAMILIES
        made.append(Setup(SINGLE, kind, encoders[(number + 2 * turn) % len(encoders)], (one.name,), base=one.base_name))
    return made


def _healthy() -> list[Setup]:
    return [
        Setup(HEALTHY_GROUP, one.kind, one.encoder or FAMILIES[number % len(FAMILIES)], healthy=one.name)
        for number, one in enumerate(HEALTHY.values())
    ]


def _several(size: int, count: int) -> list[Setup]:
    """Faults of different families together, drawn once and for all."""
    rng, made = np.random.default_rng(size), {}
    while len(made) < count:
        kind, encoder = (OURS, PLAIN)[rng.integers(2)], FAMILIES[rng.integers(len(FAMILIES))]
        fitting = [one for one in FAULTS.values() if kind in one.kinds and not one.base and _reads(one, encoder)]
        chosen = [fitting[i] for i in rng.choice(len(fitting), size=size, replace=False)]
        if len({one.family for one in chosen}) == size:
            made[tuple(sorted(one.name for one in chosen))] = (kind, encoder)
    group = PAIR if size == 2 else TRIPLE
    return [Setup(group, kind, encoder, names) for names, (kind, encoder) in made.items()]


def _reads(one: Fault, encoder: str) -> bool:
    return not one.encoders or encoder in one.encoders
