"""Check a Trainer before it trains: every known reason why a model "does not learn", measured on the real set-up."""

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from src_py.doctor.checks_model import MODEL_CHECKS, check_sequence_length, check_weights_dtype
from src_py.doctor.checks_schedule import TRAINING_CHECKS
from src_py.doctor.checks_text import DATA_CHECKS
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Report, Setup


def check_before_training(trainer, tokenizer=None, train=None, valid=None, card_bytes: int | None = None) -> Report:
    """Run all checks on a Trainer that is about to train; nothing of it is changed.

    Weights, gradients, optimizer, modes and random states are as before afterwards, so that training is
    bit-identical with and without this call. Works on any `Trainer` for sequence classification; a check that
    lacks what it needs says "not checked".

    Args:
        trainer: with its model, datasets, arguments and (if it has one of its own) optimizer.
        tokenizer: the tokenizer the datasets were made with.
        train, valid: the tables from `load_pairs` behind the datasets, to compare prompts.
        card_bytes: memory to plan for; by default the first GPU's.
    """
    setup = Setup(trainer, tokenizer, train, valid, card_bytes=card_bytes)
    started, findings = time.monotonic(), []
    # Half-precision weights make every other figure of the model meaningless (and, on a CPU, very slow to get);
    # sequences that are too long make it crash.
    first = [check_weights_dtype(setup), check_sequence_length(setup)]
    model_checks = () if any(f.status == FAIL for f in first) else MODEL_CHECKS
    for check in (*DATA_CHECKS, lambda _: first, *model_checks, *TRAINING_CHECKS):
        with untouched(trainer):
            findings.extend(_run(check, setup))
    if not model_checks:
        findings.append(Finding("loss, gradients, memory", SKIP, "mend what FAILs first"))
    # Checks stand in the order of their effect in the posted notebook; sorting is stable.
    findings.sort(key=lambda f: [FAIL, WARN, PASS, SKIP].index(f.status))
    return Report(findings, time.monotonic() - started)


@contextmanager
def untouched(trainer) -> Iterator[None]:
    """Restore weights, gradients, modes, optimizer and random states on leaving."""
    model, optimizer = trainer.model, trainer.optimizer
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    optimizer_state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
    steps = getattr(trainer, "current_gradient_accumulation_steps", None)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                tensor.copy_(weights[name])
        for name, module in model.named_modules():
            module.training = modes[name]
        model.zero_grad(set_to_none=True)
        if optimizer is not None:
            optimizer.load_state_dict(optimizer_state)
        if steps is not None:
            trainer.current_gradient_accumulation_steps = steps
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _run(check: Callable, setup: Setup) -> list[Finding]:
    try:
        found = check(setup)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a crash in tokenizers is a BaseException, and a finding
        name = check.__name__.removeprefix("check_").replace("_", " ")
        line = (str(error).strip().splitlines() or [""])[0][:120]
        return [Finding(name, FAIL, f"{type(error).__name__}: {line}", "runs", "Mend what this error names.")]
    return found if isinstance(found, list) else [found]
