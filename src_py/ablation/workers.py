"""Where trials run: this process, or one process for each GPU."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

from src_py.errors import InputError
from src_py.training.worker import die_with_parent


class Workers:
    """This process, or one process for each GPU; `free` holds the numbers of those that wait for a task.

    Children are spawned: CUDA does not survive a fork.

    Args:
        gpus: device numbers; with fewer than two, tasks run in this process, at once.
        shared: first arguments of every task; they are sent to each process once.
    """

    def __init__(self, gpus: tuple[int, ...], *shared):
        self.shared, self.free = shared, list(range(max(1, len(gpus))))
        self.pools: list[ProcessPoolExecutor] = []
        self.processes: list = []
        for name in _device_names(gpus) if len(gpus) > 1 else ():
            # A spawned process imports this module, and torch with it, before the initializer runs, and an import may
            # ask CUDA for its devices: the variable has to be there when the process starts, at the first submit.
            before = multiprocessing.active_children()
            with _environment("CUDA_VISIBLE_DEVICES", name):
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=shared)
                pool.submit(os.getpid)
            self.pools.append(pool)
            self.processes += [child for child in multiprocessing.active_children() if child not in before]

    def __enter__(self):
        return self

    def __exit__(self, kind, *error) -> None:
        if kind:  # the notebook's stop button, too: a trial may take an hour
            for process in self.processes:
                process.terminate()
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def submit(self, number: int, task: Callable, *args) -> Future:
        """Run `task(*shared, *args)` with worker `number`. In this process, what it raises is raised here, but for an
        InputError, which its result raises."""
        if self.pools:
            return self.pools[number].submit(_work, task, *args)
        done: Future = Future()
        try:
            done.set_result(task(*self.shared, *args))
        except InputError as error:
            done.set_exception(error)
        return done


def _device_names(gpus: tuple[int, ...]) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls the GPUs of this process, which may itself see only some."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [visible[gpu] if gpu < len(visible) else str(gpu) for gpu in gpus]


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the processes that are started meanwhile."""
    old = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old


_SHARED: list = []  # what a worker process was started with


def _begin(*shared) -> None:
    die_with_parent()
    _SHARED.extend(shared)


def _work(task: Callable, *args):
    return task(*_SHARED, *args)
