"""One module a family of faults; importing this package fills `fault.FAULTS`."""

from benchmarks.doctor_bench.faults import batch, data, loss, machine, model, optimisation, tokens
