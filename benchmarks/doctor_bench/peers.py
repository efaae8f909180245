"""Other tools for the same purpose, on the same set-ups, as far as they are installed."""

from pathlib import Path

from benchmarks.doctor_bench.setups import Setup


def look(setup: Setup, folder: Path) -> dict:
    """What each says of a set-up."""
    return {}
