"""The store, the only truth of a run: conversations and texts, batches and money, and every change to them.

Each change is one transaction, and no network call happens inside one. Every query is a named constant, so that a test
can hold each to its index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from batchgen.core.dialogue import ID_DIGITS, STAGES, Step, Turn
from batchgen.core.outcomes import POLICY, Reason, Usage
from batchgen.ledger import queries
from batchgen.ledger.dialogues import Texts
from batchgen.ledger.migrations import PLACES, TABLES
from batchgen.ledger.rows import Batch, Borrowed, Plan, Row, Settled, Shown, Standing, Wait, runs
from batchgen.ledger.totals import Sums

ROWS_AT_ONCE = 300  # three values each: SQLite before 3.32 takes 999 a statement
FIRST_POSITION = len(STAGES)  # round 1 is the seed: a new conversation is at the question of round 2


class Store(Texts, Sums):
    """An open store. Writers hold the root's lock; `status` reads beside them."""

    # ---- what a run is

    def meta(self, key: str) -> str | None:
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, key: str, value: str) -> None:
        """Learn a fact; one write only when it is new."""
        if self.meta(key) != value:
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def forget_meta(self, key: str) -> None:
        self._database.execute("DELETE FROM meta WHERE key = ?", (key,))

    def replace_seeds(self, seeds: Iterable[Turn], meta: Mapping[str, str]) -> int:
        """Fill an unpaid store with round 1, in place of whatever it held. Returns the number of conversations."""
        with self.transaction():
            for table in TABLES:
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the schema
            number = 0
            for number, seed in enumerate(seeds, start=1):
                self._database.execute("INSERT INTO conversations (number, at) VALUES (?, ?)", (number, FIRST_POSITION))
                places = range(number * PLACES, number * PLACES + len(STAGES))
                self._database.executemany(
                    "INSERT INTO texts (place, text) VALUES (?, ?)", zip(places, seed, strict=True)
                )
            facts = {**meta, "conversations": str(number), "id_digits": str(max(ID_DIGITS, len(str(number))))}
            self._database.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
            self._mark_stale("round1", "rejected", "receipt")
        return number

    def paid(self) -> bool:
        """Whether a create call was ever intended: from then on the store holds what money bought."""
        return (
            self._database.execute("SELECT 1 FROM batches WHERE intent_at IS NOT NULL LIMIT 1").fetchone() is not None
        )

    # ---- conversations

    def ready_attempts(self, step: Step) -> list[int]:
        """The attempt numbers that conversations ready for `step` have behind them."""
        return [attempt for (attempt,) in self._database.execute(queries.READY_ATTEMPTS, {"at": step.position})]

    def ready(self, step: Step, attempt: int, *, after: int, limit: int) -> list[Row]:
        """The next conversations ready for `step`, in seed order."""
        query = {"at": step.position, "attempt": attempt, "after": after, "limit": limit}
        return list(map(Row._make, self._database.execute(queries.READY, query)))

    def held(self, batch: int) -> list[Row]:
        """The conversations that a live batch holds, in seed order."""
        return list(map(Row._make, self._database.execute(queries.HELD, {"batch": batch})))

    def held_numbers(self, batch: int) -> list[int]:
        """Their numbers alone."""
        return list(chain.from_iterable(self._database.execute(queries.HELD_NUMBERS, {"batch": batch})))

    def left_behind(self) -> Iterator[tuple[int, Step, str, str, int]]:
        """(number, step, reason, detail, attempts) of every rejected conversation, in seed order."""
        for number, at, reason, detail, attempts in self._database.execute(queries.LEFT_BEHIND):
            yield number, Step.at(at), reason, detail or "", attempts

    def standings(self, first: int, last: int) -> list[Standing]:
        """Where conversations number `first` to `last` stand, in seed order."""
        return [Standing(*row) for row in self._database.execute(queries.STANDINGS, {"first": first, "last": last})]

    # ---- the ledger

    def plan(self, plan: Plan, rows: Sequence[Row], *, number: int | None = None) -> Batch:
        """Enter a batch whose file is durable, and give it its conversations. `number`: its own, if it has one."""
        with self.transaction():
            marks = ", ".join("?" * len(plan))
            cursor = self._database.execute(
                f"INSERT INTO batches (batch, {', '.join(plan._fields)}, state)"  # noqa: S608 - field names of Plan
                f" VALUES (?, {marks}, 'planned')",
                (number, *plan),
            )
            batch = cursor.lastrowid
            claimed = self._database.executemany(
                queries.CLAIM,
                [
                    {"batch": batch, "attempt": plan.attempt, "at": plan.position, "first": first, "last": last}
                    for first, last in runs([row.number for row in rows])
                ],
            )
            if claimed.rowcount != len(rows):
                raise AssertionError("a conversation was to be bought twice")
        return self.batch(int(batch or 0))

    def make_free(self, numbers: Sequence[int], position: int) -> None:
        """Undo the rejection of conversations that were asked again later (by `retry`)."""
        self._database.executemany(
            queries.MAKE_FREE,
            [(number, position) for number in numbers],
        )

    def next_batch(self) -> int:
        """The number the next batch will have."""
        (last,) = self._database.execute(queries.LAST_BATCH).fetchone()
        return int(last) + 1

    def batch(self, batch: int) -> Batch:
        row = self._database.execute(
            f"SELECT {queries.BATCH_COLUMNS} FROM batches WHERE batch = ?",  # noqa: S608 - column names only
            (batch,),
        ).fetchone()
        return Batch(*row)

    def batches(self, *states: str) -> list[Batch]:
        """The batches in any of `states` (none named: all), in the order they were planned."""
        if not states:
            return [Batch(*row) for row in self._database.execute(queries.ALL_BATCHES)]
        found = [Batch(*row) for state in states for row in self._database.execute(queries.LIVE, {"state": state})]
        return sorted(found)

    def ledger(self) -> Iterator[Batch]:
        """Every batch, one at a time, in the order they were planned."""
        return map(Batch._make, self._database.execute(queries.ALL_BATCHES))

    def shown(self, *states: str) -> list[Shown]:
        """The same batches, as far as `status` speaks of them."""
        if not states:
            return list(map(Shown._make, self._database.execute(queries.ALL_SHOWN)))
        rows = (row for state in states for row in self._database.execute(queries.SHOWN, {"state": state}))
        return sorted(map(Shown._make, rows))

    def update(self, batch: Batch, **changes: float | str | None) -> Batch:
        """Change a batch's row, durably, and return it. Nothing is written when nothing changes."""
        before = batch._asdict()
        changes = {name: value for name, value in changes.items() if before[name] != value}
        if changes:
            assignments = ", ".join(f"{name} = :{name}" for name in changes)
            self._database.execute(
                f"UPDATE batches SET {assignments} WHERE batch = :batch",  # noqa: S608 - field names of Batch
                {**changes, "batch": batch.batch},
            )
        return batch._replace(**changes)  # type: ignore[arg-type] # names were checked against the fields above

    def intend(self, batches: Sequence[Batch], now: float) -> list[Batch]:
        """Note that `batches` are about to be created, durably and all of them or none, before anything is sent."""
        with self.transaction():
            return [
                self.update(batch, state="creating", intent_at=now, blanks=0, first_blank_at=None, error=None)
                for batch in batches
            ]

    def release(
        self,
        batch: Batch,
        state: str,
        *,
        error: str,
        refused: Mapping[int, str] | None = None,
        awaited_until: float | None = None,
    ) -> None:
        """A batch that bought nothing: its conversations are ready again, but for the `refused` (number -> why).

        `awaited_until`: till then it may turn out to have bought something after all.
        """
        refused = refused or {}
        with self.transaction():
            self.update(batch, state=state, error=error, awaited_until=awaited_until)
            rows = self.held(batch.batch)
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

    def awaited(self, now: float) -> list[Batch]:
        """The ended batches whose results may come after all."""
        return [Batch(*row) for row in self._database.execute(queries.AWAITED, {"now": now})]

    def borrow(self, batch: Batch) -> Borrowed:
        """Let an ended batch without results hold those of its conversations that still lack its text, whoever holds
        them meanwhile. `give_back` says which of them stay, within the same transaction.
        """
        ended = {n: Reason(name) for n, name in self._database.execute(queries.FAILURES_OF, {"batch": batch.batch})}
        lent = dict[int, int | None]()
        for number in ended:
            its = {"batch": batch.batch, "number": number, "at": batch.position}
            for (holder,) in self._database.execute(queries.LACKS, its).fetchall():
                lent[number] = holder
                self._database.execute(queries.LEND, its)
        return Borrowed(ended, lent)

    def give_back(self, batch: Batch, lent: Mapping[int, int | None], *, but: Collection[int]) -> list[Batch]:
        """Give the `lent` conversations back, but for those whose text this batch has brought. What was booked for it
        is forgotten: it is settled anew.

        Returns the batches that those were taken from, which ask for so many fewer from now on.
        """
        for number, holder in lent.items():
            if number in but:
                self._database.execute(queries.KEEP, {"number": number})
            else:
                self._database.execute(queries.LEND, {"number": number, "batch": holder})
        self._database.execute(queries.FORGET_FAILURES, {"batch": batch.batch})
        self._database.execute("DELETE FROM outcomes WHERE batch = ?", (batch.batch,))
        self._mark_stale("rejected")
        taken = Counter(holder for number, holder in lent.items() if number in but and holder is not None)
        holders = [(self.batch(holder), count) for holder, count in sorted(taken.items())]
        return [self.update(holder, requests=holder.requests - count) for holder, count in holders]

    def failed_numbers(self, batch: Batch) -> list[int]:
        """The conversations that an ended batch brought no text for, in seed order."""
        return [number for number, _ in self._database.execute(queries.FAILURES_OF, {"batch": batch.batch})]

    def let_go(self, batch: Batch, gone: Mapping[int, Reason], detail: str, *, max_attempts: int) -> None:
        """Make some of a batch's conversations ready again, before it is settled; the reason counts as a failure."""
        if gone:
            with self.transaction():
                rows = [row for row in self.held(batch.batch) if row.number in gone]
                self._fail(batch, [(row, gone[row.number], detail) for row in rows], max_attempts=max_attempts)

    def reject(self, row: Row, reason: Reason, detail: str) -> None:
        """Leave a conversation behind that can never be asked for."""
        with self.transaction():
            self._database.execute(
                queries.REJECT,
                (reason, detail, row.number, row.at),
            )
            self._mark_stale("rejected")

    def settle(
        self,
        batch: Batch,
        settled: Sequence[Settled],
        usages: Mapping[Reason, tuple[int, Usage, float | None]],
        *,
        state: str = "collected",
        max_attempts: int,
        **changes: float | str | None,
    ) -> None:
        """Book a whole result file: texts, failures, tokens and money, and the batch's end, or nothing of it.

        `settled` has one entry for every conversation the batch holds; `usages` maps a reason to (requests, tokens,
        USD).
        """
        accepted = [one for one in settled if one.reason is Reason.ACCEPTED]
        failed: list[tuple[Row, Reason, str]] = []
        if len(accepted) < len(settled):
            rows = {row.number: row for row in self.held(batch.batch)}
            failed = [
                (rows[one.number], one.reason, one.detail) for one in settled if one.reason is not Reason.ACCEPTED
            ]
        with self.transaction():
            self._advance(batch, accepted)
            self._fail(batch, failed, max_attempts=max_attempts)
            self._database.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(batch.batch, reason, count, *usage, usd) for reason, (count, usage, usd) in usages.items()],
            )
            had_thoughts = sum(one.had_thoughts for one in accepted)
            ended = {"awaited_until": None, "short_looks": 0, "had_thoughts": had_thoughts, **changes}
            self.update(batch, state=state, **ended)
            self._mark_stale("receipt")

    def _advance(self, batch: Batch, accepted: Sequence[Settled]) -> None:
        self._add_texts([(one.number * PLACES + batch.position, batch.batch, one.text) for one in accepted])
        if batch.follow_up:
            self._add_texts(
                [(one.number * PLACES + batch.position + 1, batch.batch, one.follow_up) for one in accepted]
            )
        to = {"at": batch.position + batch.texts, "batch": batch.batch}
        moved = self._database.executemany(
            queries.ADVANCE,
            [{**to, "first": first, "last": last} for first, last in runs(sorted(one.number for one in accepted))],
        )
        if accepted and moved.rowcount != len(accepted):
            raise AssertionError("a text was accepted for a conversation that its batch does not hold")
        if accepted and batch.step.stage is STAGES[-1]:
            self._mark_stale(f"round{batch.step.round}")

    def _add_texts(self, rows: Sequence[tuple[int, int, str]]) -> None:
        """Enter (place, batch, text), many rows a statement."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            values = ", ".join(["(?, ?, ?)"] * len(some))
            self._database.execute(f"INSERT INTO texts VALUES {values}", list(chain.from_iterable(some)))  # noqa: S608

    def _fail(self, batch: Batch, failed: Sequence[tuple[Row, Reason, str]], *, max_attempts: int) -> None:
        changes = []
        for row, reason, detail in failed:
            verdict = POLICY[reason]
            strikes = row.strikes + verdict.counts
            final = not verdict.again or (strikes >= max_attempts and verdict.counts)
            why = (reason, detail) if final else (None, None)
            changes.append((strikes, row.ceiling + verdict.larger, *why, row.number, batch.batch))
        self._database.executemany(
            queries.FAIL,
            changes,
        )
        self._database.executemany(
            "INSERT INTO failures VALUES (?, ?, ?, ?)",
            [(batch.batch, row.number, reason, detail) for row, reason, detail in failed],
        )
        if any(change[2] for change in changes):
            self._mark_stale("rejected")

    def make_ready(self, positions: Sequence[int], reason: str | None) -> int:
        """Make conversations rejected at `positions` ready again, with all their attempts before them."""
        with self.transaction():
            changed = sum(
                self._database.execute(queries.MAKE_READY, {"at": position, "reason": reason}).rowcount
                for position in positions
            )
            if changed:
                self._mark_stale("rejected")
        return changed

    # ---- what is held back

    def waits(self) -> dict[str, Wait]:
        """What is held back and why, by scope."""
        return {row[0]: Wait(*row) for row in self._database.execute(queries.WAITS)}

    def wait(self, wait: Wait) -> None:
        if self.waits().get(wait.scope) != wait:
            self._database.execute("INSERT OR REPLACE INTO waits VALUES (?, ?, ?, ?, ?)", wait)

    def end_wait(self, scope: str) -> None:
        if scope in self.waits():
            self._database.execute("DELETE FROM waits WHERE scope = ?", (scope,))

    # ---- derived files

    def stale(self) -> dict[str, float | None]:
        """Derived files that are older than the store, and since when their writing is put off."""
        return dict(self._database.execute(queries.STALE))

    def put_off(self, file: str, now: float) -> None:
        """Note that a stale file was left as it is."""
        self._database.execute("UPDATE stale SET since = ? WHERE file = ? AND since IS NULL", (now, file))

    def fresh(self, file: str) -> None:
        self._database.execute("DELETE FROM stale WHERE file = ?", (file,))

    def _mark_stale(self, *files: str) -> None:
        self._database.executemany("INSERT OR IGNORE INTO stale (file) VALUES (?)", [(file,) for file in files])
