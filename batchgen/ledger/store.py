"""The store of a run: conversations, texts, batches and money, and every change to them.

Every other file under data/ is derived from the store and can be written again from it. Each change is one transaction,
and no network call happens inside one. Queries are named constants (queries.py), so that a test can check which index
each of them uses.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from batchgen.core.dialogue import ID_DIGITS, STAGES, Stage, Step, Turn, audit_steps, steps
from batchgen.core.outcomes import POLICY, Reason, Reply, Usage
from batchgen.ledger import queries
from batchgen.ledger.connection import Database
from batchgen.ledger.dialogues import Dialogues
from batchgen.ledger.holds import Holds
from batchgen.ledger.migrations import TABLES, TEXT_IDS
from batchgen.ledger.rows import (
    AUDIT_FACT,
    Batch,
    BatchIdentity,
    BatchPlan,
    BatchState,
    BatchSummary,
    ReadyConversation,
    ReclaimedConversations,
    consecutive_ranges,
)
from batchgen.ledger.totals import Totals

ROWS_PER_INSERT = 300  # three values each: SQLite before 3.32 allows 999 values in a statement
FIRST_GENERATED_POSITION = len(STAGES)  # round 1 is the seed: a new conversation is at the question of round 2


class Store(Database):
    """An open store. A process that writes must hold the lock of the root; readers need no lock.

    `dialogues` reads texts, `totals` adds up, `holds` has what is not submitted now. Everything else is a method here.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.dialogues = Dialogues(connection)
        self.totals = Totals(connection)
        self.holds = Holds(connection)

    # ---- facts of the run

    def fact(self, key: str) -> str | None:
        """Read one fact of the run, None if it is not known."""
        row = self._connection.execute("SELECT value FROM run_facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_fact(self, key: str, value: str) -> None:
        """Store a fact of the run. Writes only if it is new."""
        if self.fact(key) != value:
            self._connection.execute("INSERT OR REPLACE INTO run_facts VALUES (?, ?)", (key, value))

    def delete_fact(self, key: str) -> None:
        """Delete a fact of the run, if it exists."""
        self._connection.execute("DELETE FROM run_facts WHERE key = ?", (key,))

    def bought_steps(self, rounds: int) -> list[Step]:
        """List what a run of `rounds` rounds buys: its steps, then the audit of each round, if an audit was begun."""
        return [*steps(rounds), *(audit_steps(rounds) if self.fact(AUDIT_FACT) else ())]

    def replace_seeds(self, seeds: Iterable[Turn], facts: Mapping[str, str]) -> int:
        """Delete everything in the store and enter `seeds` as round 1. Returns the number of conversations.

        The caller makes sure that nothing was paid for yet (`has_paid`).
        """
        with self.transaction():
            for table in TABLES:
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the schema
            number = 0
            for number, seed in enumerate(seeds, start=1):
                self._connection.execute(
                    "INSERT INTO conversations (number, position) VALUES (?, ?)", (number, FIRST_GENERATED_POSITION)
                )
                text_ids = range(number * TEXT_IDS, number * TEXT_IDS + len(STAGES))
                self._connection.executemany(
                    "INSERT INTO texts (text_id, text) VALUES (?, ?)", zip(text_ids, seed, strict=True)
                )
            counted = {"conversations": str(number), "id_digits": str(max(ID_DIGITS, len(str(number))))}
            self._connection.executemany("INSERT INTO run_facts VALUES (?, ?)", {**facts, **counted}.items())
            self._mark_outdated("round1", "rejected", "receipt")
        return number

    def has_paid(self) -> bool:
        """Whether an intent was ever stored. From then on, the store may hold texts that were paid for."""
        found = self._connection.execute("SELECT 1 FROM batches WHERE intent_at IS NOT NULL LIMIT 1").fetchone()
        return found is not None

    # ---- conversations

    def ready_attempts(self, step: Step) -> list[int]:
        """List the numbers of attempts that conversations ready for `step` have made there, each number once."""
        return [attempt for (attempt,) in self._connection.execute(queries.READY_ATTEMPTS, {"position": step.position})]

    def ready(self, step: Step, attempt: int, *, after: int, limit: int) -> list[ReadyConversation]:
        """List the next conversations that are ready for `step`, in seed order."""
        query = {"position": step.position, "attempt": attempt, "after": after, "limit": limit}
        return list(map(ReadyConversation._make, self._connection.execute(queries.READY_CONVERSATIONS, query)))

    def held_conversations(self, batch: int) -> list[ReadyConversation]:
        """List the conversations that a live batch holds, in seed order."""
        return list(
            map(ReadyConversation._make, self._connection.execute(queries.HELD_CONVERSATIONS, {"batch": batch}))
        )

    def held_numbers(self, batch: int) -> list[int]:
        """List the numbers of the conversations that a live batch holds, in seed order."""
        return list(chain.from_iterable(self._connection.execute(queries.HELD_NUMBERS, {"batch": batch})))

    def enter_judgements(self, numbers: Iterable[int], position: int) -> None:
        """Make judgements ready for the audit at `position`. Those that exist already are left as they are."""
        with self.transaction():
            self._connection.executemany(queries.ENTER_JUDGEMENT, [(number, position) for number in numbers])
            self._mark_outdated("audit")

    # ---- the ledger

    def plan(
        self,
        identity: BatchIdentity,
        plan: BatchPlan,
        rows: Sequence[ReadyConversation],
        *,
        number: int | None = None,
    ) -> Batch:
        """Enter a batch whose request file is on disk, and let it hold `rows`.

        `number` is its number in the ledger, by default the next free one. Raises AssertionError if one of `rows` is
        not ready, for example held by another batch: it would be bought twice.
        """
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
        """Make rejected conversations ready again. `rebuild` calls it for those that `retry` had made ready."""
        self._connection.executemany(queries.UNDO_REJECTION, [(number, position) for number in numbers])

    def next_batch_number(self) -> int:
        """Return the number that the next batch will have."""
        (last,) = self._connection.execute(queries.LAST_BATCH).fetchone()
        return int(last) + 1

    def batch(self, batch: int) -> Batch:
        """Read one batch by its number."""
        return Batch.from_row(self._connection.execute(queries.BATCH, {"batch": batch}).fetchone())

    def batches(self, *states: BatchState) -> list[Batch]:
        """List the batches in any of `states`, or all if none is given, in the order in which they were planned."""
        if not states:
            return list(self.each_batch())
        rows = (row for state in states for row in self._connection.execute(queries.BATCHES_IN_STATE, {"state": state}))
        return sorted(map(Batch.from_row, rows))

    def each_batch(self) -> Iterator[Batch]:
        """Yield every batch in the order in which they were planned; only one is in memory at a time."""
        return map(Batch.from_row, self._connection.execute(queries.ALL_BATCHES))

    def batch_summaries(self, *states: BatchState) -> list[BatchSummary]:
        """List what `status` shows of the batches in any of `states`, or of all if none is given."""
        if not states:
            return list(map(BatchSummary._make, self._connection.execute(queries.ALL_BATCH_SUMMARIES)))
        rows = (row for state in states for row in self._connection.execute(queries.BATCH_SUMMARIES, {"state": state}))
        return sorted(map(BatchSummary._make, rows))

    def update(self, batch: Batch, **changes: float | str | None) -> Batch:
        """Change columns of a batch, durably, and return the changed batch. Writes only if something changes."""
        before = batch.columns()
        changes = {name: value for name, value in changes.items() if before[name] != value}
        if changes:
            assignments = ", ".join(f"{name} = :{name}" for name in changes)
            self._connection.execute(
                f"UPDATE batches SET {assignments} WHERE batch = :batch",  # noqa: S608 - column names only
                {**changes, "batch": batch.number},
            )
        return batch.with_changes(changes)

    def record_intent(self, batch: Batch, now: float) -> Batch:
        """Store durably that the create call of `batch` is about to be made."""
        return self.update(
            batch,
            state=BatchState.CREATING,
            intent_at=now,
            empty_listings=0,
            first_empty_listing_at=None,
            error=None,
        )

    def release(
        self,
        batch: Batch,
        state: BatchState,
        *,
        error: str,
        refused: Mapping[int, str] | None = None,
        late_results_until: float | None = None,
    ) -> None:
        """End a batch that bought nothing. Its conversations become ready again.

        The `refused` ones (number to detail) are rejected. The batch may have bought something after all: until
        `late_results_until` its results may come.
        """
        refused = refused or {}
        with self.transaction():
            self.update(batch, state=state, error=error, late_results_until=late_results_until)
            rows = self.held_conversations(batch.number)
            failed = [(row, Reason.NOT_SENT, "") for row in rows if row.number not in refused]
            failed += [(row, Reason.INVALID_REQUEST, refused[row.number]) for row in rows if row.number in refused]
            self._record_failures(batch, failed, max_attempts=1)

    def awaiting_late_results(self, now: float) -> list[Batch]:
        """List the batches that ended without results and may still get some at the time `now`."""
        return [Batch.from_row(row) for row in self._connection.execute(queries.AWAITING_LATE_RESULTS, {"now": now})]

    def reclaim_for_late_results(self, batch: Batch) -> ReclaimedConversations:
        """Let a batch that ended without results hold those of its conversations again that still lack its text.

        It takes them even from another batch. Call `return_reclaimed` in the same transaction.
        """
        ended = {n: Reason(name) for n, name in self._connection.execute(queries.FAILURES_OF, {"batch": batch.number})}
        holders = dict[int, int | None]()
        for number in ended:
            row = {"batch": batch.number, "number": number, "position": batch.position}
            for (holder,) in self._connection.execute(queries.LACKING_TEXT, row).fetchall():
                holders[number] = holder
                self._connection.execute(queries.SET_HOLDER, row)
        return ReclaimedConversations(ended, holders)

    def return_reclaimed(self, batch: Batch, holders: Mapping[int, int | None], *, but: Collection[int]) -> list[Batch]:
        """Return reclaimed conversations to their `holders`, except those whose text `batch` has brought (`but`).

        The outcomes and failures of `batch` are deleted, because it will be settled again. Returns the batches that
        lost conversations to it, with fewer `requests`.
        """
        for number, holder in holders.items():
            if number in but:
                self._connection.execute(queries.CLEAR_REJECTION, {"number": number})
            else:
                self._connection.execute(queries.SET_HOLDER, {"number": number, "batch": holder})
        self._connection.execute(queries.DELETE_FAILURES, {"batch": batch.number})
        self._connection.execute("DELETE FROM outcomes WHERE batch = ?", (batch.number,))
        self._mark_outdated("rejected")
        taken = Counter(holder for number, holder in holders.items() if number in but and holder is not None)
        fewer = [(self.batch(holder), count) for holder, count in sorted(taken.items())]
        return [self.update(holder, requests=holder.requests - count) for holder, count in fewer]

    def failed_numbers(self, batch: Batch) -> list[int]:
        """List the conversations for which an ended batch brought no text, in seed order."""
        return [number for number, _ in self._connection.execute(queries.FAILURES_OF, {"batch": batch.number})]

    def release_conversations(
        self, batch: Batch, gone: Mapping[int, Reason], detail: str, *, max_attempts: int
    ) -> None:
        """Make the conversations `gone` (number to reason) of a batch ready again before the batch is settled.

        The reason counts as a failure.
        """
        if gone:
            with self.transaction():
                rows = [row for row in self.held_conversations(batch.number) if row.number in gone]
                self._record_failures(
                    batch, [(row, gone[row.number], detail) for row in rows], max_attempts=max_attempts
                )

    def reject(self, row: ReadyConversation, reason: Reason, detail: str) -> None:
        """Reject a conversation for which no request can be sent."""
        with self.transaction():
            self._connection.execute(queries.REJECT, (reason, detail, row.number, row.position))
            self._mark_outdated("rejected")

    def settle(
        self,
        batch: Batch,
        settled: Mapping[int, Reply],
        usages: Mapping[Reason, tuple[int, Usage, float | None]],
        *,
        state: BatchState = BatchState.COLLECTED,
        max_attempts: int,
        **changes: float | str | None,
    ) -> None:
        """Enter all results of a batch in one transaction: texts, failures, tokens, money, and the batch's end.

        `settled` maps each conversation that the batch holds to its reply, in seed order. `usages` maps a reason to
        (requests, tokens, USD).
        """
        accepted = {number: reply for number, reply in settled.items() if reply.reason is Reason.ACCEPTED}
        failed: list[tuple[ReadyConversation, Reason, str]] = []
        if len(accepted) < len(settled):
            rows = [row for row in self.held_conversations(batch.number) if row.number not in accepted]
            failed = [(row, settled[row.number].reason, settled[row.number].detail) for row in rows]
        with self.transaction():
            self._advance_conversations(batch, accepted)
            self._record_failures(batch, failed, max_attempts=max_attempts)
            self._connection.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(batch.number, reason, count, *usage, usd) for reason, (count, usage, usd) in usages.items()],
            )
            ended = {
                "late_results_until": None,
                "incomplete_downloads": 0,
                "replies_with_thoughts": sum(reply.had_thoughts for reply in accepted.values()),
            }
            self.update(batch, state=state, **{**ended, **changes})
            self._mark_outdated("receipt")

    def _advance_conversations(self, batch: Batch, accepted: Mapping[int, Reply]) -> None:
        """Enter accepted texts and move their conversations to the next position."""
        places = [(number * TEXT_IDS + batch.position, reply) for number, reply in accepted.items()]
        self._add_texts([(place, batch.number, reply.text) for place, reply in places])
        if batch.plan.follow_up:
            self._add_texts([(place + 1, batch.number, reply.follow_up) for place, reply in places])
        to = {"position": batch.position + batch.texts, "batch": batch.number}
        ranges = consecutive_ranges(sorted(accepted))
        moved = self._connection.executemany(
            queries.ADVANCE, [{**to, "first": first, "last": last} for first, last in ranges]
        )
        if accepted and moved.rowcount != len(accepted):
            raise AssertionError("a text was accepted for a conversation that its batch does not hold")
        if accepted and batch.step.stage in (STAGES[-1], Stage.AUDIT):
            self._mark_outdated("audit" if batch.step.stage is Stage.AUDIT else f"round{batch.step.round}")

    def _add_texts(self, rows: Sequence[tuple[int, int, str]]) -> None:
        """Enter rows of (text_id, batch, text), many with one statement."""
        for start in range(0, len(rows), ROWS_PER_INSERT):
            some = rows[start : start + ROWS_PER_INSERT]
            values = ", ".join(["(?, ?, ?)"] * len(some))
            self._connection.execute(f"INSERT INTO texts VALUES {values}", list(chain.from_iterable(some)))  # noqa: S608

    def _record_failures(
        self, batch: Batch, failed: Sequence[tuple[ReadyConversation, Reason, str]], *, max_attempts: int
    ) -> None:
        """Make conversations ready again or reject them, by the policy of each reason."""
        changes = []
        for row, reason, detail in failed:
            policy = POLICY[reason]
            attempts = row.failed_attempts + policy.counts_as_attempt
            is_final = not policy.retry or (attempts >= max_attempts and policy.counts_as_attempt)
            why = (reason, detail) if is_final else (None, None)
            doublings = row.token_doublings + policy.raise_token_limit
            changes.append((attempts, doublings, *why, row.number, batch.number))
        self._connection.executemany(queries.RECORD_FAILURE, changes)
        self._connection.executemany(
            "INSERT INTO failures VALUES (?, ?, ?, ?)",
            [(batch.number, row.number, reason, detail) for row, reason, detail in failed],
        )
        if any(change[2] for change in changes):
            self._mark_outdated("rejected")

    def make_ready(self, positions: Sequence[int], reason: str | None) -> int:
        """Make conversations rejected at `positions` for `reason` (None: any) ready again, with no failed attempts.

        Returns how many.
        """
        chosen = [{"position": position, "reason": reason} for position in positions]
        with self.transaction():
            changed = self._connection.executemany(queries.MAKE_READY, chosen).rowcount if chosen else 0
            if changed:
                self._mark_outdated("rejected")
        return changed

    # ---- derived files

    def outdated_files(self) -> set[str]:
        """List the derived files that are older than the store."""
        return {file for (file,) in self._connection.execute(queries.OUTDATED_FILES)}

    def mark_up_to_date(self, file: str) -> None:
        """Record that a derived file was written."""
        self._connection.execute("DELETE FROM outdated_files WHERE file = ?", (file,))

    def _mark_outdated(self, *files: str) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO outdated_files (file) VALUES (?)", [(file,) for file in files]
        )
