"""What machine this is, and what it can do."""

import os

import torch

from src_py.errors import InputError


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

    A CPU always trains in fp32 (half precision is slower there). bf16 is refused where it is only
    emulated, as on a T4, where it takes twice the time of fp16.

    Raises:
        InputError: for an unknown name, or bf16 without native support.
    """
    if wanted not in ("fp16", "bf16", "fp32"):
        raise InputError(f"CFG.precision is {wanted!r}; use 'fp16', 'bf16' or 'fp32'.")
    if not torch.cuda.is_available():
        return "fp32"
    if wanted == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError("CFG.precision is 'bf16', which this GPU only emulates at half the speed; use 'fp16'.")
    return wanted
