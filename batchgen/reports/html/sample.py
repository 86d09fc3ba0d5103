"""Choose the conversations that a page shows if it cannot show all. Memory does not grow with the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from heapq import heappush, heappushpop
from itertools import zip_longest
from typing import Generic, TypeVar

Note = TypeVar("Note")
PER_CLASS = 25  # conversations of each class, or all if there are fewer


class Sample(Generic[Note]):
    """A sample of the offered conversations, with some of every class. The order of the offers does not matter."""

    def __init__(self, most: int, each: int = PER_CLASS) -> None:
        self._most, self._each = most, each
        self._classes: dict[str, list[tuple[int, int, Note]]] = {}
        self._all: list[tuple[int, int, Note]] = []

    def offer(self, number: int, classes: Iterable[str], note: Note) -> None:
        """Offer a conversation with its classes. `note` is returned with it by `chosen`."""
        entry = (-_rank(number), number, note)
        _push_bounded(self._all, entry, self._most)
        for name in classes:
            _push_bounded(self._classes.setdefault(name, []), entry, self._each)

    def chosen(self) -> Iterator[tuple[int, Note]]:
        """Yield at most `most` (number, note): one of every class, then a second of each, ..., then any others."""
        by_class = [sorted(heap, reverse=True) for _, heap in sorted(self._classes.items())]
        ordered = [entry for row in zip_longest(*by_class) for entry in row if entry is not None]
        unique = {number: note for _, number, note in [*ordered, *sorted(self._all, reverse=True)]}
        for number in list(unique)[: self._most]:
            yield number, unique[number]


def _push_bounded(heap: list[tuple[int, int, Note]], entry: tuple[int, int, Note], most: int) -> None:
    """Keep the `most` entries of lowest rank. Ranks are negated, so the root of the heap has the highest rank."""
    if len(heap) < most:
        heappush(heap, entry)
    else:
        heappushpop(heap, entry)


def _rank(number: int) -> int:
    return int.from_bytes(blake2b(b"%d" % number, digest_size=8).digest())
