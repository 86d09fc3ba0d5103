"""The store, the only truth of a run: conversations and texts, batches and money, and every change to them.

Each change is one transaction, and no network call happens inside one. Every query is a named constant, so that a test
can hold each to its index.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from batchgen.core.dialogue import ID_DIGITS, STAGES, Step, Turn
from batchgen.core.outcomes import POLICY, Reason, Usage
from batchgen.ledger import queries
from batchgen.ledger.connection import Database
from batchgen.ledger.dialogues import Dialogues
from batchgen.ledger.migrations import TABLES, TEXT_IDS
from batchgen.ledger.rows import (
    Batch,
    BatchIdentity,
    BatchPlan,
    BatchState,
    BatchSummary,
    ConversationState,
    Hold,
    ReadyConversation,
    ReclaimedConversations,
    RequestOutcome,
    consecutive_ranges,
)
from batchgen.ledger.totals import Totals

ROWS_AT_ONCE = 300  # three values each: SQLite before 3.32 takes 999 a statement
FIRST_POSITION = len(STAGES)  # round 1 is the seed: a new conversation is at the question of round 2


class Store(Database):
    """An open store. Writers hold the root's lock; `status` reads beside them.

    `dialogues` reads texts, `totals` adds up; whatever changes anything is a method here.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.dialogues = Dialogues(connection)
        self.totals = Totals(connection)

    # ---- what a run is

    def fact(self, key: str) -> str | None:
        row = self._connection.execute("SELECT value FROM run_facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_fact(self, key: str, value: str) -> None:
        """Learn a fact; one write only when it is new."""
        if self.fact(key) != value:
            self._connection.execute("INSERT OR REPLACE INTO run_facts VALUES (?, ?)", (key, value))

    def forget_fact(self, key: str) -> None:
        self._connection.execute("DELETE FROM run_facts WHERE key = ?", (key,))

    def replace_seeds(self, seeds: Iterable[Turn], meta: Mapping[str, str]) -> int:
        """Fill an unpaid store with round 1, in place of whatever it held. Returns the number of conversations."""
        with self.transaction():
            for table in TABLES:
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the schema
            number = 0
            for number, seed in enumerate(seeds, start=1):
                self._connection.execute(
                    "INSERT INTO conversations (number, position) VALUES (?, ?)", (number, FIRST_POSITION)
                )
                places = range(number * TEXT_IDS, number * TEXT_IDS + len(STAGES))
                self._connection.executemany(
                    "INSERT INTO texts (text_id, text) VALUES (?, ?)", zip(places, seed, strict=True)
                )
            facts = {**meta, "conversations": str(number), "id_digits": str(max(ID_DIGITS, len(str(number))))}
            self._connection.executemany("INSERT INTO run_facts VALUES (?, ?)", facts.items())
            self._mark_outdated("round1", "rejected", "receipt")
        return number

    def has_paid(self) -> bool:
        """Whether a create call was ever intended: from then on the store holds what money bought."""
        return (
            self._connection.execute("SELECT 1 FROM batches WHERE intent_at IS NOT NULL LIMIT 1").fetchone() is not None
        )

    # ---- conversations

    def ready_attempts(self, step: Step) -> list[int]:
        """The attempt numbers that conversations ready for `step` have behind them."""
        return [attempt for (attempt,) in self._connection.execute(queries.READY_ATTEMPTS, {"position": step.position})]

    def ready(self, step: Step, attempt: int, *, after: int, limit: int) -> list[ReadyConversation]:
        """The next conversations ready for `step`, in seed order."""
        query = {"position": step.position, "attempt": attempt, "after": after, "limit": limit}
        return list(map(ReadyConversation._make, self._connection.execute(queries.READY, query)))

    def held(self, batch: int) -> list[ReadyConversation]:
        """The conversations that a live batch holds, in seed order."""
        return list(map(ReadyConversation._make, self._connection.execute(queries.HELD, {"batch": batch})))

    def held_numbers(self, batch: int) -> list[int]:
        """Their numbers alone."""
        return list(chain.from_iterable(self._connection.execute(queries.HELD_NUMBERS, {"batch": batch})))

    def rejected_conversations(self) -> Iterator[tuple[int, Step, str, str, int]]:
        """(number, step, reason, detail, attempts) of every rejected conversation, in seed order."""
        for number, at, reason, detail, attempts in self._connection.execute(queries.REJECTED_CONVERSATIONS):
            yield number, Step.at(at), reason, detail or "", attempts

    def conversation_states(self, first: int, last: int) -> list[ConversationState]:
        """Where conversations number `first` to `last` stand, in seed order."""
        return [
            ConversationState(*row)
            for row in self._connection.execute(queries.CONVERSATION_STATES, {"first": first, "last": last})
        ]

    # ---- the ledger

    def plan(
        self,
        identity: BatchIdentity,
        plan: BatchPlan,
        rows: Sequence[ReadyConversation],
        *,
        number: int | None = None,
    ) -> Batch:
        """Enter a batch whose file is durable, and give it its conversations. `number`: its own, if it has one."""
        columns = {"batch": number, **identity._asdict(), **plan._asdict(), "state": BatchState.PLANNED}
        with self.transaction():
            marks = ", ".join("?" * len(columns))
            cursor = self._connection.execute(
                f"INSERT INTO batches ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608 - column names only
                tuple(columns.values()),
            )
            batch = cursor.lastrowid
            claim = {"batch": batch, "attempt": identity.attempt, "position": identity.position}
            ranges = consecutive_ranges([row.number for row in rows])
            claimed = self._connection.executemany(
                queries.CLAIM, [{**claim, "first": first, "last": last} for first, last in ranges]
            )
            if claimed.rowcount != len(rows):
                raise AssertionError("a conversation was to be bought twice")
        return self.batch(int(batch or 0))

    def undo_rejections(self, numbers: Sequence[int], position: int) -> None:
        """Undo the rejection of conversations that were asked again later (by `retry`)."""
        self._connection.executemany(
            queries.UNDO_REJECTION,
            [(number, position) for number in numbers],
        )

    def next_batch(self) -> int:
        """The number the next batch will have."""
        (last,) = self._connection.execute(queries.LAST_BATCH).fetchone()
        return int(last) + 1

    def batch(self, batch: int) -> Batch:
        row = self._connection.execute(
            f"SELECT {queries.BATCH_COLUMNS} FROM batches WHERE batch = ?",  # noqa: S608 - column names only
            (batch,),
        ).fetchone()
        return Batch.from_row(row)

    def batches(self, *states: BatchState) -> list[Batch]:
        """The batches in any of `states` (none named: all), in the order they were planned."""
        if not states:
            return [Batch.from_row(row) for row in self._connection.execute(queries.ALL_BATCHES)]
        found = [
            Batch.from_row(row) for state in states for row in self._connection.execute(queries.LIVE, {"state": state})
        ]
        return sorted(found)

    def ledger(self) -> Iterator[Batch]:
        """Every batch, one at a time, in the order they were planned."""
        return map(Batch.from_row, self._connection.execute(queries.ALL_BATCHES))

    def batch_summaries(self, *states: BatchState) -> list[BatchSummary]:
        """The same batches, as far as `status` speaks of them."""
        if not states:
            return list(map(BatchSummary._make, self._connection.execute(queries.ALL_BATCH_SUMMARIES)))
        rows = (row for state in states for row in self._connection.execute(queries.BATCH_SUMMARIES, {"state": state}))
        return sorted(map(BatchSummary._make, rows))

    def update(self, batch: Batch, **changes: float | str | None) -> Batch:
        """Change a batch's row, durably, and return it. Nothing is written when nothing changes."""
        before = batch.columns()
        changes = {name: value for name, value in changes.items() if before[name] != value}
        if changes:
            assignments = ", ".join(f"{name} = :{name}" for name in changes)
            self._connection.execute(
                f"UPDATE batches SET {assignments} WHERE batch = :batch",  # noqa: S608 - column names only
                {**changes, "batch": batch.number},
            )
        return batch.changed(changes)

    def intend(self, batches: Sequence[Batch], now: float) -> list[Batch]:
        """Note that `batches` are about to be created, durably and all of them or none, before anything is sent."""
        with self.transaction():
            return [
                self.update(
                    batch,
                    state=BatchState.CREATING,
                    intent_at=now,
                    empty_listings=0,
                    first_empty_listing_at=None,
                    error=None,
                )
                for batch in batches
            ]

    def release(
        self,
        batch: Batch,
        state: BatchState,
        *,
        error: str,
        refused: Mapping[int, str] | None = None,
        late_results_until: float | None = None,
    ) -> None:
        """A batch that bought nothing: its conversations are ready again, but for the `refused` (number -> why).

        `late_results_until`: till then it may turn out to have bought something after all.
        """
        refused = refused or {}
        with self.transaction():
            self.update(batch, state=state, error=error, late_results_until=late_results_until)
            rows = self.held(batch.number)
            self._fail(
                batch,
                [
                    (row, Reason.INVALID_REQUEST, refused[row.number])
                    if row.number in refused
                    else (row, Reason.NOT_SENT, "")
                    for row in rows
                ],
                max_attempts=1,
            )

    def awaiting_late_results(self, now: float) -> list[Batch]:
        """The ended batches whose results may come after all."""
        return [Batch.from_row(row) for row in self._connection.execute(queries.AWAITING_LATE_RESULTS, {"now": now})]

    def reclaim_for_late_results(self, batch: Batch) -> ReclaimedConversations:
        """Let an ended batch without results hold those of its conversations that still lack its text, whoever holds
        them meanwhile. `give_back` says which of them stay, within the same transaction.
        """
        ended = {n: Reason(name) for n, name in self._connection.execute(queries.FAILURES_OF, {"batch": batch.number})}
        holders = dict[int, int | None]()
        for number in ended:
            its = {"batch": batch.number, "number": number, "position": batch.position}
            for (holder,) in self._connection.execute(queries.LACKING_TEXT, its).fetchall():
                holders[number] = holder
                self._connection.execute(queries.SET_HOLDER, its)
        return ReclaimedConversations(ended, holders)

    def return_reclaimed(self, batch: Batch, holders: Mapping[int, int | None], *, but: Collection[int]) -> list[Batch]:
        """Return reclaimed conversations to their holders, but for those whose text this batch has brought.

        What was booked for it is forgotten: it is settled anew.

        Returns the batches that those were taken from, which ask for so many fewer from now on.
        """
        for number, holder in holders.items():
            if number in but:
                self._connection.execute(queries.CLEAR_REJECTION, {"number": number})
            else:
                self._connection.execute(queries.SET_HOLDER, {"number": number, "batch": holder})
        self._connection.execute(queries.FORGET_FAILURES, {"batch": batch.number})
        self._connection.execute("DELETE FROM outcomes WHERE batch = ?", (batch.number,))
        self._mark_outdated("rejected")
        taken = Counter(holder for number, holder in holders.items() if number in but and holder is not None)
        fewer = [(self.batch(holder), count) for holder, count in sorted(taken.items())]
        return [self.update(holder, requests=holder.requests - count) for holder, count in fewer]

    def failed_numbers(self, batch: Batch) -> list[int]:
        """The conversations that an ended batch brought no text for, in seed order."""
        return [number for number, _ in self._connection.execute(queries.FAILURES_OF, {"batch": batch.number})]

    def release_conversations(
        self, batch: Batch, gone: Mapping[int, Reason], detail: str, *, max_attempts: int
    ) -> None:
        """Make some of a batch's conversations ready again, before it is settled; the reason counts as a failure."""
        if gone:
            with self.transaction():
                rows = [row for row in self.held(batch.number) if row.number in gone]
                self._fail(batch, [(row, gone[row.number], detail) for row in rows], max_attempts=max_attempts)

    def reject(self, row: ReadyConversation, reason: Reason, detail: str) -> None:
        """Leave a conversation behind that can never be asked for."""
        with self.transaction():
            self._connection.execute(
                queries.REJECT,
                (reason, detail, row.number, row.position),
            )
            self._mark_outdated("rejected")

    def settle(
        self,
        batch: Batch,
        settled: Sequence[RequestOutcome],
        usages: Mapping[Reason, tuple[int, Usage, float | None]],
        *,
        state: BatchState = BatchState.COLLECTED,
        max_attempts: int,
        **changes: float | str | None,
    ) -> None:
        """Book a whole result file: texts, failures, tokens and money, and the batch's end, or nothing of it.

        `settled` has one entry for every conversation the batch holds; `usages` maps a reason to (requests, tokens,
        USD).
        """
        accepted = [one for one in settled if one.reason is Reason.ACCEPTED]
        failed: list[tuple[ReadyConversation, Reason, str]] = []
        if len(accepted) < len(settled):
            rows = {row.number: row for row in self.held(batch.number)}
            failed = [
                (rows[one.number], one.reason, one.detail) for one in settled if one.reason is not Reason.ACCEPTED
            ]
        with self.transaction():
            self._advance(batch, accepted)
            self._fail(batch, failed, max_attempts=max_attempts)
            self._connection.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(batch.number, reason, count, *usage, usd) for reason, (count, usage, usd) in usages.items()],
            )
            ended = {
                "late_results_until": None,
                "incomplete_downloads": 0,
                "replies_with_thoughts": sum(one.had_thoughts for one in accepted),
            }
            self.update(batch, state=state, **{**ended, **changes})
            self._mark_outdated("receipt")

    def _advance(self, batch: Batch, accepted: Sequence[RequestOutcome]) -> None:
        self._add_texts([(one.number * TEXT_IDS + batch.position, batch.number, one.text) for one in accepted])
        if batch.plan.follow_up:
            self._add_texts(
                [(one.number * TEXT_IDS + batch.position + 1, batch.number, one.follow_up) for one in accepted]
            )
        to = {"position": batch.position + batch.texts, "batch": batch.number}
        moved = self._connection.executemany(
            queries.ADVANCE,
            [
                {**to, "first": first, "last": last}
                for first, last in consecutive_ranges(sorted(one.number for one in accepted))
            ],
        )
        if accepted and moved.rowcount != len(accepted):
            raise AssertionError("a text was accepted for a conversation that its batch does not hold")
        if accepted and batch.step.stage is STAGES[-1]:
            self._mark_outdated(f"round{batch.step.round}")

    def _add_texts(self, rows: Sequence[tuple[int, int, str]]) -> None:
        """Enter (text_id, batch, text), many rows a statement."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            values = ", ".join(["(?, ?, ?)"] * len(some))
            self._connection.execute(f"INSERT INTO texts VALUES {values}", list(chain.from_iterable(some)))  # noqa: S608

    def _fail(
        self, batch: Batch, failed: Sequence[tuple[ReadyConversation, Reason, str]], *, max_attempts: int
    ) -> None:
        changes = []
        for row, reason, detail in failed:
            verdict = POLICY[reason]
            failed_attempts = row.failed_attempts + verdict.counts
            final = not verdict.again or (failed_attempts >= max_attempts and verdict.counts)
            why = (reason, detail) if final else (None, None)
            changes.append((failed_attempts, row.token_doublings + verdict.larger, *why, row.number, batch.number))
        self._connection.executemany(
            queries.FAIL,
            changes,
        )
        self._connection.executemany(
            "INSERT INTO failures VALUES (?, ?, ?, ?)",
            [(batch.number, row.number, reason, detail) for row, reason, detail in failed],
        )
        if any(change[2] for change in changes):
            self._mark_outdated("rejected")

    def make_ready(self, positions: Sequence[int], reason: str | None) -> int:
        """Make conversations rejected at `positions` ready again, with all their attempts before them."""
        with self.transaction():
            changed = sum(
                self._connection.execute(queries.MAKE_READY, {"position": position, "reason": reason}).rowcount
                for position in positions
            )
            if changed:
                self._mark_outdated("rejected")
        return changed

    # ---- what is held back

    def holds(self) -> dict[str, Hold]:
        """What is held back and why, by scope."""
        return {row[0]: Hold(*row) for row in self._connection.execute(queries.HOLDS)}

    def hold(self, hold: Hold) -> None:
        if self.holds().get(hold.scope) != hold:
            self._connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?)", hold)

    def end_hold(self, scope: str) -> None:
        if scope in self.holds():
            self._connection.execute("DELETE FROM holds WHERE scope = ?", (scope,))

    # ---- derived files

    def outdated_files(self) -> dict[str, float | None]:
        """Derived files that are older than the store, and since when their writing is put off."""
        return dict(self._connection.execute(queries.OUTDATED_FILES))

    def put_off(self, file: str, now: float) -> None:
        """Note that a stale file was left as it is."""
        self._connection.execute(
            "UPDATE outdated_files SET put_off_since = ? WHERE file = ? AND put_off_since IS NULL", (now, file)
        )

    def mark_up_to_date(self, file: str) -> None:
        self._connection.execute("DELETE FROM outdated_files WHERE file = ?", (file,))

    def _mark_outdated(self, *files: str) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO outdated_files (file) VALUES (?)", [(file,) for file in files]
        )
