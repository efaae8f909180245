"""The machine and the process: seeds, devices, precision, memory."""

import gc
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd
import torch
import transformers

from src_py.config import Settings, check_choice, setting
from src_py.errors import InputError
from src_py.kaggle.clock import SESSION_HOURS

PRECISIONS = ("fp16", "bf16", "fp32")
# torch 2.9 takes only the older name for CUDA's own options (pytorch#183387); before that there was no other one.
ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@dataclass(frozen=True)
class Machine(Settings):
    """How a notebook uses the machine: `hours` for everything."""

    precision: str = setting("fp16", choices=PRECISIONS)
    hours: float = setting(8.5, above=0, most=SESSION_HOURS)
    seed: int = setting(0, least=0, most=2**31 - 1)


@dataclass(frozen=True)
class Training(Machine):
    """A notebook that trains, and stops on failure of a check unless told otherwise."""

    stop_on_failure: bool = setting(True)


@dataclass(frozen=True)
class Session(Training):
    """A notebook that trains in `processes` of their own (0: one for each GPU)."""

    processes: int = setting(0, least=0, most=16)


def start_session(seed: int) -> None:
    """Seed Python, numpy and torch, and silence the notes of the libraries that are not about the data.

    Tables show their texts whole: what a cell advises must not end in dots.

    Also sets `allocator_variables`, which has an effect until CUDA starts, and on processes that are started later.
    """
    os.environ.update(allocator_variables())
    pd.set_option("display.max_colwidth", None)
    transformers.set_seed(seed)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def allocator_variables() -> dict[str, str]:
    """Environment variables for a process that will use a GPU; empty without a GPU, or where the user set one of them.

    Every part of a step has another shape; segments that grow keep the memory of earlier shapes usable.
    """
    if not torch.cuda.is_available() or any(name in os.environ for name in ALLOCATOR_NAMES):
        return {}
    known = tuple(int(number) for number in torch.__version__.split(".")[:2]) >= (2, 11)
    return {ALLOCATOR_NAMES[0 if known else 1]: "expandable_segments:True"}


def free_memory() -> None:
    """Give the memory of deleted models back, so that the next one fits."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def visible_gpus() -> tuple[int, ...]:
    """Numbers of the GPUs this process may use."""
    return tuple(range(torch.cuda.device_count())) if torch.cuda.is_available() else ()


def describe_hardware(precision: str) -> str:
    """One line: devices, memory, precision, and how they are used.

    Raises:
        InputError: when this torch has no kernels for a GPU, as for Kaggle's P100; every operation on it would fail.
    """
    if not torch.cuda.is_available():
        advice = "no GPU: choose one under Accelerator"
        return f"CPU with {os.cpu_count()} cores ({advice}); torch {torch.__version__}, {precision}"
    if remedy := missing_kernels():
        raise InputError(remedy)
    gpus = [torch.cuda.get_device_properties(number) for number in visible_gpus()]
    names = ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.1f} GB)" for gpu in gpus)
    use = "one process for each" if len(gpus) > 1 else "one process"
    return f"{names}; {use}; torch {torch.__version__}, {precision}"


def missing_kernels() -> str | None:
    """What to do where this torch cannot run on the first GPU; None where it can."""
    major, minor = torch.cuda.get_device_capability()
    built = torch.cuda.get_arch_list()
    # Kernels run on later minor versions of the same major one; PTX (compute_) on anything later.
    fits = any(
        (kind == "sm" and int(number[:-1]) == major and int(number[-1]) <= minor)
        or (kind == "compute" and (int(number[:-1]), int(number[-1])) <= (major, minor))
        for kind, number in (entry.rstrip("af").split("_") for entry in built)
    )
    if fits:
        return None
    version = torch.__version__.split("+")[0]
    return (
        f"torch {torch.__version__} has no kernels for this {torch.cuda.get_device_name()} (sm_{major}{minor}; it has "
        f"{' '.join(built)}). Choose the accelerator GPU T4 x2; or attach the cu126 wheels and run, before anything "
        f"else, pip install --no-index --find-links /kaggle/input torch=={version}+cu126"
    )


def choose_precision(wanted: str) -> str:
    """Return "fp16", "bf16" or "fp32": what training will really run in.

    A CPU trains in fp32, unless bf16 is wanted and its processor computes in it: others emulate half precision slowly.
    On a GPU, bf16 is refused where it is only emulated, as on a T4, where it takes twice the time of fp16.

    Raises:
        InputError: for an unknown name, or bf16 on a GPU without native support.
    """
    check_choice("precision", wanted, PRECISIONS)
    if not torch.cuda.is_available():
        return "bf16" if wanted == "bf16" and torch.cpu._is_avx512_bf16_supported() else "fp32"
    if wanted == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("CFG.precision is 'bf16', which this GPU only emulates at half the speed; use 'fp16'.")
    return wanted


def all_devices() -> tuple[str, ...]:
    """Every GPU this process may use, or the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def to_device(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """A copy on `device`. To a GPU it goes through page-locked memory, so that the host does not wait for it."""
    if tensor.device.type != "cpu" or torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # what is page-locked already is not copied again


def share_out(items: Iterable, workers: list[Callable]) -> None:
    """Hand each item to the next free worker; every worker has a thread of its own.

    torch releases Python's lock while it computes, so that threads keep several GPUs busy.

    Raises:
        BaseException: the first thing that a worker raised; the others stop after their item.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    errors: list[BaseException] = []
    for item in items:
        waiting.put(item)

    def run(worker: Callable) -> None:
        try:
            while not errors:
                worker(waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
