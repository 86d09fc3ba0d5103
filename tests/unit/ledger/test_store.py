"""Test what the store refuses, accepts and returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchgen.core.dialogue import Stage, Step, Turn
from batchgen.core.outcomes import Reason, Reply
from batchgen.engine.settlement import settle
from batchgen.engine.settlement.swap_detection import COMPARED_CHARACTERS
from batchgen.ledger.rows import Batch, BatchIdentity, BatchPlan, BatchState, Hold
from batchgen.ledger.store import Store

QUESTION = Step(2, Stage.QUESTION)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store.sqlite")
    opened.replace_seeds([Turn("q", "a", "c")] * 4, {"run": "beef", "prepared": ""})
    yield opened
    opened.close()


def planned(store: Store, name: str, attempt: int = 0, *, conversations: int = 2) -> Batch:
    rows = store.ready(QUESTION, attempt, after=0, limit=conversations)
    identity = BatchIdentity(name, QUESTION.position, attempt + 1, "gemini", "m")
    plan = BatchPlan(len(rows), 9, "", 1, 1, None, None, 0.0)
    return store.plan(identity, plan, rows)


def test_nobody_is_bought_twice(store: Store) -> None:
    """A plan with a conversation of another batch is not stored at all."""
    rows = store.ready(QUESTION, 0, after=0, limit=3)
    first = planned(store, "first")
    with pytest.raises(AssertionError, match="bought twice"):
        store.plan(
            BatchIdentity("second", QUESTION.position, 1, "gemini", "m"),
            BatchPlan(3, 9, "", 1, 1, None, None, 0.0),
            rows,
        )
    assert [batch.name for batch in store.batches()] == ["first"]
    assert store.held_numbers(first.number) == [1, 2]
    assert [row.number for row in store.ready(QUESTION, 0, after=0, limit=9)] == [3, 4]


def test_a_text_is_taken_only_for_whom_the_batch_holds(store: Store) -> None:
    """Otherwise a late result could replace an accepted text."""
    batch = planned(store, "first")
    settled = {number: Reply("", Reason.ACCEPTED, "text") for number in (1, 2, 3)}
    with pytest.raises(AssertionError, match="does not hold"):
        store.settle(batch, settled, {}, max_attempts=3)
    assert list(store.dialogues.texts_from_batch(batch)) == []
    assert store.batch(batch.number).state == BatchState.PLANNED


def test_of_a_long_dialogue_its_end_is_looked_at(store: Store) -> None:
    """A reply answers the last texts."""
    store.replace_seeds(
        [Turn(f"{number} " * COMPARED_CHARACTERS, "a", f"the end of {number}") for number in (1, 2)], {}
    )
    batch = planned(store, "first")
    session: Any = SimpleNamespace(store=store)
    found = settle._requests(session, batch, ["one", "two"], ["two", "nobody"])
    assert [(key, len(said)) for key, said in found.items()] == [
        ("one", COMPARED_CHARACTERS),
        ("two", COMPARED_CHARACTERS),
    ]
    assert [said[-14:] for said in found.values()] == ["a the end of 1", "a the end of 2"]


def test_what_bought_nothing_costs_nobody_an_attempt(store: Store) -> None:
    """A batch that was refused as a whole, after failed attempts: no conversation is rejected, at any limit."""
    batch = planned(store, "first")
    failed = {number: Reply("", Reason.EMPTY, detail="no text") for number in (1, 2)}
    store.settle(batch, failed, {}, max_attempts=3)
    again = planned(store, "again", 1)
    store.release(again, BatchState.REFUSED, error="no")
    assert [(row.number, row.failed_attempts) for row in store.ready(QUESTION, 2, after=0, limit=9)] == [(1, 1), (2, 1)]
    assert store.totals.rejected() == 0


def test_what_is_known_already_is_not_written_again(store: Store) -> None:
    """A tick that finds nothing new leaves the file as it is."""
    batch = planned(store, "first")
    store.holds.put(Hold("gemini/m", None, 1, "why"))
    store.set_fact("fact", "value")
    before = store._connection.total_changes
    store.holds.put(Hold("gemini/m", None, 1, "why"))
    store.set_fact("fact", "value")
    store.holds.end("gemini/other")
    store.update(batch, state=batch.state, error=None)
    assert store._connection.total_changes == before
    store.holds.put(Hold("gemini/m", None, 2, "why"))
    assert store._connection.total_changes == before + 1
