"""Calls that wait for a network, several at a time. The store is never touched here: a connection has one thread.

A thread is a daemon: Ctrl-C does not wait for an answer that nobody will read. What such a call may bring about stands
in the ledger before it is made, or can be made again. The clients may be used by several threads at once (httpx and
httpx2, `Client`: "It can be shared between threads"; their pools change under a lock), and the SDKs keep nothing of a
call beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def start_thread(call: Callable[[], T], name: str) -> Future[T]:
    """`call` in a thread of its own, which shows as `name`; here and now where the machine has no thread left."""
    future: Future[T] = Future()
    try:
        Thread(target=_complete, args=(call, future), name=name, daemon=True).start()
    except RuntimeError:  # "can't start new thread": nothing of it has run
        _complete(call, future)
    return future


def run_parallel(calls: Sequence[Callable[[], T]], name: str) -> list[Future[T]]:
    """All calls at the same time, in their order; a single one here and now, as if there were no threads."""
    if len(calls) != 1:
        return [start_thread(call, name) for call in calls]
    future: Future[T] = Future()
    _complete(calls[0], future)
    return [future]


def _complete(call: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(call())
    except Exception as error:  # noqa: BLE001 - it is raised where the result is wanted
        future.set_exception(error)
