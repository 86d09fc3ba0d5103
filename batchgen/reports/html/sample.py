"""Choose the conversations that a page shows, and those to read first. Memory does not grow with the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from heapq import heappush, heappushpop
from itertools import zip_longest
from typing import Generic, NamedTuple, TypeVar

Note = TypeVar("Note")
PER_CLASS = 25  # conversations of each class, or all if there are fewer


class _Offer(NamedTuple, Generic[Note]):
    """An offered conversation. Offers are sorted by `rank`, which is negated for the heaps."""

    rank: int
    number: int
    classes: frozenset[str]
    note: Note


class Sample(Generic[Note]):
    """A sample of the offered conversations, with some of every class. The order of the offers does not matter.

    Conversations are drawn by a fixed hash of their number, so that the same run always has the same sample.
    """

    def __init__(self, most: int, each: int = PER_CLASS) -> None:
        self._most, self._each = most, each
        self._classes: dict[str, list[_Offer[Note]]] = {}
        self._sizes = Counter[str]()
        self._all: list[_Offer[Note]] = []

    def offer(self, number: int, classes: Iterable[str], note: Note) -> None:
        """Offer a conversation with its classes. `note` is returned with it by `chosen`."""
        entry = _Offer(-_rank(number), number, frozenset(classes), note)
        _push_bounded(self._all, entry, self._most)
        self._sizes.update(entry.classes)
        for name in entry.classes:
            _push_bounded(self._classes.setdefault(name, []), entry, self._each)

    def chosen(self) -> Iterator[tuple[int, Note]]:
        """Yield at most `most` (number, note).

        The first ones have every class, each only once if possible; then there are more of each class, up to `each`,
        then any others.
        """
        more = [sorted(heap, reverse=True)[1:] for _, heap in sorted(self._classes.items())]
        ordered = [entry for row in zip_longest(*more) for entry in row if entry is not None]
        unique = {entry.number: entry.note for entry in [*self._cover(), *ordered, *sorted(self._all, reverse=True)]}
        for number in list(unique)[: self._most]:
            yield number, unique[number]

    def _cover(self) -> Iterator[_Offer[Note]]:
        """Yield a conversation of each class that those before it do not have, rare classes first.

        A common class is often among those of a conversation that was taken for a rare one.
        """
        covered = set[str]()
        for name in sorted(self._classes, key=lambda name: (self._sizes[name], name)):
            if name not in covered:
                entry = max(self._classes[name])
                covered |= entry.classes
                yield entry


def _push_bounded(heap: list[_Offer[Note]], entry: _Offer[Note], most: int) -> None:
    """Keep the `most` entries of lowest rank. Ranks are negated, so the root of the heap has the highest rank."""
    if len(heap) < most:
        heappush(heap, entry)
    elif most:
        heappushpop(heap, entry)


def _rank(number: int) -> int:
    return int.from_bytes(blake2b(b"%d" % number, digest_size=8).digest())
