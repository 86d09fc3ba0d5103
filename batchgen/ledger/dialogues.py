"""The texts in the store: every way in which dialogues are read. Each is a few range queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby

from batchgen.core.dialogue import Conversation, Step, turns
from batchgen.ledger import queries
from batchgen.ledger.connection import Database
from batchgen.ledger.migrations import PLACES
from batchgen.ledger.rows import Batch, Row


class Texts(Database):
    """The part of the store that reads dialogues."""

    def ready_texts(self, rows: Sequence[Row], places: range) -> list[str]:
        """The texts at `places` of the dialogues of `rows`, which are consecutive ready ones, one behind the other."""
        first, last = rows[0], rows[-1]
        query = {"at": first.at, "attempt": first.attempt, "first": first.number, "last": last.number}
        query |= {"low": places.start, "high": places.stop - 1}
        return list(chain.from_iterable(self._database.execute(queries.READY_TEXTS, query)))

    def held_texts(self, batch: Batch) -> Iterator[str]:
        """All texts before its own of the dialogues that a live batch holds, one behind the other, as they are read."""
        query = {"batch": batch.batch, "last": batch.position - 1}
        return chain.from_iterable(self._database.execute(queries.HELD_TEXTS, query))

    def conversations(self, numbers: Sequence[int]) -> Iterator[Conversation]:
        """The dialogues of `numbers`, which ascend, with every text accepted so far."""
        if not numbers:
            return
        if numbers[-1] - numbers[0] < 2 * len(numbers):
            wanted = set(numbers)
            yield from (one for one in self._range(numbers[0], numbers[-1]) if one.number in wanted)
            return
        for number in numbers:
            yield from self._range(number, number)

    def _range(self, first: int, last: int) -> Iterator[Conversation]:
        """Every dialogue from number `first` to number `last`, in one read."""
        query = {"first": first * PLACES, "last": last * PLACES + PLACES - 1}
        rows = self._database.execute(queries.TEXTS, query)
        for number, texts in groupby(rows, key=lambda row: row[0] // PLACES):
            yield Conversation(number, tuple(turns([text for _, text in texts])))

    def dialogues(self, positions: int) -> Iterator[Conversation]:
        """Every dialogue that has at least `positions` texts, cut to them, in seed order, one at a time."""
        number, texts = 0, list[str]()
        for place, text in self._database.execute(queries.TEXTS, {"first": 0, "last": 2**62}):
            if place // PLACES != number:
                number, texts = place // PLACES, []
            texts.append(text)
            if len(texts) == positions:
                yield Conversation(number, tuple(turns(texts)))

    def reached(self, positions: int, places: range, size: int) -> Iterator[tuple[list[int], list[str]]]:
        """Dialogues that have at least `positions` texts, in seed order, up to `size` at a time: their numbers, and
        their texts at `places` one behind the other.
        """
        query = {"after": 0, "positions": positions, "limit": size, "low": places.start, "high": places.stop - 1}
        while numbers := list(chain.from_iterable(self._database.execute(queries.REACHED, query))):
            query |= {"after": numbers[-1], "first": numbers[0], "last": numbers[-1]}
            yield numbers, list(chain.from_iterable(self._database.execute(queries.REACHED_TEXTS, query)))

    def texts_of(self, batch: Batch) -> Iterator[tuple[int, Step, str]]:
        """(number, step, text) of every text that came from `batch`."""
        for place, text in self._database.execute(queries.TEXTS_OF, {"batch": batch.batch}):
            yield place // PLACES, Step.at(place % PLACES), text

    def sources(self, number: int) -> dict[int, int]:
        """The batch that each text of a dialogue came from, by position; a seed's came from none."""
        query = {"first": number * PLACES, "last": number * PLACES + PLACES - 1}
        return {place % PLACES: batch for place, batch in self._database.execute(queries.SOURCES, query)}
