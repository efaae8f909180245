"""The limits of `benchmarks.limits`, held against what is counted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from benchmarks.limits import MOST_COPIES, MOST_FROZEN_SHARE, MOST_GB, MOST_KERNELS, MOST_MEMORY_GB, SHAPES
from benchmarks.trace.measure import trace_call, trace_memory
from benchmarks.trace.models import BEST, v3


def pairs_of(pairs: int, tokens: int, sequences: int = 2) -> list[list[int]]:
    """Lengths of a batch without padding, as `make_batch` takes them."""
    return [[tokens] * sequences] * pairs


RAGGED = [[512, 100], [512, 301], [300, 512], [64, 40]]  # with padding, and more than one encoder call


@dataclass
class Measure:
    """One line of the table. `limit` is for `ours`."""

    name: str
    stock: float
    ours: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.ours <= self.limit


def measures(attention: str = BEST) -> list[Measure]:
    """Every measure that has a limit, for transformers' attention and for this one."""
    config, full = v3("base"), pairs_of(*SHAPES[0])

    @cache
    def call(kind: str, shape: tuple[int, int] = SHAPES[0], freeze_layers: int = 0):
        return trace_call(config, pairs_of(*shape), kind, freeze_layers=freeze_layers)

    def row(name: str, limit: float, of: Callable[[str], float]) -> Measure:
        return Measure(name, of("stock"), of(attention), limit)

    def frozen_share(kind: str) -> float:
        return call(kind, freeze_layers=6).backward.moved / call(kind).backward.moved

    def copies(kind: str) -> int:
        return max(len(call(kind).copies), len(trace_call(config, RAGGED, kind).copies))

    found = []
    for shape, limit in MOST_GB.items():
        moved = partial(lambda shape, kind: call(kind, shape).total.moved / 1e9, shape)
        found.append(row(f"GB moved, {shape[0]} × {shape[1]}", limit, moved))
    return [
        *found,
        row("kernels, 4 × 512", MOST_KERNELS, lambda kind: call(kind).total.kernels),
        row("peak memory of a step, GB", MOST_MEMORY_GB, lambda kind: trace_memory(config, full, kind).peak / 1e9),
        row("freeze_layers=6: share of the backward traffic", MOST_FROZEN_SHARE, frozen_share),
        row("blocking copies in a call", MOST_COPIES, copies),
    ]
