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
_RECOMPUTING = ("activation_checkpointing", "gradient_checkpointing")  # the name from transformers 5.23, and before
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
    buffers = [(buffer, _on_host(buffer)) for buffer in model.buffers()]
    owners = [(module, name, module._buffers[name]) for module in model.modules() for name in module._buffers]
    # Set aside, not copied: a backward pass makes new ones.
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    optimizer_state = None
    if trainer.optimizer is not None and trainer.optimizer.state:
        optimizer_state = _on_host(trainer.optimizer.state_dict())
    restore = [*_global_states(), *_held_states(trainer)]
    # A forward pass chooses `problem_type` by the labels, and keeps it.
    configs = {id(config): config for module in modes if (config := getattr(module, "config", None)) is not None}
    settings = [(vars(config), dict(vars(config))) for config in configs.values() if hasattr(config, "__dict__")]
    try:
        yield
    finally:
        for held, before in settings:
            held.clear()
            held.update(before)
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
            trainer.optimizer.state.clear()  # first, so that the memory never holds both
            trainer.optimizer.load_state_dict(optimizer_state)
        for put_back in restore:
            put_back()


@contextmanager
def tokenizer_untouched(tokenizer) -> Iterator[None]:
    """Restore how a fast tokenizer truncates and pads, which each call of it sets anew: `datasets` caches by it."""
    backend = getattr(tokenizer, "_tokenizer", None)
    if backend is None or not hasattr(backend, "no_truncation"):
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
        backend.enable_padding(**padding) if padding else backend.no_padding()


@contextmanager
def weights_restored(parameters: list) -> Iterator[list[torch.Tensor]]:
    """Restore the values of `parameters` on leaving; gives their copies.

    Their copy is in the computer's memory, so that on a GPU no more is needed than training itself needs.
    """
    values = [_on_host(parameter) for parameter in parameters]
    try:
        yield values
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, values):
                parameter.copy_(value)


def recomputes(args) -> bool:
    """Whether training computes activations again in the backward pass instead of keeping them."""
    return any(getattr(args, name, False) for name in _RECOMPUTING)


@contextmanager
def recomputing(trainer) -> Iterator[None]:
    """Activation checkpointing as the Trainer switches it on when it starts; without it a check needs more memory."""
    model, args = trainer.model, trainer.args
    name = next((name for name in _RECOMPUTING if hasattr(model, f"{name}_enable")), None)
    if name is None or not recomputes(args):
        yield
        return
    own = ("gradient_checkpointing", "_gradient_checkpointing_func")
    held = [vars(module) for module in model.modules()]
    before = [{key: attributes[key] for key in own if key in attributes} for attributes in held]
    options = dict(getattr(args, f"{name}_kwargs", None) or {})
    beside = {key: options.pop(key) for key in ("every_n_layers", "offload") if key in options}
    getattr(model, f"{name}_enable")(**{f"{name}_kwargs": options or None}, **beside)
    try:
        yield
    finally:
        for attributes, values in zip(held, before):
            for key in own:
                attributes.pop(key, None)
            attributes.update(values)


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Evaluation mode, and then the modes that the model's parts had before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def no_dropout(model) -> None:
    """Eval mode, but for layers that are computed again in the backward pass.

    In eval mode those would keep all of their activations, which is more than training needs. Dropout itself is in the
    modules inside of them.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) is True:
            module.training = True


def _on_host(thing):
    """A copy in the computer's memory of a tensor, or of the tensors in lists and dicts."""
    if isinstance(thing, torch.Tensor):
        return thing.detach().to("cpu", copy=True)
    if isinstance(thing, dict):
        return {key: _on_host(value) for key, value in thing.items()}
    return [_on_host(value) for value in thing] if isinstance(thing, list) else copy.deepcopy(thing)


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
