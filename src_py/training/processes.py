"""Train on every GPU: one process each with DistributedDataParallel, from inside a notebook."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import TrainerState

import src_py
from src_py.errors import InputError
from src_py.kaggle.page import RELAY, Meter
from src_py.kaggle.session import allocator_variables, free_memory, visible_gpus
from src_py.model.preference import architecture_of
from src_py.training.batches import ONE_PAIR_TOO_MANY
from src_py.training.run import run_training
from src_py.training.worker import JOB, MODEL, RESULT, STATE, STOPPED, TRAIN, VALID, die_with_parent

_EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)")
_TIMED_OUT = re.compile(r"timed out|operation timeout", re.IGNORECASE)
_LOST_PARTNER = re.compile(r"gloo|nccl|DistBackendError|Connection (closed|reset)", re.IGNORECASE)


def fit(trainer, stop: bool, until: float, rows_after: int, processes: int = 0, scratch: Path | None = None) -> str:
    """Train `trainer` on all GPUs of this machine; its model and state are then those of the finished training.

    An optimizer step holds the same pairs on any number of processes, so that the result is the same but for rounding.

    Args:
        trainer: from `make_trainer`.
        stop, until, rows_after: as in `run_training`.
        processes: 0 is one for each GPU. More than one on a CPU is for tests.
        scratch: folder for the files that the processes exchange; the Trainer's output folder unless given.

    Returns:
        Why the watcher stopped the training; "" when it did not.

    Raises:
        RuntimeError: with the traceback of the process that failed.
    """
    processes = processes or max(1, len(visible_gpus()))
    if processes == 1:
        return run_training(trainer, stop, until, rows_after)
    trainer.model.cpu()  # the workers need the memory of the first GPU
    free_memory()
    folder = Path(scratch or trainer.args.output_dir) / "job"
    write_job(trainer, folder, {"stop": stop, "until": until, "rows_after": rows_after})
    while not run_workers(folder, processes):
        pass
    trainer.model.load_state_dict(load_file(folder / RESULT))
    trainer.state = TrainerState.load_from_json(str(folder / STATE))
    stopped = (folder / STOPPED).read_text(encoding="utf-8")
    shutil.rmtree(folder)
    return stopped


def write_job(trainer, folder: Path, run: dict) -> None:
    """Everything that `src_py.training.worker` needs: weights, rows, settings. No pickle."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / MODEL).mkdir(parents=True)
    model = trainer.model
    model.encoder.config.save_pretrained(folder / MODEL)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / MODEL / "all.safetensors"
    )
    trainer.train_dataset.save_to_disk(str(folder / TRAIN))
    trainer.eval_dataset.save_to_disk(str(folder / VALID))
    job = {
        "trainer": trainer.job,
        "model": asdict(architecture_of(model)),
        "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        "most": trainer.most,
        "run": run,
    }
    (folder / JOB).write_text(json.dumps(job, indent=1), encoding="utf-8")


def run_workers(folder: Path, processes: int) -> bool:
    """Run a job with `processes` processes on this machine; False if it has to be run again with less memory.

    The first process's output appears as it comes, its progress on a `Meter`. When one process dies, the others are
    ended.
    """
    for old in (*folder.glob("error_*.json"), folder / STOPPED):
        old.unlink(missing_ok=True)
    launcher = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    launcher += ["-m", "src_py.training.worker"]
    with (
        open(folder / "launcher.txt", "w", encoding="utf-8") as log,
        subprocess.Popen(
            [sys.executable, "-m", "src_py.training.processes", *launcher, str(folder.resolve())],
            env=worker_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
        ) as launched,
    ):
        try:
            meter = Meter()
            for line in launched.stdout or ():
                if not meter.receive(line):
                    print(line, end="", flush=True)
        except BaseException:  # the notebook's stop button, too
            launched.terminate()
            raise
    # Written last: what happens to a process after that does not touch the result.
    if launched.returncode == 0 or (folder / STOPPED).is_file():
        return True
    errors = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("error_*.json"))]
    short = [error["most"] for error in errors if error["most"] is not None]
    if short:
        return _with_less_memory(folder, min(short))
    said, *ends = (
        path.read_text(encoding="utf-8", errors="replace")[-5000:]
        for path in (folder / "launcher.txt", *folder.glob("stderr_*.txt"))
    )
    texts = [error["text"] for error in errors]
    if hung := [text for text in (*texts, *ends) if _TIMED_OUT.search(text)]:
        raise RuntimeError(
            f"One of the {processes} training processes did not answer in time (a hanging disk, or a lost GPU). Run "
            f"the cell again: it resumes from the last checkpoint.\n{hung[0]}"
        )
    ended = {-int(code) for code in _EXIT_CODE.findall(said)} - {signal.SIGTERM}  # which the launcher sends the others
    if any(code > 0 for code in ended):
        raise RuntimeError(
            f"One of the {processes} training processes was killed from outside (signal {max(ended)}; often the "
            "machine's memory was full). Run the cell again: it resumes from the last checkpoint."
        )
    # A process that lost its partner says so; the partner's own reason is the one that matters.
    own = [text for text in texts if not _LOST_PARTNER.search(text)] or texts or [said[-3000:]]
    raise RuntimeError(f"The training ended in one of its {processes} processes:\n{own[0]}")


def worker_environment() -> dict[str, str]:
    """Environment variables of a worker: they apply from its first moment, before CUDA starts in it."""
    root = str(Path(src_py.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return {**os.environ, **loopback, **allocator_variables(), "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", RELAY: "1"}


def _with_less_memory(folder: Path, most: int) -> bool:
    if most < 1:
        raise InputError(ONE_PAIR_TOO_MANY)
    job = json.loads((folder / JOB).read_text(encoding="utf-8")) | {"most": most}
    (folder / JOB).write_text(json.dumps(job, indent=1), encoding="utf-8")
    print(f"Out of memory: again with at most {most} pairs in a forward pass; a step stays what it was.", flush=True)
    return False


if __name__ == "__main__":
    from torch.distributed import run

    die_with_parent()
    run.main(sys.argv[1:])
