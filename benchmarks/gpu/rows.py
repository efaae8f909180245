"""What a check says."""

from dataclasses import dataclass

OK, WRONG, SLOW, MEASURED, SKIPPED = "ok", "WRONG", "slow", "measured", "not checked"


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        check: what was looked at.
        expected: what it should be; "" where nothing is expected.
        found: what it is.
        ok: one of `OK`, `WRONG`, `SLOW` (a wish not met, but nothing wrong), `MEASURED` (nothing to compare it with)
            and `SKIPPED`.
        note: why, or where it was measured.
    """

    check: str
    expected: str
    found: str
    ok: str
    note: str = ""


def judged(check: str, expected: str, found: str, right: bool, note: str = "") -> Row:
    """Something that is right or wrong."""
    return Row(check, expected, found, OK if right else WRONG, note)


def wished(check: str, expected: str, found: str, reached: bool, note: str = "") -> Row:
    """A figure that should be reached; missing it is no error."""
    return Row(check, expected, found, OK if reached else SLOW, note)


def measured(check: str, found: str, note: str = "") -> Row:
    """A figure that nothing is compared with."""
    return Row(check, "", found, MEASURED, note)


def skipped(check: str, why: str) -> Row:
    """Something that could not be looked at, and why."""
    return Row(check, "", "", SKIPPED, why)


NEEDS_A_GPU, NEEDS_TWO = "needs a GPU", "needs two GPUs"
