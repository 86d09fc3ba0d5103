"""Every query of the store by name, so that a test can check which index each of them uses."""

from __future__ import annotations

from batchgen.core.dialogue import FIRST_JUDGEMENT
from batchgen.ledger import rows
from batchgen.ledger.migrations import TEXT_IDS

BATCH_COLUMNS = ", ".join(rows.BATCH_COLUMNS)
SUMMARY_COLUMNS = f"""batch, {", ".join(rows.BatchSummary._fields[1:-1])},
    coalesce(nullif(submitted_at, 0), nullif(intent_at, 0), planned_at) AS since"""

# Goes from one attempt number to the next by the index. DISTINCT would read every ready row.
READY_ATTEMPTS = """WITH RECURSIVE attempts(attempt) AS (
        SELECT min(attempt) FROM conversations WHERE batch IS NULL AND reason IS NULL AND position = :position
        UNION ALL
        SELECT (SELECT min(c.attempt) FROM conversations c
            WHERE c.batch IS NULL AND c.reason IS NULL AND c.position = :position AND c.attempt > attempts.attempt)
        FROM attempts WHERE attempt IS NOT NULL)
    SELECT attempt FROM attempts WHERE attempt IS NOT NULL"""
PENDING_RETRIES = """SELECT count(*) FROM conversations
    WHERE batch IS NULL AND reason IS NULL AND position = :position AND attempt > 0"""
READY_CONVERSATIONS = """SELECT number, position, attempt, failed_attempts, token_doublings FROM conversations
    WHERE batch IS NULL AND reason IS NULL AND position = :position AND attempt = :attempt AND number > :after
    ORDER BY number LIMIT :limit"""
READY_TEXTS = f"""SELECT t.text FROM conversations c
    JOIN texts t ON t.text_id BETWEEN c.number * {TEXT_IDS} + :low AND c.number * {TEXT_IDS} + :high
    WHERE c.batch IS NULL AND c.reason IS NULL AND c.position = :position AND c.attempt = :attempt
    AND c.number BETWEEN :first AND :last ORDER BY c.number, t.text_id"""  # noqa: S608 - a constant
CLAIM = """UPDATE conversations SET batch = :batch, attempt = :attempt
    WHERE number BETWEEN :first AND :last AND position = :position AND batch IS NULL"""
HELD_CONVERSATIONS = """SELECT number, position, attempt, failed_attempts, token_doublings FROM conversations
    WHERE batch IS NOT NULL AND batch = :batch ORDER BY number"""
HELD_NUMBERS = """SELECT number FROM conversations
    WHERE batch IS NOT NULL AND batch = :batch ORDER BY number"""
HELD_TEXTS = f"""SELECT t.text FROM conversations c
    JOIN texts t ON t.text_id BETWEEN c.number * {TEXT_IDS} AND c.number * {TEXT_IDS} + :last
    WHERE c.batch IS NOT NULL AND c.batch = :batch ORDER BY c.number, t.text_id"""  # noqa: S608 - a constant
ADVANCE = """UPDATE conversations
    SET position = :position, batch = NULL, attempt = 0, failed_attempts = 0, token_doublings = 0
    WHERE number BETWEEN :first AND :last AND batch = :batch"""
RECORD_FAILURE = """UPDATE conversations
    SET batch = NULL, failed_attempts = ?, token_doublings = ?, reason = ?, detail = ?
    WHERE number = ? AND batch = ?"""
REJECT = """UPDATE conversations SET reason = ?, detail = ?, failed_attempts = failed_attempts + 1
    WHERE number = ? AND position = ?"""
UNDO_REJECTION = """UPDATE conversations SET reason = NULL, detail = NULL, failed_attempts = 0
    WHERE number = ? AND position = ? AND reason IS NOT NULL"""
LAST_BATCH = "SELECT coalesce(max(batch), 0) FROM batches"
TEXTS = "SELECT text_id, text FROM texts WHERE text_id BETWEEN :first AND :last ORDER BY text_id"
SOURCE_BATCHES = "SELECT text_id, batch FROM texts WHERE text_id BETWEEN :first AND :last AND batch IS NOT NULL"
COMPLETED_UP_TO = f"""SELECT number FROM conversations
    WHERE number > :after AND number < {FIRST_JUDGEMENT} AND position >= :positions
    ORDER BY number LIMIT :limit"""  # noqa: S608 - a constant
COMPLETED_TEXTS = f"""SELECT t.text FROM conversations c
    JOIN texts t ON t.text_id BETWEEN c.number * {TEXT_IDS} + :low AND c.number * {TEXT_IDS} + :high
    WHERE c.number BETWEEN :first AND :last AND c.position >= :positions
    ORDER BY c.number, t.text_id"""  # noqa: S608 - a constant
TEXTS_FROM_BATCH = "SELECT text_id, text FROM texts WHERE batch = :batch ORDER BY text_id"
AWAITING_LATE_RESULTS = f"""SELECT {BATCH_COLUMNS} FROM batches
    WHERE late_results_until IS NOT NULL AND late_results_until > :now
    ORDER BY late_results_until"""  # noqa: S608 - column names only
# A row if a conversation still lacks the text of a position: the batch that holds it now, or NULL.
LACKING_TEXT = "SELECT batch FROM conversations WHERE number = :number AND position = :position"
SET_HOLDER = "UPDATE conversations SET batch = :batch WHERE number = :number"
CLEAR_REJECTION = "UPDATE conversations SET reason = NULL, detail = NULL WHERE number = :number AND reason IS NOT NULL"
DELETE_FAILURES = """DELETE FROM failures WHERE batch = :batch
    AND number IN (SELECT number FROM conversations WHERE batch IS NOT NULL AND batch = :batch)"""
