"""How the store of an older program gets the tables of schema.sql: a list of SQL statements that only grows.

To add a table or a column, append SQL to MIGRATIONS, and change schema.sql, from which a new store is made. The names
and comments of older statements are those of their time; schema.sql explains the tables as they are now.

A text's `text_id` is `number * TEXT_IDS + position`: its conversation and its position in the dialogue in one integer.
So the texts of a dialogue are neighbours on disk, in order, and are read as one range.
"""

TEXT_IDS = 256  # ids that each conversation has for its texts
# In the order in which they can be emptied: tables that refer to others come first.
TABLES = (
    *("failures", "outcomes", "usage_totals", "texts", "conversations", "batches", "holds", "outdated_files"),
    "run_facts",
)

# The rows of `usage_totals` (`bills` in older versions), computed from the batches. Needed to fill the new table.
SELECT_USAGE_TOTALS = """SELECT b.position, b.provider, b.model, b.follow_up, o.reason, o.usd IS NOT NULL AS priced,
    sum(o.requests) AS requests, sum(o.input_tokens) AS input_tokens, sum(o.cached_tokens) AS cached_tokens,
    sum(o.output_tokens) AS output_tokens, sum(o.thought_tokens) AS thought_tokens, total(o.usd) AS usd
    FROM batches b JOIN outcomes o USING (batch)
    GROUP BY b.position, b.provider, b.model, b.follow_up, o.reason, o.usd IS NOT NULL"""

_AMOUNTS = ("requests", "input_tokens", "cached_tokens", "output_tokens", "thought_tokens")


def _add_usage(sign: str, row: str, table: str) -> str:
    """Return the SQL that adds an outcome to the totals in `table`, or subtracts it (`sign`). `row` is NEW or OLD."""
    amounts = ", ".join(f"{sign}{row}.{amount}" for amount in _AMOUNTS)
    sums = ", ".join(f"{amount} = {amount} + excluded.{amount}" for amount in (*_AMOUNTS, "usd"))
    return f"""INSERT INTO {table} SELECT position, provider, model, follow_up, {row}.reason, {row}.usd IS NOT NULL,
        {amounts}, {sign}coalesce({row}.usd, 0) FROM batches WHERE batch = {row}.batch
        ON CONFLICT DO UPDATE SET {sums}"""  # noqa: S608 - the names above


