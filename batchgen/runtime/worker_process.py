"""Run pure work in a second process: every second item of many, or one item that needs much memory.

Work that the second process does not finish (it was killed, or could not start) is done in this process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

from batchgen.runtime.memory import set_mmap_threshold

Item = TypeVar("Item")
Result = TypeVar("Result")
ITEMS_BEFORE_WORKER = 3  # items done before a second process starts; for fewer its start takes too long


def parallel_map(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) of every item, in order. `work` is a pure function of a module.

    At most three items are in memory: one in each process, and one that is done.
    """
    rest = iter(items)
    yield from ((item, work(item)) for item in islice(rest, None if _cpu_count() == 1 else ITEMS_BEFORE_WORKER))
    following = list(islice(rest, 1))
    if not following:
        return
    with _pool() as pool:
        future = _submit(pool, work, following[0])
        while following:
            mine = [(item, work(item)) for item in islice(rest, 1)]
            done = [(following[0], _result(future, work, following[0])), *mine]
            if following := list(islice(rest, 1)):
                future = _submit(pool, work, following[0])  # it works while the caller uses what is done
            yield from done


def run_in_subprocess(work: Callable[[Item], Result], item: Item) -> Result:
    """Return work(item), computed in another process: its memory is free again afterwards."""
    with _pool() as pool:
        return _result(_submit(pool, work, item), work, item)


def _pool() -> Executor:
    """Return a pool of one process, or of one thread if the system has no shared memory or semaphores.

    Leaving its context cancels work that has not begun.
    """
    try:
        # Not forked: a forked process would not have polars' threads.
        return ProcessPoolExecutor(1, get_context("spawn"), initializer=_initialize_worker)
    except (OSError, ImportError, NotImplementedError):
        return ThreadPoolExecutor(1)


def _submit(pool: Executor, work: Callable[[Item], Result], item: Item) -> Future[Result] | None:
    with suppress(BrokenProcessPool, OSError):  # it has died, or no process can be started
        return pool.submit(work, item)
    return None


def _result(future: Future[Result] | None, work: Callable[[Item], Result], item: Item) -> Result:
    if future is not None:
        with suppress(BrokenProcessPool):
            return future.result()
    return work(item)


def _initialize_worker() -> None:
    """Prepare the second process before its first item."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    set_mmap_threshold()
    os.environ["POLARS_MAX_THREADS"] = "1"  # it is one of two that share the cores
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process when its parent was killed."""
    first = parent_process()
    if first is not None:
        first.join()
        os._exit(1)


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
