-- The tables of the store, as they are now. A new store is made from this file. A store of an older program becomes
-- the same by MIGRATIONS in migrations.py. Change both together: tests/unit/ledger/test_migrations.py compares them.
--
-- Times are seconds since 1970 UTC; `usd` is money in US dollars. `batch` names a row of `batches`, `number` a
-- conversation, and `position` a text within its dialogue: 3, 4, 5 are question, answer, correction of round 2.

-- Facts of the run: the options it was prepared with, its models, and others.
CREATE TABLE run_facts (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each conversation. It is ready if no batch holds it and it has no `reason`.
-- `attempt`, `failed_attempts` and `token_doublings` are 0 again at the next position.
CREATE TABLE conversations (
    number INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,                  -- of the text that comes next
    batch INTEGER REFERENCES batches,           -- that holds it
    attempt INTEGER NOT NULL DEFAULT 0,         -- request lines written for this step; a part of the key, never falls
    failed_attempts INTEGER NOT NULL DEFAULT 0, -- failures that count against max_attempts
    token_doublings INTEGER NOT NULL DEFAULT 0, -- of the limit of output tokens
    reason TEXT,                                -- why it was rejected
    detail TEXT
) STRICT;
CREATE INDEX ready ON conversations (position, attempt, number) WHERE batch IS NULL AND reason IS NULL;
CREATE INDEX held ON conversations (batch, number) WHERE batch IS NOT NULL;
CREATE INDEX left_behind ON conversations (position, number) WHERE reason IS NOT NULL;

-- Accepted texts, which never change.
CREATE TABLE texts (
    text_id INTEGER PRIMARY KEY,                -- number * 256 + position: the texts of a dialogue are neighbours
    batch INTEGER REFERENCES batches,           -- where it came from; NULL for the texts of a seed
    text TEXT NOT NULL
) STRICT;
CREATE INDEX provenance ON texts (batch, text_id) WHERE batch IS NOT NULL;

-- The ledger: one row for each request file. rows.py has the same columns as Python values, and explains the counts.
CREATE TABLE batches (
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
    sha256 TEXT NOT NULL,                       -- of the request file
    input_tokens INTEGER NOT NULL,              -- estimated
    output_ceiling INTEGER NOT NULL,            -- the most tokens that the replies may have together
    estimated_usd REAL,                         -- NULL: the price of the model is unknown; so is reserved_usd
    reserved_usd REAL,                          -- the most it may cost; held back from max_usd until it is settled
    planned_at REAL NOT NULL,
    follow_up INTEGER NOT NULL DEFAULT 0,       -- 1: a reply brings the next round's question along
    key_fingerprint TEXT,                       -- of the API key that created the job
    remote_file TEXT,
    uploaded_at REAL,
    intent_at REAL,                             -- when the create call was about to be sent
    empty_listings INTEGER NOT NULL DEFAULT 0,
    first_empty_listing_at REAL,
    remote_id TEXT,
    submitted_at REAL,
    remote_state TEXT,
    started_at REAL,
    not_found_count INTEGER NOT NULL DEFAULT 0,
    not_found_since REAL,
    ended_at REAL,
    collected_at REAL,
    error TEXT,
    late_results_until REAL,                    -- until then, a batch that ended without results may still get some
    failed_uploads INTEGER NOT NULL DEFAULT 0,
    incomplete_downloads INTEGER NOT NULL DEFAULT 0,
    replies_with_thoughts INTEGER NOT NULL DEFAULT 0,
    echo INTEGER NOT NULL DEFAULT 0,            -- 1: the schema of each request fixes the echo that its reply must hold
    overdue_since REAL                          -- when the user was first told that the results do not come
) STRICT;
CREATE INDEX by_state ON batches (state, batch);
-- All columns that the totals of the ledger need, a quarter of its bytes: every `status` adds them up.
CREATE INDEX ledger ON batches
    (position, provider, model, follow_up, state, requests, estimated_usd, reserved_usd);
CREATE INDEX awaited ON batches (late_results_until) WHERE late_results_until IS NOT NULL;

-- The outcomes of each batch's requests, added up by reason, with the tokens that were billed.
CREATE TABLE outcomes (
    batch INTEGER NOT NULL REFERENCES batches,
    reason TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    thought_tokens INTEGER NOT NULL,
    usd REAL,                                   -- NULL: the price was unknown when the batch was settled
    PRIMARY KEY (batch, reason)
) STRICT, WITHOUT ROWID;

-- Every request that failed. A request that is not here and has a text was accepted.
CREATE TABLE failures (
    batch INTEGER NOT NULL REFERENCES batches,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (batch, number)
) STRICT, WITHOUT ROWID;

-- Why something is not submitted now. holds.py says what a scope is: a model ("gemini/MODEL"), a step, or a halt.
CREATE TABLE holds (
    scope TEXT PRIMARY KEY,
    until REAL,                                 -- NULL: until the user acts
    hits INTEGER NOT NULL,                      -- refusals of a quota in a row
    reason TEXT NOT NULL,
    since REAL                                  -- when a quota first refused; after a day, the user is told to act
) STRICT, WITHOUT ROWID;

-- Derived files (round files, rejected.jsonl, ...) that are older than the store.
CREATE TABLE outdated_files (file TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

-- The outcomes of all batches added up, so that the cost of a total does not grow with the number of batches.
-- The two triggers below keep it up to date. Late results replace the outcomes of a batch: the old ones are subtracted.
CREATE TABLE usage_totals (
    position INTEGER NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    follow_up INTEGER NOT NULL,
    reason TEXT NOT NULL,
    priced INTEGER NOT NULL,                    -- 1: the price was known when the requests were settled
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    thought_tokens INTEGER NOT NULL,
    usd REAL NOT NULL,
    PRIMARY KEY (position, provider, model, follow_up, reason, priced)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER usage_added AFTER INSERT ON outcomes BEGIN
    INSERT INTO usage_totals
    SELECT position, provider, model, follow_up, NEW.reason, NEW.usd IS NOT NULL,
        +NEW.requests, +NEW.input_tokens, +NEW.cached_tokens, +NEW.output_tokens, +NEW.thought_tokens,
        +coalesce(NEW.usd, 0)
    FROM batches WHERE batch = NEW.batch
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests,
        input_tokens = input_tokens + excluded.input_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        thought_tokens = thought_tokens + excluded.thought_tokens,
        usd = usd + excluded.usd;
END;

CREATE TRIGGER usage_removed AFTER DELETE ON outcomes BEGIN
    INSERT INTO usage_totals
    SELECT position, provider, model, follow_up, OLD.reason, OLD.usd IS NOT NULL,
        -OLD.requests, -OLD.input_tokens, -OLD.cached_tokens, -OLD.output_tokens, -OLD.thought_tokens,
        -coalesce(OLD.usd, 0)
    FROM batches WHERE batch = OLD.batch
    ON CONFLICT DO UPDATE SET
        requests = requests + excluded.requests,
        input_tokens = input_tokens + excluded.input_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        thought_tokens = thought_tokens + excluded.thought_tokens,
        usd = usd + excluded.usd;
    DELETE FROM usage_totals WHERE requests = 0;
END;