MIGRATIONS: tuple[str, ...] = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE conversations (
        number INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        batch INTEGER REFERENCES batches,
        attempt INTEGER NOT NULL DEFAULT 0,
        strikes INTEGER NOT NULL DEFAULT 0,
        ceiling INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        detail TEXT
    ) STRICT""",
    "CREATE INDEX ready ON conversations (at, attempt, number) WHERE batch IS NULL AND reason IS NULL",
    "CREATE INDEX held ON conversations (batch, number) WHERE batch IS NOT NULL",
    "CREATE INDEX left_behind ON conversations (at, number) WHERE reason IS NOT NULL",
    "CREATE TABLE texts (place INTEGER PRIMARY KEY, batch INTEGER REFERENCES batches, text TEXT NOT NULL) STRICT",
    "CREATE INDEX provenance ON texts (batch, place) WHERE batch IS NOT NULL",
    """CREATE TABLE batches (
        batch INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        position INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN
            ('planned', 'uploaded', 'creating', 'in_flight', 'collected', 'refused', 'abandoned', 'lost')),
        requests INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_ceiling INTEGER NOT NULL,
        estimated_usd REAL,
        reserved_usd REAL,
        planned_at REAL NOT NULL,
        follow_up INTEGER NOT NULL DEFAULT 0,
        key_fingerprint TEXT,
        remote_file TEXT,
        uploaded_at REAL,
        intent_at REAL,
        blanks INTEGER NOT NULL DEFAULT 0,
        first_blank_at REAL,
        remote_id TEXT,
        submitted_at REAL,
        remote_state TEXT,
        started_at REAL,
        missing INTEGER NOT NULL DEFAULT 0,
        missing_since REAL,
        ended_at REAL,
        collected_at REAL,
        error TEXT
    ) STRICT""",
    "CREATE INDEX by_state ON batches (state, batch)",
    """CREATE TABLE outcomes (
        batch INTEGER NOT NULL REFERENCES batches,
        reason TEXT NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        thought_tokens INTEGER NOT NULL,
        usd REAL,
        PRIMARY KEY (batch, reason)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE failures (
        batch INTEGER NOT NULL REFERENCES batches,
        number INTEGER NOT NULL,
        reason TEXT NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (batch, number)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE waits (
        scope TEXT PRIMARY KEY, until REAL, hits INTEGER NOT NULL, reason TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE stale (file TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    # Since when ticks have delayed writing the file again.
    "ALTER TABLE stale ADD COLUMN since REAL",
    "CREATE INDEX by_position ON batches (position, follow_up, batch)",
    """CREATE INDEX ledger ON batches
        (position, provider, model, follow_up, state, requests, estimated_usd, reserved_usd)""",
    """CREATE TABLE bills (
        position INTEGER NOT NULL,
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        follow_up INTEGER NOT NULL,
        reason TEXT NOT NULL,
        priced INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        thought_tokens INTEGER NOT NULL,
        usd REAL NOT NULL,
        PRIMARY KEY (position, provider, model, follow_up, reason, priced)
    ) STRICT, WITHOUT ROWID""",
    f"INSERT INTO bills {SELECT_USAGE_TOTALS}",
    f"CREATE TRIGGER billed AFTER INSERT ON outcomes BEGIN {_add_usage('+', 'NEW', 'bills')}; END",
    "DROP INDEX by_position",
    # Until when an ended batch may get late results, because its job was abandoned, cancelled or lost.
    "ALTER TABLE batches ADD COLUMN awaited_until REAL",
    "CREATE INDEX awaited ON batches (awaited_until) WHERE awaited_until IS NOT NULL",
    """UPDATE batches SET awaited_until = intent_at + 72 * 3600
        WHERE state = 'abandoned' AND collected_at IS NULL AND intent_at IS NOT NULL""",
    f"""CREATE TRIGGER unbilled AFTER DELETE ON outcomes BEGIN {_add_usage("-", "OLD", "bills")};
        DELETE FROM bills WHERE requests = 0; END""",  # noqa: S608 - see _add_usage
    # Both were counted in `blanks` before.
    "ALTER TABLE batches ADD COLUMN upload_failed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE batches ADD COLUMN short_looks INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE batches ADD COLUMN replies_with_thoughts INTEGER NOT NULL DEFAULT 0",
    # When a quota first refused. After a day, the user is told to act.
    "ALTER TABLE waits ADD COLUMN since REAL",
    # Plain names for tables and columns.
    "ALTER TABLE conversations RENAME COLUMN at TO position",
    "ALTER TABLE conversations RENAME COLUMN strikes TO failed_attempts",
    "ALTER TABLE conversations RENAME COLUMN ceiling TO token_doublings",
    "ALTER TABLE texts RENAME COLUMN place TO text_id",
    "ALTER TABLE batches RENAME COLUMN blanks TO empty_listings",
    "ALTER TABLE batches RENAME COLUMN first_blank_at TO first_empty_listing_at",
    "ALTER TABLE batches RENAME COLUMN missing TO not_found_count",
    "ALTER TABLE batches RENAME COLUMN missing_since TO not_found_since",
    "ALTER TABLE batches RENAME COLUMN awaited_until TO late_results_until",
    "ALTER TABLE batches RENAME COLUMN upload_failed TO failed_uploads",
    "ALTER TABLE batches RENAME COLUMN short_looks TO incomplete_downloads",
    "ALTER TABLE stale DROP COLUMN since",
    "ALTER TABLE stale RENAME TO outdated_files",
    "ALTER TABLE waits RENAME TO holds",
    # SQLite (3.40) also renames `excluded` when it renames a table within its triggers, so they are created again.
    "DROP TRIGGER billed",
    "DROP TRIGGER unbilled",
    "ALTER TABLE bills RENAME TO usage_totals",
    f"CREATE TRIGGER usage_added AFTER INSERT ON outcomes BEGIN {_add_usage('+', 'NEW', 'usage_totals')}; END",
    f"""CREATE TRIGGER usage_removed AFTER DELETE ON outcomes BEGIN {_add_usage("-", "OLD", "usage_totals")};
        DELETE FROM usage_totals WHERE requests = 0; END""",  # noqa: S608 - see _add_usage
    "ALTER TABLE meta RENAME TO run_facts",
    "ALTER TABLE batches ADD COLUMN echo INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE batches ADD COLUMN overdue_since REAL",
)
