"""Count the HTTP calls of a batch from its submission to its collection. docs/performance.md states the numbers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from tests.project.test_imports import LOADED
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.invariants import ROUNDS, Make

UPLOADS = {
    "gemini": {"upload_start", "upload_data"},
    "together": {"upload_start", "upload_data", "upload_finish"},
    "deepinfra": {"upload_whole"},
}
EXPECTED = {
    "gemini": (2, 1, 1, 1),
    "together": (3, 1, 1, 1),
    "deepinfra": (1, 1, 1, 2),
}  # calls for upload, create, poll, download
BATCHES = 6


def calls(bench: Bench, provider: str) -> Counter[str]:
    return Counter(seen.endpoint for seen in bench.service.world.seen(provider))


def finished(bench: Bench) -> None:
    bench.configure(f"{ROUNDS}batches.max_requests = 1\n")
    assert bench.prepare(seeds(BATCHES)).code == 0
    bench.ticks()
    assert bench.status()["finished"]


@pytest.mark.parametrize("provider", EXPECTED)
def test_calls_of_a_batch(provider: str, bench: Bench) -> None:
    finished(bench)
    found = calls(bench, provider)
    batches = found["create"]
    uploads = sum(found[endpoint] for endpoint in UPLOADS[provider])
    assert (uploads, batches, found["get"], found["download"]) == tuple(batches * each for each in EXPECTED[provider])
    ticks = batches // BATCHES
    assert found["list"] == ticks  # one for all batches of a tick
    assert found["probe"] == 1  # once per run
    assert sum(found.values()) == sum(EXPECTED[provider]) * batches + ticks + 1


@pytest.mark.parametrize(("batches", "looks"), [(2, {"get": 2}), (BATCHES, {"list": 1})])
def test_calls_of_a_tick_while_nothing_has_ended(batches: int, looks: dict[str, int], make_bench: Make) -> None:
    bench = make_bench(job_seconds=3600.0)
    bench.configure(f"{ROUNDS}batches.max_requests = 1\n")
    assert bench.prepare(seeds(batches)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    before = calls(bench, "gemini")
    assert bench.run("collect", "--advance").code == 0
    assert calls(bench, "gemini") - before == Counter(looks)
    assert calls(bench, "together")["list"] == 0


@pytest.mark.parametrize("provider", EXPECTED)
def test_the_table_says_so(provider: str) -> None:
    cells = " | ".join(map(str, (*EXPECTED[provider], sum(EXPECTED[provider]))))
    assert f"| {provider} | {cells} |" in (REPOSITORY / "docs" / "performance.md").read_text("utf-8")


@pytest.mark.slow
def test_a_tick_while_nothing_has_ended_loads_no_polars(make_bench: Make) -> None:
    bench = make_bench(job_seconds=3600.0)
    assert bench.prepare(seeds(2)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv=["--root", str(bench.root), "collect", "--advance"])],
        env=bench.environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = set(done.stdout.rpartition("loaded:")[2].split())
    assert "batchgen.engine.collection.poll" in found
    assert {"polars", "jsonschema_rs", "together"} & found == set()
