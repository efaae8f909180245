"""Finished set-ups on the disk: used again only while the code that made them is the same."""

import hashlib
import json
import signal
import tempfile
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import lru_cache
from io import StringIO
from pathlib import Path

from benchmarks.doctor_bench import measure, peers
from benchmarks.doctor_bench.setups import HEALTHY_GROUP, TWIN, Setup
from src_py.kaggle.files import writing

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # for one part of one set-up
# The parts of a set-up's result, and the code that each depends on beside this package. The truth about a fault does
# not depend on the checks and their report, so that a new check needs no new training.
PARTS = CHECK, RUN, ALONE, PEERS = "check", "run", "alone", "peers"
_REPORT = tuple(
    f"doctor/{name}"
    for name in ("check", "effect", "findings", "page", "repair", "rows", "settings", "targets", "texts", "untouched")
)
_SKIPPED = {CHECK: (), RUN: _REPORT, ALONE: ("doctor/",), PEERS: ("doctor/",)}
_NOT_MEASURED = ("score.py", "report.py", "__main__.py", "store.py", "work.py", "peers.py")


def parts_of(setup: Setup, folder: Path | None = None) -> list[str]:
    """Only of healthy set-ups is the training compared with one without the doctor; peers are asked if `folder`, where
    results are, holds them, and not about several faults at once."""
    sound = setup.group in (TWIN, HEALTHY_GROUP)
    asked = folder is not None and peers.installed(folder) and len(setup.faults) < 2
    return [CHECK, RUN] + ([ALONE] if sound else []) + ([PEERS] if asked else [])


def result(folder: Path, setup: Setup, part: str) -> dict | None:
    """A stored result; None where there is none, or one of other code."""
    path = _path(folder, setup, part)
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("code", None) == code(part):
            return found
    return None


def measured(folder: Path, setup: Setup, part: str) -> dict:
    """A part's result: the stored one, or a new one, which is stored at once."""
    if (found := result(folder, setup, part)) is not None:
        return found
    with tempfile.TemporaryDirectory() as run:
        work = Path(run)
        for name in ("models", "tables", "peers"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (work / name).symlink_to((folder / name).resolve())
        found = _within(SECONDS, part, setup, work)
    path = _path(folder, setup, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with writing(path.parent):
        unfinished.write_text(json.dumps(found | {"code": code(part)}), encoding="utf-8")
        unfinished.rename(path)  # a file that is there is whole
    return found


def _within(seconds: int, part: str, setup: Setup, work: Path) -> dict:
    def late(*_):
        raise TimeoutError(f"{part} took more than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # peers draw bars
            if part == CHECK:
                return measure.check(setup, work)
            if part == PEERS:
                return peers.look(setup, work)
            return measure.train(setup, work, watched=part == RUN)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers crashes with a BaseException
        return {"failed": "".join(traceback.format_exception(error))[-2000:]}
    finally:
        signal.alarm(0)


def _path(folder: Path, setup: Setup, part: str) -> Path:
    return folder / "results" / f"{setup.key}.{part}.json"


@lru_cache(8)
def code(part: str) -> str:
    """A digest of the sources that a part's result depends on."""
    digest, package = hashlib.sha256(), Path(__file__).parent
    for path in sorted([*(ROOT / "src_py").rglob("*.py"), *package.rglob("*.py"), ROOT / "tools/demo_data.py"]):
        name = path.relative_to(ROOT).as_posix()
        skipped = any(name.startswith(f"src_py/{start}") for start in _SKIPPED[part])
        beside = path.parent == package and path.name in _NOT_MEASURED and not (part == PEERS == path.stem)
        if not skipped and not beside:
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()[:20]
