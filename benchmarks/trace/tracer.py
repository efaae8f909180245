"""Runs code on a CUDA device that computes nothing, and counts what a real one would have to do."""

import traceback
import weakref
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.trace.card import T4

ALLOCATED = 512  # bytes to which the caching allocator rounds up

# Operations that start no kernel although they do not return a view.
_NO_KERNEL = {"_unsafe_view", "unsafe_split", "lift_fresh", "is_same_size", "_reshape_alias", "empty_like", "empty"}
_NO_KERNEL |= {"empty_strided", "new_empty", "new_empty_strided"}
# Operations that read nothing of the tensor they are given.
_WRITE_ONLY = {"fill_", "zero_", "random_"}


@dataclass
class Work:
    """What some kernels do together. `seconds` is the roofline's estimate for a T4, kernel by kernel."""

    kernels: int = 0
    moved: int = 0
    operations: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


class Tracer(TorchDispatchMode):
    """Counts every operation on CUDA tensors while it is entered, through `tracing`.

    What is done on the CPU alone is really done, as it would be beside a card. Tensors on "cuda" are fake: they have
    shape, type, device and storage, but no values; torch raises an error when an operation mixes the two devices.

    A kernel's bytes are those of all tensors that it is given and that it makes, each tensor once, a dimension of
    stride 0 once. A tensor that is only written into (the target of a copy, `out=`) counts as given and as made: in the
    attentions of this project that makes the sum 2 to 6 % too high. Caches that save some of this, and access patterns
    that cost more, are not seen.

    Attributes:
        work: operation ("aten.mm") to `Work`, since the last `reset`.
        copies: copies between the devices for which the host waits, one sentence each.
        live: bytes of the CUDA storages that exist, rounded up as the allocator does.
        peak: most of these at a time since the last `reset`.
    """

    def __init__(self):
        super().__init__()
        self.live = 0
        self._storages: dict[int, weakref.ref] = {}
        self._pinned: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Start counting anew; what is allocated stays."""
        self.work: dict[str, Work] = defaultdict(Work)
        self.copies: list[str] = []
        self.peak = self.live

    @property
    def total(self) -> Work:
        return sum(self.work.values(), Work())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        device = kwargs.get("device")
        if not any(isinstance(x, FakeTensor) for x in given) and (device is None or device.type == "cpu"):
            return self._on_cpu(func, args, kwargs)
        self._note_copy(func, args, kwargs, given)
        out = func(*args, **kwargs)
        made = [x for x in _tensors(out) if x.device.type == "cuda"]
        for tensor in made:
            self._allocate(tensor)
        given = [x for x in given if x.device.type == "cuda"]
        if (given or made) and func.namespace != "prim" and not func.is_view and _name(func) not in _NO_KERNEL:
            self._count(func, args, kwargs, given, out, made)
        return out

    def _on_cpu(self, func, args, kwargs):
        """The real operation; pinned memory, which needs a card, is replaced by a note that it is pinned."""
        pin = kwargs.pop("pin_memory", False)
        with unset_fake_temporarily():
            if _name(func) == "is_pinned":
                return _storage(args[0]) in self._pinned
            pin = pin or _name(func) == "_pin_memory"
            out = args[0].clone() if _name(func) == "_pin_memory" else func(*args, **kwargs)
        if pin:
            self._pinned.add(key := _storage(out))
            weakref.finalize(out.untyped_storage(), self._pinned.discard, key)
        return out

    def _note_copy(self, func, args, kwargs, given: list[torch.Tensor]) -> None:
        """Add this operation to `copies` when the host waits for it."""
        name = _name(func)
        from_cpu = [x for x in given if x.device.type == "cpu"]
        on_cuda = any(x.device.type == "cuda" for x in given)
        if name in ("_to_copy", "copy_"):
            source, target = given[-1].device, kwargs.get("device") or given[0].device
            pinned = source.type == "cpu" and _storage(given[-1]) in self._pinned
            without_waiting = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if source.type == target.type or (pinned and without_waiting):
                return
            what = f"{source.type} to {target.type}, {'waiting' if pinned else 'not pinned'}"
        elif name == "_local_scalar_dense" and on_cuda:
            what = "a value is read"
        elif on_cuda and any(x.dim() for x in from_cpu) and name in ("index", "index_put", "index_put_"):
            what = "an index on the CPU"  # torch copies it itself; other mixed operations are errors
        else:
            return
        self.copies.append(f"{name} ({what}) at {_where()}")

    def _allocate(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = -(-storage.nbytes() // ALLOCATED) * ALLOCATED

        def freed(_):
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _count(self, func, args, kwargs, given, out, made) -> None:
        formula = flop_registry.get(func.overloadpacket)
        operations = formula(*args, **kwargs, out_val=out) if formula else 0
        read = {} if _name(func) in _WRITE_ONLY else {id(x): x for x in given}
        moved = sum(_bytes(x) for x in read.values()) + sum(_bytes(x) for x in made)
        self.work[f"{func.namespace}.{_name(func)}"] += Work(1, moved, operations, T4.seconds(moved, operations))


@contextmanager
def tracing():
    """A `Tracer` at work: inside, tensors on "cuda" are fake, and torch is asked about a T4."""
    properties = type("Properties", (), {"name": "T4 (traced)", "total_memory": 15_600_000_000, "major": 7, "minor": 5})
    with (
        # Without a CUDA library torch would switch autocast off, and has no properties to tell.
        patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        patch("torch.cuda.get_device_properties", return_value=properties),
        patch("torch.cuda.get_per_process_memory_fraction", return_value=1.0, create=True),
        FakeTensorMode(allow_non_fake_inputs=True),
        Tracer() as tracer,
    ):
        yield tracer


def _name(func) -> str:
    return func._schema.name.split("::")[1]


def _tensors(tree) -> list[torch.Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: torch.Tensor) -> int:
    """Of the distinct elements."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride()):
        if stride:
            size *= length
    return 0 if tensor.numel() == 0 else size


def _where() -> str:
    """The innermost line of the project or of transformers that is being run."""
    for frame in reversed(traceback.extract_stack()):
        for package in ("src_py/", "transformers/"):
            if package in frame.filename:
                return f"{package}{frame.filename.rpartition(package)[2]}:{frame.lineno}"
    return "the trace"
