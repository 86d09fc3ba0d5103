"""Read dialogues, where they stand, and their audit from the store. Each read is a few range queries."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain, groupby

from batchgen.core.dialogue import FIRST_JUDGEMENT, Conversation, Judgement, Step, conversation_of, group_into_turns
from batchgen.ledger import queries
from batchgen.ledger.migrations import TEXT_IDS
from batchgen.ledger.rows import Batch, ConversationState, ReadyConversation


class Dialogues:
    """Reads dialogues, which are stored text by text, and their states. Changes nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def ready_texts(self, rows: Sequence[ReadyConversation], shown: range) -> list[str]:
        """Read the texts at positions `shown` of ready conversations, one dialogue after the other.

        `rows` are consecutive rows of `Store.ready`.
        """
        first, last = rows[0], rows[-1]
        query = {"position": first.position, "attempt": first.attempt, "first": first.number, "last": last.number}
        query |= {"low": shown.start, "high": shown.stop - 1}
        return list(chain.from_iterable(self._connection.execute(queries.READY_TEXTS, query)))

    def held_texts(self, batch: Batch) -> Iterator[str]:
        """Yield the texts before the batch's own position of each dialogue that it holds, dialogue by dialogue."""
        query = {"batch": batch.number, "last": batch.position - 1}
        return chain.from_iterable(self._connection.execute(queries.HELD_TEXTS, query))

    def read(self, numbers: Sequence[int]) -> Iterator[Conversation]:
        """Yield the dialogues with these numbers, which must ascend, with every text accepted so far."""
        if not numbers:
            return
        if numbers[-1] - numbers[0] < 2 * len(numbers):
            wanted = set(numbers)
            yield from (one for one in self._range(numbers[0], numbers[-1]) if one.number in wanted)
            return
        for number in numbers:
            yield from self._range(number, number)

    def _range(self, first: int, last: int) -> Iterator[Conversation]:
        """Yield the dialogues with number `first` to `last`, by one query."""
        query = {
            "first": first * TEXT_IDS,
            "last": last * TEXT_IDS + TEXT_IDS - 1,
        }
        rows = self._connection.execute(queries.TEXTS, query)
        for number, texts in groupby(rows, key=lambda row: row[0] // TEXT_IDS):
            yield Conversation(number, tuple(group_into_turns([text for _, text in texts])))

    def all(self, positions: int) -> Iterator[Conversation]:
        """Yield the first `positions` texts of every dialogue that has so many, in seed order, one at a time."""
        number, texts = 0, list[str]()
        for text_id, text in self._connection.execute(
            queries.TEXTS, {"first": 0, "last": FIRST_JUDGEMENT * TEXT_IDS - 1}
        ):
            if text_id // TEXT_IDS != number:
                number, texts = text_id // TEXT_IDS, []
            texts.append(text)
            if len(texts) == positions:
                yield Conversation(number, tuple(group_into_turns(texts)))

    def completed_up_to(self, positions: int, shown: range, size: int) -> Iterator[tuple[list[int], list[str]]]:
        """Yield the dialogues that have at least `positions` texts, in seed order, up to `size` at a time.

        Each item is (their numbers, their texts at positions `shown`, one dialogue after the other).
        """
        query = {"after": 0, "positions": positions, "limit": size, "low": shown.start, "high": shown.stop - 1}
        while numbers := list(chain.from_iterable(self._connection.execute(queries.COMPLETED_UP_TO, query))):
            query |= {"after": numbers[-1], "first": numbers[0], "last": numbers[-1]}
            yield numbers, list(chain.from_iterable(self._connection.execute(queries.COMPLETED_TEXTS, query)))

    def texts_from_batch(self, batch: Batch) -> Iterator[tuple[int, Step, str]]:
        """Yield (number, step, text) of every text that came from `batch`."""
        for text_id, text in self._connection.execute(queries.TEXTS_FROM_BATCH, {"batch": batch.number}):
            yield text_id // TEXT_IDS, Step.at(text_id % TEXT_IDS), text

    def sources(self, number: int) -> dict[int, int]:
        """Map each position of a dialogue to the batch its text came from. The texts of seeds are left out."""
        query = {
            "first": number * TEXT_IDS,
            "last": number * TEXT_IDS + TEXT_IDS - 1,
        }
        return {text_id % TEXT_IDS: batch for text_id, batch in self._connection.execute(queries.SOURCE_BATCHES, query)}

    # ---- where conversations stand

    def rejected_conversations(self) -> Iterator[tuple[int, Step, str, str, int]]:
        """Yield (number, step, reason, detail, failed attempts) of every rejected conversation, in seed order."""
        for number, position, reason, detail, failed in self._connection.execute(queries.REJECTED_CONVERSATIONS):
            yield number, Step.at(position), reason, detail or "", failed

    def conversation_states(self, first: int, last: int) -> list[ConversationState]:
        """List where the conversations with number `first` to `last` stand, in seed order."""
        rows = self._connection.execute(queries.CONVERSATION_STATES, {"first": first, "last": last})
        return list(map(ConversationState._make, rows))

    # ---- the audit

    def judged(self, numbers: Sequence[int]) -> Iterator[Conversation]:
        """Yield the dialogue of each judgement, which must ascend, up to the turn that it judges, under its number."""
        for conversation, same in groupby(numbers, conversation_of):
            turns = next(self._range(conversation, conversation)).turns
            for number in same:
                yield Conversation(number, turns[: Judgement.at(number).round])

    def judgements(self) -> list[int]:
        """List the numbers of all judgements that were entered, in order."""
        return list(chain.from_iterable(self._connection.execute(queries.JUDGEMENTS)))

    def verdicts(self) -> Iterator[tuple[int, str, str]]:
        """Yield (number of the judgement, its text, the model that wrote it), in order."""
        for text_id, text, model in self._connection.execute(queries.VERDICTS):
            yield text_id // TEXT_IDS, text, model
