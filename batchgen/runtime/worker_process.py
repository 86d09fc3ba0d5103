"""A second process for pure work: every second piece of much of it, or what needs much memory for a moment.

Whatever becomes of it, the work is done: what it does not answer is done here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Generic, Self, TypeVar

from batchgen.runtime.concurrency import brought
from batchgen.runtime.memory import give_back

Piece = TypeVar("Piece")
Result = TypeVar("Result")
ALONE = 3  # pieces are done before a second process is worth its start


def spread(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Result]]:
    """(piece, work(piece)) of every piece, in order. `work` is a pure function of a module; a few pieces are in memory
    at once, and a second process has its own.
    """
    rest = iter(pieces)
    yield from ((piece, work(piece)) for piece in islice(rest, ALONE))
    following = list(islice(rest, 1))
    if _cores() == 1 or not following:
        yield from ((piece, work(piece)) for piece in chain(following, rest))
        return
    with _Hand(work) as hand:
        hand.give(*following)
        while following:
            mine = [(piece, work(piece)) for piece in islice(rest, 1)]
            done = [(following[0], hand.take()), *mine]
            if following := list(islice(rest, 1)):
                hand.give(*following)  # it works on while the caller does something with what is done
            yield from done


def apart(work: Callable[[Piece], Result], piece: Piece) -> Result:
    """work(piece) in a process that takes the memory it needs with it when it ends."""
    with _Hand(work) as hand:
        hand.give(piece)
        return hand.take()


class _Hand(Generic[Piece, Result]):
    """The second process. One piece at a time is in its hands."""

    def __init__(self, work: Callable[[Piece], Result]) -> None:
        self._work = work
        self._answer: Future[Result] | None = None
        self._pool: ProcessPoolExecutor | None = None
        with suppress(OSError, ImportError, NotImplementedError):  # no shared memory, no semaphores
            # Not forked: polars' threads would not come along.
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def give(self, piece: Piece) -> None:
        self._piece, self._answer = piece, None
        if self._pool is not None:
            with suppress(BrokenProcessPool, OSError):  # it has died, or no process can be had
                self._answer = self._pool.submit(self._work, piece)

    def take(self) -> Result:
        """What came of the piece, from wherever."""
        if self._answer is not None:
            with suppress(BrokenProcessPool):
                return brought(self._answer)
        return self._work(self._piece)


def _begin() -> None:
    """In the second process, before it knows any work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is told to the first one alone
    give_back()
    os.environ["POLARS_MAX_THREADS"] = "1"  # it is one of two that share the cores
    Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    """Once the first process has been killed nobody gives work or takes it, and nothing else would end this one."""
    first = parent_process()
    if first is not None:
        first.join()
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
