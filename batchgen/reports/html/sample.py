"""Which conversations a page shows when it cannot show all: drawn by id, each class represented. Constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from heapq import heappush, heappushpop
from itertools import zip_longest
from typing import Generic, TypeVar

Note = TypeVar("Note")
PER_CLASS = 25  # of every class, or all when there are fewer


class Sample(Generic[Note]):
    """Offers go in one by one; what is kept depends on the numbers and classes offered, not on their order."""

    def __init__(self, most: int, each: int = PER_CLASS) -> None:
        self._most, self._each = most, each
        self._classes: dict[str, list[tuple[int, int, Note]]] = {}
        self._all: list[tuple[int, int, Note]] = []

    def offer(self, number: int, classes: Iterable[str], note: Note) -> None:
        """A conversation, the classes it stands for, and what its page will need to know of it."""
        entry = (-_rank(number), number, note)
        _push_bounded(self._all, entry, self._most)
        for name in classes:
            _push_bounded(self._classes.setdefault(name, []), entry, self._each)

    def chosen(self) -> Iterator[tuple[int, Note]]:
        """(number, note), at most `most`: first one of every class, then a second, ..., then whoever was drawn."""
        by_class = [sorted(heap, reverse=True) for _, heap in sorted(self._classes.items())]
        ordered = [entry for row in zip_longest(*by_class) for entry in row if entry is not None]
        unique = {number: note for _, number, note in [*ordered, *sorted(self._all, reverse=True)]}
        for number in list(unique)[: self._most]:
            yield number, unique[number]


def _push_bounded(heap: list[tuple[int, int, Note]], entry: tuple[int, int, Note], most: int) -> None:
    """Keep the `most` entries of the lowest rank (ranks are negated: the heap's root is the highest)."""
    if len(heap) < most:
        heappush(heap, entry)
    else:
        heappushpop(heap, entry)


def _rank(number: int) -> int:
    return int.from_bytes(blake2b(b"%d" % number, digest_size=8).digest())
