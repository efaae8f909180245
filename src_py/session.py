"""Seeds, quiet libraries, and memory between folds."""

import gc
import warnings

import torch
import transformers


def start_session(seed: int) -> None:
    """Seed Python, numpy and torch, and silence the notes of the libraries that are not about the data."""
    transformers.set_seed(seed)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def free_memory() -> None:
    """Give the memory of deleted models back, so that the next one fits."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
