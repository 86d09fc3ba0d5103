"""Test how much memory the report needs per conversation. A run may have a million of them."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchgen.core.dialogue import Conversation, Turn
from batchgen.dataset.quality import near_duplicates
from batchgen.ledger.rows import BATCH_COLUMNS, Batch, ConversationState
from batchgen.reports.html import conversations, facts
from batchgen.reports.html.conversations import LoadedConversation, TextStatistics, read_texts
from batchgen.runtime import worker_process
from batchgen.runtime.files import Layout

BYTES_MORE = 32  # per conversation; a number in a list takes 40 bytes, an entry of a dict 100 or more


class Alike:
    """A store of conversations that all have a flag; every second one is a copy of the previous one."""

    def __init__(self, conversations: int) -> None:
        self._numbers = range(1, conversations + 1)

    def conversation_states(self, first: int, last: int) -> list[ConversationState]:
        empty: dict[str, Any] = dict.fromkeys(ConversationState._fields)
        return [
            ConversationState(**{**empty, "number": n, "position": 3, "failed_attempts": 0})
            for n in self._numbers[first - 1 : last]
        ]

    @property
    def dialogues(self) -> Alike:
        return self

    def verdicts(self) -> Iterator[tuple[int, str, str]]:
        yield from ()

    def read(self, numbers: Sequence[int]) -> Iterator[Conversation]:
        for number in numbers:
            about = number - number % 2
            words = " ".join(f"{about * at % 9973:x}" for at in range(40, 60))
            yield Conversation(number, (Turn(f"And {words}?", "I cannot answer that.", "I cannot answer that."),))


def looked_at(conversations: int) -> TextStatistics:
    session: Any = SimpleNamespace(
        settings=SimpleNamespace(rounds=1),
        conversations=conversations,
        store=Alike(conversations),
        layout=Layout(Path("no such run")),
        names=lambda: SimpleNamespace(id=str),
    )
    found = read_texts(session, 5)
    assert found.complete == found.flagged == conversations
    assert found.labels["near_duplicate", 1] >= conversations // 2 - 1
    return found


def held() -> int:
    """Bytes of Python objects that are still in use."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("tracing")
@pytest.mark.slow
def test_a_report_remembers_nothing_of_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    at_the_ends: list[int] = []

    def ranges(session: Any) -> Iterator[list[LoadedConversation]]:
        yield from every(session)
        at_the_ends.append(held())

    every = conversations.read_ranges
    monkeypatch.setattr(conversations, "read_ranges", ranges)
    monkeypatch.setattr(worker_process, "_cpu_count", lambda: 1)  # run everything in this process
    monkeypatch.setattr(conversations, "RANGE", 50)
    monkeypatch.setattr(near_duplicates, "CACHED_SIGNATURES", 20)
    few, many = 200, 600
    for count in (100, few, many):  # the first one includes imports and compilation
        looked_at(count)
    first, second, third, fourth = at_the_ends[2:]  # two passes per count
    assert third - first < BYTES_MORE * (many - few)
    assert fourth - second < BYTES_MORE * (many - few)


@pytest.mark.usefixtures("tracing")
@pytest.mark.slow
def test_a_report_remembers_few_numbers_of_a_batch() -> None:
    nothing: dict[str, Any] = {**dict.fromkeys(BATCH_COLUMNS), "follow_up": 0, "replies_with_thoughts": 0}

    def seen(count: int) -> int:
        ledger = facts._LedgerTotals(9e9)
        for n in range(count):
            times = {"submitted_at": 1e9 + n, "started_at": 1e9 + n + 5.5, "ended_at": 2e9 + n}
            row = {"batch": n, "position": 3 + n % 6, "requests": 9, "state": "collected", "model": "m"}
            ledger.learn(Batch.from_row(list({**nothing, **times, **row}.values())))
        assert ledger.batches == count
        return held()

    assert seen(4000) - seen(1000) < 100 * 3000
