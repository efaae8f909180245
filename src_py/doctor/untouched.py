"""Look at a Trainer without changing it: what a look can change is put back."""

import copy
import functools
import random
import types
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_DEPTH, _OBJECTS = 6, 5000  # how far generators are looked for; a collator's own are one or two steps away
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (int, float, complex, str, bytes, type(None))


@contextmanager
def untouched(trainer) -> Iterator[None]:
    """Restore gradients, buffers, modes, random states and what collator and datasets remember, on leaving.

    Weights are not copied: what changes them (`weights_restored`) copies them itself, once. Random states are those
    of Python, numpy and torch, on all devices, and every generator that collator, datasets, model or Trainer hold.
    """
    model = trainer.model
    modes = {module: module.training for module in model.modules()}
    # named_buffers has the non-persistent ones too, which state_dict leaves out.
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    owners = [(module, name, module._buffers[name]) for module in model.modules() for name in module._buffers]
    # Set aside, not copied: a backward pass makes new ones.
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    optimizer_state = None
    if trainer.optimizer is not None and trainer.optimizer.state:
        optimizer_state = copy.deepcopy(trainer.optimizer.state_dict())
    restore = [*_global_states(), *_held_states(trainer)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, name, buffer in owners:
            module._buffers[name] = buffer
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes.items():
            module.training = mode
        if optimizer_state is not None:
            trainer.optimizer.load_state_dict(optimizer_state)
        for put_back in restore:
            put_back()


@contextmanager
def weights_restored(parameters: list) -> Iterator[None]:
    """Restore the values of `parameters` on leaving.

    Their copy is in the computer's memory, so that on a GPU no more is needed than training itself needs.
    """
    values = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, values):
                parameter.copy_(value)


def _global_states() -> list:
    restore = [functools.partial(random.setstate, random.getstate())]
    restore.append(functools.partial(np.random.set_state, np.random.get_state()))
    restore.append(functools.partial(torch.set_rng_state, torch.get_rng_state()))
    if torch.cuda.is_available():
        restore.append(functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return restore


def _held_states(trainer) -> list:
    """How to put back generators and counters of collator, datasets, model and Trainer."""
    restore: list = []
    seen: set = set()
    _visit(trainer.data_collator, _DEPTH, seen, restore)
    _visit(trainer.train_dataset, _DEPTH, seen, restore)
    _visit(trainer.eval_dataset, _DEPTH, seen, restore)
    for thing in (trainer, trainer.args, *trainer.model.modules()):
        _visit(thing, 1, seen, restore)
    return restore


def _visit(thing, depth: int, seen: set, restore: list) -> None:
    if isinstance(thing, (*_PLAIN, type, torch.Tensor, np.ndarray)) or id(thing) in seen or len(seen) > _OBJECTS:
        return
    seen.add(id(thing))
    if isinstance(thing, _GENERATORS):
        restore.append(_generator_state(thing))
        return
    if depth == 0 or isinstance(thing, types.ModuleType):
        return
    for inner in _inside(thing):
        _visit(inner, depth - 1, seen, restore)
    own = getattr(thing, "__dict__", None)
    if isinstance(own, dict) and not isinstance(thing, types.FunctionType):
        restore.append(functools.partial(_put_back, own, {k: v for k, v in own.items() if isinstance(v, _PLAIN)}))


def _inside(thing) -> list:
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (list, tuple, set)):
        # The rows of a list hold no generators: its first ones stand for them.
        return list(thing)[:20]
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]
        used = [thing.__globals__.get(name) for name in thing.__code__.co_names]
        return cells + [value for value in used if isinstance(value, _GENERATORS)]
    return list(getattr(thing, "__dict__", {}).values())


def _generator_state(generator):
    if isinstance(generator, torch.Generator):
        return functools.partial(generator.set_state, generator.get_state())
    if isinstance(generator, np.random.Generator):
        state = copy.deepcopy(generator.bit_generator.state)
        return functools.partial(setattr, generator.bit_generator, "state", state)
    if isinstance(generator, np.random.RandomState):
        return functools.partial(generator.set_state, generator.get_state())
    return functools.partial(generator.setstate, generator.getstate())


def _put_back(own: dict, plain: dict) -> None:
    for name, value in plain.items():
        own[name] = value
