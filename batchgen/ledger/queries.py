"""Every query of the store by name, so that a test can hold each to its index."""

from __future__ import annotations

from batchgen.ledger.migrations import PLACES
from batchgen.ledger.rows import Batch, Shown

BATCH_COLUMNS = ", ".join(Batch._fields)
SHOWN_COLUMNS = f"""{", ".join(Shown._fields[:-1])},
    coalesce(nullif(submitted_at, 0), nullif(intent_at, 0), planned_at) AS since"""

# From one attempt number to the next: DISTINCT would read every ready row.
READY_ATTEMPTS = """WITH RECURSIVE attempts(attempt) AS (
        SELECT min(attempt) FROM conversations WHERE batch IS NULL AND reason IS NULL AND at = :at
        UNION ALL
        SELECT (SELECT min(c.attempt) FROM conversations c
            WHERE c.batch IS NULL AND c.reason IS NULL AND c.at = :at AND c.attempt > attempts.attempt)
        FROM attempts WHERE attempt IS NOT NULL)
    SELECT attempt FROM attempts WHERE attempt IS NOT NULL"""
READY_AGAIN = """SELECT count(*) FROM conversations
    WHERE batch IS NULL AND reason IS NULL AND at = :at AND attempt > 0"""
READY = """SELECT number, at, attempt, strikes, ceiling FROM conversations
    WHERE batch IS NULL AND reason IS NULL AND at = :at AND attempt = :attempt AND number > :after
    ORDER BY number LIMIT :limit"""
READY_TEXTS = f"""SELECT t.text FROM conversations c
    JOIN texts t ON t.place BETWEEN c.number * {PLACES} + :low AND c.number * {PLACES} + :high
    WHERE c.batch IS NULL AND c.reason IS NULL AND c.at = :at AND c.attempt = :attempt
    AND c.number BETWEEN :first AND :last ORDER BY c.number, t.place"""  # noqa: S608 - a constant
CLAIM = """UPDATE conversations SET batch = :batch, attempt = :attempt
    WHERE number BETWEEN :first AND :last AND at = :at AND batch IS NULL"""
HELD = """SELECT number, at, attempt, strikes, ceiling FROM conversations
    WHERE batch IS NOT NULL AND batch = :batch ORDER BY number"""
HELD_NUMBERS = """SELECT number FROM conversations
    WHERE batch IS NOT NULL AND batch = :batch ORDER BY number"""
HELD_TEXTS = f"""SELECT t.text FROM conversations c
    JOIN texts t ON t.place BETWEEN c.number * {PLACES} AND c.number * {PLACES} + :last
    WHERE c.batch IS NOT NULL AND c.batch = :batch ORDER BY c.number, t.place"""  # noqa: S608 - a constant
ADVANCE = """UPDATE conversations SET at = :at, batch = NULL, attempt = 0, strikes = 0, ceiling = 0
    WHERE number BETWEEN :first AND :last AND batch = :batch"""
FAIL = """UPDATE conversations SET batch = NULL, strikes = ?, ceiling = ?, reason = ?, detail = ?
    WHERE number = ? AND batch = ?"""
REJECT = "UPDATE conversations SET reason = ?, detail = ?, strikes = strikes + 1 WHERE number = ? AND at = ?"
MAKE_FREE = """UPDATE conversations SET reason = NULL, detail = NULL, strikes = 0
    WHERE number = ? AND at = ? AND reason IS NOT NULL"""
LAST_BATCH = "SELECT coalesce(max(batch), 0) FROM batches"
TEXTS = "SELECT place, text FROM texts WHERE place BETWEEN :first AND :last ORDER BY place"
SOURCES = "SELECT place, batch FROM texts WHERE place BETWEEN :first AND :last AND batch IS NOT NULL"
REACHED = """SELECT number FROM conversations
    WHERE number > :after AND at >= :positions ORDER BY number LIMIT :limit"""
REACHED_TEXTS = f"""SELECT t.text FROM conversations c
    JOIN texts t ON t.place BETWEEN c.number * {PLACES} + :low AND c.number * {PLACES} + :high
    WHERE c.number BETWEEN :first AND :last AND c.at >= :positions ORDER BY c.number, t.place"""  # noqa: S608 - a constant
TEXTS_OF = "SELECT place, text FROM texts WHERE batch = :batch ORDER BY place"
AWAITED = f"""SELECT {BATCH_COLUMNS} FROM batches
    WHERE awaited_until IS NOT NULL AND awaited_until > :now ORDER BY awaited_until"""  # noqa: S608 - column names only
