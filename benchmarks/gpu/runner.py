"""Run checks one after the other in a process of their own, each within its time limit, and go on when one fails."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.gpu.checks import Check
from benchmarks.gpu.rows import SKIPPED, WRONG, Row
from benchmarks.gpu.scale import Scale
from src_py.kaggle.session import start_session
from src_py.training.worker import die_with_parent

ALL_SECONDS = 600.0
START_SECONDS = 120.0  # a new process imports torch and transformers
END_SECONDS = 10.0
_DONE, _FAILED, _READY = "done", "failed", "ready"


def run_checks(checks: tuple[Check, ...], scale: Scale, log: Path, seconds: float = ALL_SECONDS) -> Iterator[Row]:
    """The rows of every check, as they are found.

    A check that raises, dies or takes too long ends in a row that says so, beside those it had found; the next one
    gets a new process, since a GPU may be lost to the old one.

    Args:
        log: file for what the checks print.
        seconds: for all checks; those that it does not reach are "not checked".
    """
    until, worker = time.monotonic() + seconds, _Worker(log)
    try:
        for check in checks:
            left = until - time.monotonic()
            if left <= 0:
                yield Row(check.name, "", "", SKIPPED, f"the {seconds:.0f} s for all checks are over")
                continue
            try:
                yield from worker.rows(check, scale, min(check.seconds, left), left < check.seconds)
            except _Ended as ended:
                worker.stop()
                yield ended.row
    finally:
        worker.leave()


class _Ended(Exception):
    """A check that did not come to its end."""

    def __init__(self, row: Row):
        super().__init__(row.note)
        self.row = row


class _Worker:
    """A process that runs checks; made when it is needed."""

    def __init__(self, log: Path):
        self.log, self.process, self.pipe = log, None, None

    def rows(self, check: Check, scale: Scale, seconds: float, last: bool) -> Iterator[Row]:
        """Rows of `check`; `last`: the seconds are all that is left, so that using them up is no fault of the check."""
        if self.process is None:
            self._start(check)
        until = time.monotonic() + seconds
        try:
            self.pipe.send((check.run, scale))
        except OSError:  # the process died after the check before
            raise _Ended(Row(check.name, "starts", "the process has died", WRONG, self._said())) from None
        while True:
            if not self.pipe.poll(max(0.0, until - time.monotonic())):
                if last:
                    raise _Ended(Row(check.name, "", "", SKIPPED, "the time for all checks is over"))
                raise _Ended(Row(check.name, f"within {seconds:.0f} s", "still running", WRONG, self._said()))
            kind, value = self._receive(check)
            if kind == _DONE:
                return
            if kind == _FAILED:
                raise _Ended(Row(check.name, "runs to its end", value[0], WRONG, value[1]))
            yield value

    def leave(self) -> None:
        """Let the process end by itself; it has nothing more to do."""
        if self.process is not None:
            with suppress(OSError):
                self.pipe.send(None)
            self.process.join(END_SECONDS)
            self.stop()

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def _start(self, check: Check) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not work in a fork
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, str(self.log)))
        self.process.start()
        other.close()  # else the end of the process would not show
        if not self.pipe.poll(START_SECONDS):
            raise _Ended(Row(check.name, f"starts within {START_SECONDS:.0f} s", "no answer", WRONG, self._said()))
        self._receive(check)

    def _receive(self, check: Check):
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            found = f"the process died (exit code {self.process.exitcode})"
            raise _Ended(Row(check.name, "runs to its end", found, WRONG, self._said())) from None

    def _said(self) -> str:
        """The last line that the checks printed."""
        with suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            return next((line.strip()[-200:] for line in reversed(lines) if line.strip()), "")
        return ""


def _serve(pipe, log: str) -> None:
    """In the process: run what comes through the pipe, and send the rows back."""
    die_with_parent()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    pipe.send((_READY, None))
    while (job := pipe.recv()) is not None:
        run, scale = job
        start_session(0)
        try:
            for row in run(scale):
                pipe.send((None, row))
            pipe.send((_DONE, None))
        except Exception as error:
            traceback.print_exc()
            message = (str(error).splitlines() or [""])[0]
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {message[:200]}", f"{Path(place.filename).name}, line {place.lineno}"
            pipe.send((_FAILED, told))
