"""Test that each query of the store uses an index, so that its cost depends on its result and not on the run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen.core.dialogue import Stage, Step, Turn
from batchgen.ledger import queries
from batchgen.ledger.rows import BatchIdentity, BatchPlan
from batchgen.ledger.status import status
from batchgen.ledger.store import Store
from batchgen.runtime.settings import Settings

QUERIES = {
    name: text
    for name, text in vars(queries).items()
    if isinstance(text, str) and text.startswith(("SELECT", "UPDATE", "WITH"))
}
PRIMARY = "INTEGER PRIMARY KEY"
# query -> the index it must use. `rowid` ranges are the primary key of conversations and of texts.
INDEX = {
    "READY_ATTEMPTS": "INDEX ready",
    "PENDING_RETRIES": "INDEX ready",
    "READY_CONVERSATIONS": "INDEX ready",
    "READY_TEXTS": "INDEX ready",
    "CLAIM": PRIMARY,
    "HELD_CONVERSATIONS": "INDEX held",
    "HELD_NUMBERS": "COVERING INDEX held",
    "HELD_TEXTS": "COVERING INDEX held",
    "ADVANCE": "COVERING INDEX held",
    "RECORD_FAILURE": PRIMARY,
    "REJECT": PRIMARY,
    "UNDO_REJECTION": PRIMARY,
    "TEXTS": PRIMARY,
    "SOURCE_BATCHES": PRIMARY,
    "TEXTS_FROM_BATCH": "INDEX provenance",
    "JUDGEMENTS": PRIMARY,
    "VERDICTS": PRIMARY,
    "COMPLETED_UP_TO": PRIMARY,
    "CONVERSATION_STATES": PRIMARY,
    "COMPLETED_TEXTS": PRIMARY,
    "REJECTED_AT": "INDEX left_behind",
    "REJECTION_REASONS": "INDEX left_behind",
    "MAKE_READY": "INDEX left_behind",
    "BATCH": PRIMARY,
    "BATCHES_IN_STATE": "INDEX by_state",
    "AWAITING_LATE_RESULTS": "INDEX awaited",
    "LACKING_TEXT": PRIMARY,
    "SET_HOLDER": PRIMARY,
    "CLEAR_REJECTION": PRIMARY,
    "FAILURES_OF": "PRIMARY KEY",
    "BATCH_SUMMARIES": "INDEX by_state",
    "ENQUEUED": "INDEX by_state",
    "ACCEPTED_AT": "PRIMARY KEY",
    "OUTPUT_OF_ACCEPTED": "PRIMARY KEY",
}
# These read only rejected conversations, whose number is limited by max_rejected_share.
REJECTED_COUNT = {"REJECTED_CONVERSATIONS", "REJECTED_BY_POSITION", "REJECTED_COUNT"}
# These read the ledger, one row per batch or a few rows of outcomes, but no conversations.
LEDGER = {
    *(
        "ALL_BATCHES",
        "ALL_BATCH_SUMMARIES",
        "LAST_BATCH",
        "BATCH_TOTALS",
        "ESTIMATED_BY_POSITION",
        "ESTIMATED_AND_RESERVED_USD",
    ),
    *("RESERVED_WITHOUT_PRICE", "OUTDATED_FILES", "HOLDS"),
}
# These read the usage totals: a few rows per step and model in a run of any size.
ADDED_UP = {"ACCEPTED_BY_POSITION", "USAGE_TOTALS"}
BIG = re.compile(r"SCAN (conversations|texts|c|t)\b(?! USING (COVERING )?INDEX left_behind)")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store.sqlite")
    opened.replace_seeds([Turn("q", "a", "c")] * 3, {"run": "beef", "prepared": ""})
    yield opened
    opened.close()


def plan(store: Store, query: str) -> list[str]:
    names = re.findall(r":(\w+)", query)
    values: dict[str, int] | list[int] = dict.fromkeys(names, 1) if names else [1] * query.count("?")
    return [step[3] for step in store._connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]


def test_every_query_is_spoken_for() -> None:
    assert {*INDEX, *REJECTED_COUNT, *LEDGER, *ADDED_UP} == set(QUERIES)


@pytest.mark.parametrize("name", INDEX)
def test_a_query_uses_its_index(name: str, store: Store) -> None:
    steps = plan(store, QUERIES[name])
    assert any(step.startswith("SEARCH") and INDEX[name] in step for step in steps), steps


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_all_conversations_or_texts(name: str, store: Store) -> None:
    steps = plan(store, QUERIES[name])
    assert [step for step in steps if BIG.search(step)] == []
    assert not any("AUTOMATIC" in step for step in steps)


@pytest.mark.parametrize("name", sorted(LEDGER))
def test_the_ledger_s_queries_know_no_conversation(name: str) -> None:
    assert not re.search(r"\b(conversations|texts)\b", QUERIES[name])


@pytest.mark.parametrize("name", sorted(ADDED_UP))
def test_what_was_accepted_and_billed_is_not_added_up_anew(name: str) -> None:
    assert re.findall(r"(?:FROM|JOIN) (\w+)", QUERIES[name]) == ["usage_totals"]


@pytest.mark.parametrize("name", ["BATCH_TOTALS", "ESTIMATED_AND_RESERVED_USD"])
def test_totals_of_the_ledger_are_added_up_from_an_index_alone(name: str, store: Store) -> None:
    steps = plan(store, QUERIES[name])
    assert any("USING COVERING INDEX" in step for step in steps if step.startswith("SCAN")), steps
    assert not any(step.startswith("SCAN") and "COVERING" not in step for step in steps), steps


def test_queries_elsewhere_in_the_store_name_one_row() -> None:
    """Other queries change single rows, or all rows when a run is prepared."""
    names = ("store.py", "totals.py", "dialogues.py", "connection.py")
    modules = [Path(queries.__file__).with_name(name) for name in names]
    sources = [module.read_text("utf-8") for module in modules]
    assert [source for source in sources if re.search(r"(FROM|UPDATE) (conversations|texts)\b", source)] == []


def test_attempts_are_found_one_by_one(store: Store) -> None:
    step = Step(2, Stage.QUESTION)
    assert store.ready_attempts(step) == [0]
    store._connection.execute("UPDATE conversations SET attempt = number * 2 WHERE number > 1")
    assert store.ready_attempts(step) == [0, 4, 6]
    assert store.totals.pending_retries(step) == 2
    store._connection.execute("UPDATE conversations SET reason = 'empty' WHERE number = 2")
    assert store.ready_attempts(step) == [0, 6]
    assert store.ready_attempts(Step(2, Stage.ANSWER)) == []
    assert store.totals.settled_at(step.position) == (0, 1)
    assert store.totals.rejected() == 1


def test_a_status_reads_the_whole_ledger_only_when_it_is_asked_to(store: Store) -> None:
    step = Step(2, Stage.QUESTION)
    for number, name in enumerate(["old", "new"], start=1):
        rows = store.ready(step, 0, after=number - 1, limit=1)
        identity = BatchIdentity(name, step.position, 1, "gemini", "m")
        plan = BatchPlan(1, 9, "", 1, 1, 0.5, 0.5, planned_at=100.0)
        batch = store.plan(identity, plan, rows)
        if name == "old":
            store.settle(batch, {}, {}, max_attempts=3)
    seen: list[str] = []
    store._connection.set_trace_callback(seen.append)
    short = status(store, Settings(), 160.0)
    assert not any("FROM batches ORDER BY" in statement for statement in seen)
    assert [(batch["batch"], batch["state"], batch["age_seconds"]) for batch in short["batches"]] == [
        ("new", "planned", 60)
    ]
    whole = status(store, Settings(), 160.0, ended=True)
    assert [batch["batch"] for batch in whole["batches"]] == ["old", "new"]
    assert whole["batches"][1:] == short["batches"]
    assert {**whole, "batches": []} == {**short, "batches": []}