# Whether a conversation still lacks the text of a position, and who holds it meanwhile, if anybody.
LACKS = "SELECT batch FROM conversations WHERE number = :number AND at = :at"
LEND = "UPDATE conversations SET batch = :batch WHERE number = :number"
KEEP = "UPDATE conversations SET reason = NULL, detail = NULL WHERE number = :number AND reason IS NOT NULL"
FORGET_FAILURES = """DELETE FROM failures WHERE batch = :batch
    AND number IN (SELECT number FROM conversations WHERE batch IS NOT NULL AND batch = :batch)"""
FAILURES_OF = "SELECT number, reason FROM failures WHERE batch = :batch ORDER BY number"
LIVE = f"SELECT {BATCH_COLUMNS} FROM batches WHERE state = :state ORDER BY batch"  # noqa: S608 - column names only
ALL_BATCHES = f"SELECT {BATCH_COLUMNS} FROM batches ORDER BY batch"  # noqa: S608 - column names only
SHOWN = f"SELECT {SHOWN_COLUMNS} FROM batches WHERE state = :state ORDER BY batch"  # noqa: S608 - column names only
ALL_SHOWN = f"SELECT {SHOWN_COLUMNS} FROM batches ORDER BY batch"  # noqa: S608 - column names only
BATCH_TOTALS = "SELECT position, state, sum(requests) FROM batches GROUP BY position, state"
ACCEPTED = "SELECT position, follow_up, sum(requests) FROM bills WHERE reason = 'accepted' GROUP BY position, follow_up"
ACCEPTED_AT = """SELECT coalesce(sum(requests), 0) FROM bills
    WHERE position IN (:at, :at - 1) AND reason = 'accepted' AND (position = :at OR follow_up = 1)"""
REJECTED_AT = "SELECT count(*) FROM conversations WHERE reason IS NOT NULL AND at = :at"
ALL_REJECTED = "SELECT count(*) FROM conversations WHERE reason IS NOT NULL"
REJECTED = "SELECT at, count(*) FROM conversations WHERE reason IS NOT NULL GROUP BY at"
LEFT_BEHIND = """SELECT number, at, reason, detail, strikes FROM conversations INDEXED BY left_behind
    WHERE reason IS NOT NULL ORDER BY number"""
REJECTION_REASONS = """SELECT reason, count(*) FROM conversations
    WHERE reason IS NOT NULL AND at = :at GROUP BY reason"""
MAKE_READY = """UPDATE conversations SET reason = NULL, detail = NULL, strikes = 0
    WHERE reason IS NOT NULL AND at = :at AND (:reason IS NULL OR reason = :reason)"""
ENQUEUED = """SELECT count(*), coalesce(sum(input_tokens), 0) FROM batches
    WHERE state IN ('planned', 'uploaded', 'creating', 'in_flight') AND provider = :provider AND model = :model
    AND (state IN ('creating', 'in_flight') OR batch < :before)"""
LEDGER_USD = """SELECT coalesce(sum(estimated_usd), 0),
    coalesce(sum(CASE WHEN state IN ('planned', 'uploaded', 'creating', 'in_flight', 'lost') THEN reserved_usd END), 0)
    FROM batches WHERE state NOT IN ('refused', 'abandoned')"""
RESERVED_WITHOUT_PRICE = """SELECT model, sum(requests), sum(input_tokens), sum(output_ceiling) FROM batches
    WHERE state IN ('planned', 'uploaded', 'creating', 'in_flight', 'lost') AND reserved_usd IS NULL
    GROUP BY model ORDER BY model"""
ESTIMATED = """SELECT position, coalesce(sum(estimated_usd), 0) FROM batches WHERE state = 'collected'
    GROUP BY position"""
BILLS = """SELECT position, provider, model, reason, sum(requests), CASE WHEN priced THEN sum(usd) END,
    sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(thought_tokens) FROM bills
    GROUP BY position, provider, model, reason, priced ORDER BY position, provider, model, reason"""
OUTPUT_OF = """SELECT coalesce(sum(requests), 0), coalesce(sum(output_tokens), 0) FROM bills
    WHERE position = :at AND follow_up = :follow_up AND reason = 'accepted'"""
STANDINGS = """SELECT number, at, batch, reason, detail, strikes FROM conversations
    WHERE number BETWEEN :first AND :last ORDER BY number"""
STALE = "SELECT file, since FROM stale ORDER BY file"
WAITS = "SELECT * FROM waits ORDER BY scope"  # an older program's table has no `since`
