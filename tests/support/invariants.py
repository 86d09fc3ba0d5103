"""Check what must be true after every command, after any fault.

`Watch` compares the files of a root with the requests that the local service received. `start`, `tick`, `until` and
`end` run commands on a bench.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batchgen.core.dialogue import FIRST_JUDGEMENT, Step
from batchgen.engine.duplicates import MARK
from batchgen.ledger.run import Names
from tests.support.bench import GEMINI_KEY, SERVICE_KEY, TOGETHER_KEY, Bench, Result, seeds

ORDER = {"planned": 0, "uploaded": 1, "creating": 2, "in_flight": 3}  # every other state is final
END = 4
# The columns by which usage totals are grouped, and the columns that are added up.
APART = ("position", "provider", "model", "follow_up", "reason", "priced")
ADDED = ("requests", "input_tokens", "cached_tokens", "output_tokens", "thought_tokens", "usd")


class Ledger(NamedTuple):
    """The rows of the store on disk."""

    batches: list[dict[str, Any]]
    conversations: list[dict[str, Any]]
    texts: dict[int, tuple[int | None, str]]
    meta: dict[str, str]
    waits: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    bills: list[dict[str, Any]]


def ledger(bench: Bench) -> Ledger:
    """Read the store with SQL, without the code of the program."""
    path = bench.root / "data" / "batchgen.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        batches = [dict(row) for row in database.execute("SELECT * FROM batches ORDER BY batch")]
        conversations = [dict(row) for row in database.execute("SELECT * FROM conversations ORDER BY number")]
        texts = {place: (batch, text) for place, batch, text in database.execute("SELECT * FROM texts")}
        meta = dict(database.execute("SELECT key, value FROM run_facts").fetchall())
        waits = [dict(row) for row in database.execute("SELECT * FROM holds ORDER BY scope")]
        outcomes = [dict(row) for row in database.execute("SELECT * FROM outcomes")]
        bills = [dict(row) for row in database.execute("SELECT * FROM usage_totals")]
    return Ledger(batches, conversations, texts, meta, waits, outcomes, bills)


class Watch:
    """Checks a bench after each command, also against earlier checks: texts stay, states of batches do not go back."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._states: dict[int, int] = {}
        self._attempts: dict[tuple[int, int], int] = {}
        self._texts: dict[int, tuple[int | None, str]] = {}
        self._read: set[tuple[str, int, int, int]] = set()

    def check(self, *, duplicates: int = 0, said: Iterable[str] = ()) -> Ledger:
        """Check every invariant. `duplicates` is the number of jobs that were bought twice and reported as such."""
        now = ledger(self.bench)
        self._bought(now, duplicates)
        self._write_once(now)
        self._forward(now)
        self._accounted(now)
        self._provenance(now)
        self._added_up(now)
        no_key_anywhere(self.bench, said, self._read)
        return now

    def _bought(self, now: Ledger, duplicates: int) -> None:
        """I1: each created job is in the ledger, or is being looked for, or was reported. Jobs that the ledger names
        duplicates were not bought by an error of the program.
        """
        jobs = self.bench.service.world.jobs
        known = {batch["remote_id"].removeprefix("batches/") for batch in now.batches if batch["remote_id"]}
        assert known <= set(jobs)
        sought = {batch["name"] for batch in now.batches if batch["state"] == "creating"}
        sought |= {batch["remote_file"] for batch in now.batches if batch["state"] == "creating"}
        strangers = [job for job in jobs.values() if job.id not in known and not {job.name, job.input_file} & sought]
        assert len(strangers) == duplicates, [job.name for job in strangers]
        accidents = {batch["remote_id"].removeprefix("batches/") for batch in now.batches if MARK in batch["name"]}
        bought = [key for job in jobs.values() if job.id not in accidents for key in job.keys]
        twice = [key for key, count in Counter(bought).items() if count > 1]
        assert duplicates or not twice, twice

    def _write_once(self, now: Ledger) -> None:
        """I2: an accepted text never changes."""
        assert self._texts.items() <= now.texts.items()
        self._texts = now.texts

    def _forward(self, now: Ledger) -> None:
        """I8: batches move towards an end and attempts only grow. Only an explicit error leads back to an upload."""
        for batch in now.batches:
            rank = ORDER.get(batch["state"], END)
            before = self._states.get(batch["batch"], 0)
            assert rank >= before or before == ORDER["creating"] or before == ORDER["uploaded"], batch
            self._states[batch["batch"]] = rank
        for row in now.conversations:
            place = (row["number"], row["position"])
            assert row["attempt"] >= self._attempts.get(place, 0)
            self._attempts[place] = row["attempt"]

    def _accounted(self, now: Ledger) -> None:
        """I4: every conversation is in exactly one live batch, or ready, rejected or complete. A live batch may have
        none left, if late results brought their texts.
        """
        live = {batch["batch"]: batch for batch in now.batches if batch["state"] in ORDER}
        held = Counter(row["batch"] for row in now.conversations if row["batch"] is not None)
        assert held == {number: batch["requests"] for number, batch in live.items() if batch["requests"]}
        assert all(row["reason"] is None for row in now.conversations if row["batch"] is not None)
        assert all(row["position"] == live[row["batch"]]["position"] for row in now.conversations if row["batch"])
        dialogues = [row for row in now.conversations if row["number"] < FIRST_JUDGEMENT]
        assert len(dialogues) == int(now.meta.get("conversations", 0))

    def _provenance(self, now: Ledger) -> None:
        """I3: each accepted text was requested under its own key in the job of its batch."""
        batches = {batch["batch"]: batch for batch in now.batches}
        keys = {job: set(keys) for job, keys in self.bench.service.world.keys_by_job.items()}
        for place, (source, _) in now.texts.items():
            if source is None:
                continue
            number, position = divmod(place, 256)
            batch = batches[source]
            key = Names(now.meta["run"], int(now.meta["id_digits"])).key(number, Step.at(position), batch["attempt"])
            assert key in keys[batch["remote_id"].removeprefix("batches/")]

    def _added_up(self, now: Ledger) -> None:
        """The usage totals equal the sum over the batches."""
        batches = {batch["batch"]: batch for batch in now.batches}
        single = _of_bills({**batches[row["batch"]], **row, "priced": row["usd"] is not None} for row in now.outcomes)
        kept = _of_bills(now.bills)
        assert kept.keys() == single.keys()
        assert all(kept[key] == pytest.approx(single[key]) for key in kept)