FAILURES_OF = "SELECT number, reason FROM failures WHERE batch = :batch ORDER BY number"
BATCH = f"SELECT {BATCH_COLUMNS} FROM batches WHERE batch = :batch"  # noqa: S608 - column names only
BATCHES_IN_STATE = f"SELECT {BATCH_COLUMNS} FROM batches WHERE state = :state ORDER BY batch"  # noqa: S608 - column names only
ALL_BATCHES = f"SELECT {BATCH_COLUMNS} FROM batches ORDER BY batch"  # noqa: S608 - column names only
BATCH_SUMMARIES = f"""SELECT {SUMMARY_COLUMNS} FROM batches
    WHERE state = :state ORDER BY batch"""  # noqa: S608 - column names only
ALL_BATCH_SUMMARIES = f"SELECT {SUMMARY_COLUMNS} FROM batches ORDER BY batch"  # noqa: S608 - column names only
BATCH_TOTALS = "SELECT position, state, sum(requests) FROM batches GROUP BY position, state"
ACCEPTED_BY_POSITION = """SELECT position, follow_up, sum(requests) FROM usage_totals
    WHERE reason = 'accepted' GROUP BY position, follow_up"""
ACCEPTED_AT = """SELECT coalesce(sum(requests), 0) FROM usage_totals
    WHERE position IN (:position, :position - 1) AND reason = 'accepted' AND (position = :position OR follow_up = 1)"""
REJECTED_AT = "SELECT count(*) FROM conversations WHERE reason IS NOT NULL AND position = :position"
REJECTED_COUNT = f"""SELECT count(*) FROM conversations INDEXED BY left_behind
    WHERE reason IS NOT NULL AND number < {FIRST_JUDGEMENT}"""  # noqa: S608 - a constant
REJECTED_BY_POSITION = "SELECT position, count(*) FROM conversations WHERE reason IS NOT NULL GROUP BY position"
REJECTED_CONVERSATIONS = f"""SELECT number, position, reason, detail, failed_attempts
    FROM conversations INDEXED BY left_behind
    WHERE reason IS NOT NULL AND number < {FIRST_JUDGEMENT} ORDER BY number"""  # noqa: S608 - a constant
REJECTION_REASONS = """SELECT reason, count(*) FROM conversations
    WHERE reason IS NOT NULL AND position = :position GROUP BY reason"""
MAKE_READY = """UPDATE conversations SET reason = NULL, detail = NULL, failed_attempts = 0
    WHERE reason IS NOT NULL AND position = :position AND (:reason IS NULL OR reason = :reason)"""
ENQUEUED = """SELECT count(*), coalesce(sum(CASE WHEN model = :model THEN input_tokens END), 0) FROM batches
    WHERE state IN ('planned', 'uploaded', 'creating', 'in_flight') AND provider = :provider
    AND (state IN ('creating', 'in_flight') OR batch < :before)"""
ESTIMATED_AND_RESERVED_USD = """SELECT coalesce(sum(estimated_usd), 0),
    coalesce(sum(CASE WHEN state IN ('planned', 'uploaded', 'creating', 'in_flight', 'lost') THEN reserved_usd END), 0)
    FROM batches WHERE state NOT IN ('refused', 'abandoned')"""
RESERVED_WITHOUT_PRICE = """SELECT provider, model, sum(requests), sum(input_tokens), sum(output_ceiling) FROM batches
    WHERE state IN ('planned', 'uploaded', 'creating', 'in_flight', 'lost') AND reserved_usd IS NULL
    GROUP BY provider, model ORDER BY provider, model"""
ESTIMATED_BY_POSITION = """SELECT position, coalesce(sum(estimated_usd), 0) FROM batches WHERE state = 'collected'
    GROUP BY position"""
USAGE_TOTALS = """SELECT position, provider, model, reason, sum(requests), CASE WHEN priced THEN sum(usd) END,
    sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(thought_tokens) FROM usage_totals
    GROUP BY position, provider, model, reason, priced ORDER BY position, provider, model, reason"""
OUTPUT_OF_ACCEPTED = """SELECT coalesce(sum(requests), 0), coalesce(sum(output_tokens), 0) FROM usage_totals
    WHERE position = :position AND follow_up = :follow_up AND reason = 'accepted'"""
CONVERSATION_STATES = """SELECT number, position, batch, reason, detail, failed_attempts FROM conversations
    WHERE number BETWEEN :first AND :last ORDER BY number"""
# A judgement is a row like a conversation, with a number above all of them. Its one text is its verdict.
ENTER_JUDGEMENT = "INSERT OR IGNORE INTO conversations (number, position) VALUES (?, ?)"
JUDGEMENTS = f"SELECT number FROM conversations WHERE number >= {FIRST_JUDGEMENT} ORDER BY number"  # noqa: S608 - a constant
VERDICTS = f"""SELECT t.text_id, t.text, b.model FROM texts t JOIN batches b USING (batch)
    WHERE t.text_id >= {FIRST_JUDGEMENT * TEXT_IDS} ORDER BY t.text_id"""  # noqa: S608 - a constant
OUTDATED_FILES = "SELECT file FROM outdated_files ORDER BY file"
HOLDS = "SELECT scope, until, hits, reason, since FROM holds ORDER BY scope"
