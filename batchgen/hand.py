"""A second process for pure work: every second piece of much of it, or what needs much memory for a moment.

It gets pieces on its stdin and gives results on its stdout, both pickled; it ends with its stdin. Whatever becomes of
it, the work is done: what it does not answer is done here.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

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
        home = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(  # noqa: S603 - this program itself
            [sys.executable, "-P", "-m", "batchgen.hand", f"{work.__module__}:{work.__qualname__}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "POLARS_MAX_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is told to one of us
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(OSError), self._process:  # what it did not read any more cannot be written
            pass

    def give(self, piece: Piece) -> None:
        self._piece = piece
        try:
            pickle.dump(piece, self._stream("stdin"), protocol=pickle.HIGHEST_PROTOCOL)
            self._stream("stdin").flush()
        except OSError:
            self._process.kill()

    def take(self) -> Result:
        """What came of the piece, from wherever."""
        try:
            done: Result = pickle.load(self._stream("stdout"))  # noqa: S301 - from this program itself
        except (EOFError, OSError, pickle.UnpicklingError):
            self._process.kill()
            return self._work(self._piece)
        return done

    def _stream(self, name: str) -> Any:
        return getattr(self._process, name)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(work: Callable[[Any], object]) -> None:
    while True:
        try:
            piece = pickle.load(sys.stdin.buffer)  # noqa: S301 - from this program itself
        except EOFError:
            return
        pickle.dump(work(piece), sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    _serve(getattr(import_module(module), name))
