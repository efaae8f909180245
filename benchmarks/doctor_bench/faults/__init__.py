"""One module a family of faults; importing this package fills `fault.FAULTS`."""

from benchmarks.doctor_bench.faults import (  # noqa: F401
    batch,
    data,
    loss,
    machine,
    model,
    optimisation,
    tokens,
)
