"""Let several devices work through one list of items, side by side."""

import queue
import threading
from collections.abc import Callable, Iterable

import torch


def all_devices() -> tuple[str, ...]:
    """Every GPU this process may use, or the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)


def share_out(items: Iterable, workers: list[Callable]) -> None:
    """Hand each item to the next free worker; every worker has a thread of its own.

    torch releases Python's lock while it computes, so that threads keep several GPUs busy.

    Raises:
        BaseException: the first thing that a worker raised; the others stop after their item.
    """
    waiting, errors = queue.SimpleQueue(), []
    for item in items:
        waiting.put(item)

    def run(worker: Callable) -> None:
        try:
            while not errors:
                worker(waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as error:  # told to the caller's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
