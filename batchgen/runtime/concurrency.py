"""Run several network calls at the same time. They never use the store: a connection belongs to one thread.

Threads are daemons: Ctrl-C does not wait for an answer that will not be used. The effect of such a call is in the
ledger before it is made, or the call can be repeated. The clients are thread-safe (httpx and httpx2, `Client`: "It can
be shared between threads"), and the SDKs keep no other state of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def start_thread(call: Callable[[], T], name: str) -> Future[T]:
    """Run `call` in a new thread called `name`; in this thread if the machine cannot start one."""
    future: Future[T] = Future()
    try:
        Thread(target=_complete, args=(call, future), name=name, daemon=True).start()
    except RuntimeError:  # "can't start new thread": the call has not begun
        _complete(call, future)
    return future


def run_parallel(calls: Sequence[Callable[[], T]], name: str) -> list[Future[T]]:
    """Run all calls at the same time, a single one in this thread. Returns their futures in order."""
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
