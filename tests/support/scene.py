"""`Scene`: a prepared run of two rounds. It checks the invariants after each command.

Also: the amount spent according to the ledger (`spent`) and according to the raw result lines (`bill`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from batchgen import providers
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import batch_rate
from batchgen.providers.base import ConnectionOptions
from tests.support.bench import Bench, Result, seeds
from tests.support.invariants import ORDER, ROUNDS, Watch, finished, ledger, undisturbed

Make = Callable[..., Bench]
HOUR = 3600.0
MINUTE = 60.0
ROUNDING_USD = 2e-6  # `status` prints millionths


class Scene:
    """A run of two rounds on a bench. It checks the invariants after every command."""

    def __init__(self, bench: Bench, expected: dict[str, bytes] | None = None) -> None:
        """`expected` holds the files of the same run without a fault, for `finish_as_expected`."""
        self.bench, self.watch, self.duplicates, self.expected = bench, Watch(bench), 0, expected

    @classmethod
    def of(cls, make_bench: Make, conversations: int = 5, toml: str = "", *, most: int = 0, **options: Any) -> Scene:
        """Prepare a run. A batch holds at most `most` requests (0: all), and half as many after a failed attempt."""
        expected = undisturbed(make_bench, conversations)
        bench = make_bench(**options)
        bench.configure(f"{ROUNDS}batches.max_requests = {most or conversations}\n{toml}")
        assert bench.prepare(seeds(conversations)).code == 0
        return cls(bench, expected)

    def run(self, *arguments: str) -> Result:
        result = self.bench.run(*arguments)
        assert "Traceback" not in result.err
        self.watch.check(duplicates=self.duplicates, said=[result.out, result.err])
        return result

    def tick(self, after: float = 0.0) -> Result:
        """Run one tick, `after` this many seconds."""
        self.bench.service.world.advance(after)
        return self.run("collect", "--advance")

    def finish(self, every: float = 5 * MINUTE, most: int = 40) -> list[Result]:
        """Run ticks until the run is finished and nothing is in flight. Check the invariants and the amount spent."""
        done = []
        for _ in range(most):
            done.append(self.tick(every))
            if self.bench.is_finished() and not any(batch["state"] in ORDER for batch in ledger(self.bench).batches):
                break
        finished(self.bench, duplicates=self.duplicates)
        assert abs(spent(self.bench) - bill(self.bench)) < ROUNDING_USD
        return done

    def finish_as_expected(self, every: float = 5 * MINUTE, *, jobs: int = 0) -> list[Result]:
        """`finish`, and compare the files with a run without a fault, and the number of `jobs` (0: any)."""
        done = self.finish(every)
        assert self.bench.files() == self.expected
        assert not jobs or self.jobs() == jobs
        return done

    def jobs(self, provider: str = "") -> int:
        return len(self.bench.service.world.jobs_created(provider))

    def batches(self, position: int = 3) -> list[tuple[int, int, str]]:
        """(attempt, requests, state) of every batch of a step: 3, 4, 5 for question, answer, correction of round 2."""
        rows = ledger(self.bench).batches
        return [(row["attempt"], row["requests"], row["state"]) for row in rows if row["position"] == position]


def reach(scene: Scene, provider: str) -> None:
    """Run ticks until the provider's first batch is in flight."""
    for _ in range(1 if provider == "gemini" else 2):
        assert scene.tick().code == 0


def bought_again(bench: Bench, row: dict[str, Any], times: int = 3) -> list[str]:
    """Repeat the create call of a batch that got no answer, to make duplicates. Returns their job ids."""
    table, keys, made = providers.find_provider(row["provider"]), bench.environment, []
    access = ConnectionOptions(keys[table.key_variable], keys[table.url_variable], 10.0, "v1beta")
    with closing(providers.connect(table, access)) as remote:
        for _ in range(times):
            bench.service.world.advance(10)
            made.append(remote.create(model=row["model"], file_id=row["remote_file"], name=row["name"]))
    return made


def built_again(scene: Scene) -> None:
    """Rebuild the store and check that it has the same texts and the same bill."""
    before, receipt = ledger(scene.bench).texts, scene.run("receipt", "--json").json
    store = scene.bench.root / "data" / "batchgen.sqlite"
    store.rename(store.with_suffix(".old"))
    assert scene.bench.run("rebuild").code == 0
    assert ledger(scene.bench).texts == before
    assert scene.bench.run("receipt", "--json").json["total"] == receipt["total"]
    assert scene.bench.run("verify").code == 0


def failed_requests(bench: Bench) -> list[tuple[int, str, int]]:
    """(conversation, reason, attempt) of every failed request, in the order of the batches."""
    query = "SELECT number, f.reason, b.attempt FROM failures f JOIN batches b USING (batch) ORDER BY batch, number"
    with closing(sqlite3.connect(bench.root / "data" / "batchgen.sqlite")) as database:
        return database.execute(query).fetchall()


def spent(bench: Bench) -> float:
    return round(float(bench.status()["cost"]["spent_usd"]), 6)


def bill(bench: Bench) -> float:
    """The price in USD of the tokens that the raw result lines name. Equal lines of a file count once."""
    total = 0.0
    models = {row["name"]: (row["provider"], row["model"]) for row in ledger(bench).batches}
    for path in (bench.root / "results").rglob("*.jsonl"):
        price = batch_rate(*models[path.name.split(".")[0]], {})
        assert price is not None
        total += sum(price.usd(_usage(line)) for line in set(path.read_bytes().split(b"\n")))
    return round(total, 6)


def _usage(line: bytes) -> Usage:
    try:
        response = json.loads(line)["response"] or {}
    except (ValueError, KeyError):
        return Usage()
    gemini = response.get("usageMetadata")
    if gemini is not None:
        output = gemini.get("candidatesTokenCount", 0) + gemini.get("thoughtsTokenCount", 0)
        return Usage(input=gemini["promptTokenCount"], output=output)
    usage = response.get("body", {}).get("usage", {})
    return Usage(input=usage.get("prompt_tokens", 0), output=usage.get("completion_tokens", 0))