def _of_bills(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], dict[str, float]]:
    """Requests, tokens and USD by the columns of APART."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        amounts = found.setdefault(tuple(row[name] for name in APART), dict.fromkeys(ADDED, 0.0))
        for name in ADDED:
            amounts[name] += row[name] or 0.0
    return found


def no_key_anywhere(bench: Bench, said: Iterable[str] = (), read: set[tuple[str, int, int, int]] | None = None) -> None:
    """I5: the planted keys are in no file and in no output. Files in `read` were read before, as they are."""
    secrets = [key.encode() for key in (GEMINI_KEY, TOGETHER_KEY, SERVICE_KEY)]
    read = set() if read is None else read
    for folder, _, names in os.walk(bench.root):
        for path in (f"{folder}/{name}" for name in names):
            found = Path(path).stat()
            this = (path, found.st_ino, found.st_size, found.st_mtime_ns)
            if this not in read:
                data = Path(path).read_bytes()
                assert not any(secret in data for secret in secrets), path
                read.add(this)
    for text in said:
        assert not any(secret in text.encode() for secret in secrets), text


def finished(bench: Bench, *, duplicates: int = 0) -> Ledger:
    """Check that the run is finished, `verify` finds nothing, no batch is open, and the ledger names every job."""
    assert bench.status()["finished"]
    result = bench.run("verify")
    assert result.code == 0, result
    now = Watch(bench).check(duplicates=duplicates)
    assert not [batch for batch in now.batches if batch["state"] in ORDER]
    return now


Make = Callable[..., Bench]
ROUNDS = "rounds = 2\n"
CONVERSATIONS = 4
_undisturbed: dict[int, dict[str, bytes]] = {}


def undisturbed(make_bench: Make, conversations: int) -> dict[str, bytes]:
    """The dataset files of a run of two rounds without a fault. Call it before the test makes its own bench."""
    if conversations not in _undisturbed:
        bench = make_bench(root=f"undisturbed{conversations}")
        bench.configure(ROUNDS)
        bench.prepare(seeds(conversations))
        bench.ticks()
        finished(bench)
        _undisturbed[conversations] = bench.files()
    return _undisturbed[conversations]


def bought_once(bench: Bench) -> None:
    """Check that each step of each conversation was paid for once, under any key."""
    conversations, steps = int(ledger(bench).meta["conversations"]), len(bench.status()["steps"])
    assert len(bench.service.world.bought_keys) == conversations * steps


def start(bench: Bench, batches: str = "", more: str = "") -> Bench:
    """A prepared bench; `batches` is the content of that table of batchgen.toml, `more` the text before it."""
    bench.configure(f"{ROUNDS}{more}\n[batches]\n{batches}")
    assert bench.prepare(seeds(CONVERSATIONS)).code == 0
    return bench


def tick(bench: Bench, after: float = 0.0) -> Result:
    """Run `collect --advance`, `after` this many seconds."""
    bench.service.world.advance(after)
    return bench.run("collect", "--advance")


def until(bench: Bench, code: int, *, every: float = 0.0) -> Result:
    """Run a tick `every` this many seconds until one exits with `code`. Those before it must exit with 0."""
    for _ in range(10):
        result = tick(bench, every)
        if result.code == code:
            return result
        assert result.code == 0, result
    raise AssertionError(f"no tick left with {code}")


def met(bench: Bench, faults: int) -> Result:
    """Run ticks until this many faults took effect. On a busy machine, ticks before that may time out."""
    for _ in range(10):
        result = tick(bench)
        assert result.code in {0, 75}, result
        if bench.service.faults.struck() >= faults:
            return result
    raise AssertionError(f"{faults} faults were never met")


def posts(bench: Bench, provider: str = "gemini") -> int:
    """Create calls that reached a provider."""
    return len(bench.service.world.seen(provider, "create"))


def strikes(bench: Bench) -> set[int]:
    """Failures that count against max_attempts, over all conversations."""
    return {row["failed_attempts"] for row in ledger(bench).conversations}


def end(bench: Bench, expected: dict[str, bytes], *, jobs: int = 0) -> None:
    """Finish the run. Check its files, that nothing was bought twice, and the number of `jobs` unless it is 0."""
    bench.ticks(seconds=600)
    finished(bench)
    assert bench.files() == expected
    bought_once(bench)
    assert not jobs or bench.service.world.batches_bought == jobs
