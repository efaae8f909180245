"""One process of a training on several GPUs: it reads a job folder, trains, and writes the result there.

`src_py.training.processes` writes the job and starts one process for each GPU of a machine. To use several machines,
put the job folder where all of them can read it:

    torchrun --nnodes=2 --node-rank=0 --nproc-per-node=2 --master-addr=HOST --master-port=29500 \\
        -m src_py.training.worker JOB
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from datasets import load_from_disk
from safetensors.torch import load_file, save_file
from torch import distributed

from src_py.kaggle.session import start_session
from src_py.model.preference import Architecture, rebuild
from src_py.training.run import run_training
from src_py.training.trainer import HANG_SECONDS, TrainingSettings, make_trainer

JOB, MODEL, TRAIN, VALID = "job.json", "model", "train", "valid"
RESULT, STATE, STOPPED = "result.safetensors", "result.json", "stopped.txt"


def main(folder: Path) -> None:
    """Train; the first process leaves the weights and the Trainer's state."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    join_group()
    trainer = load_job(folder, job)
    if trainer.args.process_index > 0:
        sys.stdout = sys.stderr  # only the first process reports; the others' words are in the job folder if they fail
    try:
        stopped = run_training(trainer, **job["run"])
    except torch.OutOfMemoryError:
        leave_error(folder, traceback.format_exc(), trainer.smaller())
        raise
    if trainer.args.process_index == 0:
        weights = {name: value.contiguous().cpu() for name, value in trainer.model.state_dict().items()}
        save_file(weights, folder / RESULT)
        trainer.state.save_to_json(str(folder / STATE))
        (folder / STOPPED).write_text(stopped, encoding="utf-8")
    distributed.barrier()


def join_group() -> None:
    """Join the other processes; one that waits longer than `HANG_SECONDS` for another fails.

    accelerate would do it too, but on a CPU without the time limit.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=HANG_SECONDS))


def load_job(folder: Path, job: dict):
    """The Trainer that the notebook had, with this process's device."""
    start_session(job["trainer"]["seed"])
    model = rebuild(folder / MODEL, Architecture.from_dict(job["model"]))
    model.load_state_dict(load_file(folder / MODEL / "all.safetensors"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in job["frozen"])
    train, valid = (load_from_disk(str(folder / name)) for name in (TRAIN, VALID))
    options = job["trainer"] | {"settings": TrainingSettings(**job["trainer"]["settings"])}
    return make_trainer(model, train, valid, most=job["most"], **options | {"classes": tuple(options["classes"])})


def leave_error(folder: Path, text: str, most: int | None = None) -> None:
    """For the process that started this one. `most`: pairs in a forward pass to try next, if memory was short."""
    rank = os.environ.get("RANK", "0")
    (folder / f"error_{rank}.json").write_text(json.dumps({"text": text, "most": most}), encoding="utf-8")


def die_with_parent() -> None:
    """A notebook that is killed must not leave trainings behind that write to its checkpoints (Linux only)."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    job_folder = Path(sys.argv[1])
    # What libraries and crashes say goes to a file: only the first process's progress is for the reader.
    log = os.open(job_folder / f"stderr_{os.environ.get('RANK', '0')}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    die_with_parent()
    try:
        main(job_folder)
    except BaseException:
        if not (job_folder / f"error_{os.environ.get('RANK', '0')}.json").is_file():
            leave_error(job_folder, traceback.format_exc())
        raise
    distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # not through the interpreter's end, where threads that still run have aborted finished processes
