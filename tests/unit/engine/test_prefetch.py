"""Test that downloads of ended batches overlap, and that this changes nothing else."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait
from pathlib import Path
from typing import BinaryIO

import pytest

from batchgen.core.errors import NotReady
from batchgen.emulator.faults import ALWAYS, CallFault, Delay, Status
from batchgen.engine.collection.prefetch import MAX_PREFETCHED_BYTES, Prefetch
from batchgen.providers.base import Job, JobNotFound, JobState
from tests.support.bench import Bench, seeds
from tests.support.during_call import PATIENCE_SECONDS, goes_on, interrupted, released
from tests.support.invariants import ROUNDS, Make, Watch, ledger
from tests.support.slow import slow

BATCHES = 5
BEFORE = {"gemini": [], "together": [["collect", "--advance"]]}  # commands before the provider's first jobs


def ready(bench: Bench, provider: str) -> None:
    """BATCHES batches of one request each have ended at `provider`; none was polled since."""
    bench.configure(f"{ROUNDS}batches.max_requests = 1\n")
    assert bench.prepare(seeds(BATCHES)).code == 0
    assert bench.run("submit", "--stage", "question").code == 0
    for command in BEFORE[provider]:
        assert bench.run(*command).code == 0


def downloads(bench: Bench, provider: str) -> int:
    return len(bench.service.world.seen(provider, "download"))


@pytest.mark.parametrize("provider", BEFORE)
def test_downloads_overlap(provider: str, bench: Bench) -> None:
    """The second download is answered only after the third one has arrived."""
    ready(bench, provider)
    held = CallFault(provider=provider, endpoint="download", nth=2, times=2, action=Delay(PATIENCE_SECONDS))
    bench.service.faults.add(held)
    with released(bench, lambda: downloads(bench, provider) >= 3):
        done = bench.run("collect", "--json")
    assert (done.code, done.json["collected"]) == (0, BATCHES)
    assert downloads(bench, provider) == BATCHES


@pytest.mark.parametrize(
    ("endpoint", "unlucky"),
    [
        *(("get", 0), ("get", BATCHES - 1), ("download", 0), ("download", 2)),
        *(slow("get", unlucky) for unlucky in range(1, BATCHES - 1)),
        *(slow("download", unlucky) for unlucky in range(BATCHES) if unlucky not in {0, 2}),
    ],
)
def test_trouble_comes_in_its_turn(endpoint: str, unlucky: int, make_bench: Make) -> None:
    """One batch cannot be downloaded now: those before it are booked, it is not, and the rest goes on as usual."""
    bench = make_bench()
    ready(bench, "gemini")
    job = bench.service.world.jobs_created("gemini")[unlucky]
    name = job.id if endpoint == "get" else job.id.removeprefix("batches/")
    bench.service.faults.add(CallFault(endpoint=endpoint, contains=name, times=ALWAYS, action=Status(503)))
    assert bench.run("collect").code == 75
    states = [row["state"] for row in ledger(bench).batches]
    assert states == ["collected"] * unlucky + ["in_flight"] * (BATCHES - unlucky)
    watch = Watch(bench)
    goes_on(bench)
    watch.check()


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_downloads(bench: Bench) -> None:
    """Every download after the one that is booked hangs; the program ends at once, and the next tick continues."""
    ready(bench, "gemini")
    bench.service.faults.add(CallFault(endpoint="download", nth=2, times=ALWAYS, action=Delay(PATIENCE_SECONDS)))
    interrupted(bench, ["collect"], lambda: downloads(bench, "gemini") >= BATCHES)
    watch = Watch(bench)
    goes_on(bench)
    watch.check()


class Shelf:
    """The read calls of a provider, with a log of the calls; some raise an exception."""

    def __init__(self, trouble: dict[str, Exception]) -> None:
        self.trouble, self.asked = trouble, Counter[str]()

    def get(self, remote_id: str) -> Job:
        self._ask(remote_id)
        return Job(remote_id, JobState.SUCCEEDED, "SUCCEEDED", output=f"file {remote_id}")

    def download(self, file_id: str, destination: BinaryIO) -> None:
        self._ask(file_id)
        destination.write(file_id.encode())

    def _ask(self, name: str) -> None:
        self.asked[name] += 1
        if name in self.trouble:
            raise self.trouble.pop(name)


def shelf(size: int = 1, **trouble: Exception) -> tuple[Shelf, Prefetch]:
    here = Shelf({name.replace("_", " "): error for name, error in trouble.items()})
    return here, Prefetch(here, dict.fromkeys("abcdef", size))


def brought(ahead: Prefetch, name: str, path: Path) -> bytes:
    with path.open("wb") as stream:
        ahead.download(f"file {name}", stream)
    return path.read_bytes()


def settle(ahead: Prefetch) -> None:
    wait([one for one in ahead._under_way.values() if one])


def test_nothing_is_asked_before_it_is_due_and_at_most_a_few_wait(tmp_path: Path) -> None:
    depth = 2
    here, ahead = shelf(size=MAX_PREFETCHED_BYTES // depth)
    for at, name in enumerate("abcdef"):
        assert ahead.get(name).remote_id == name
        assert brought(ahead, name, tmp_path / "body") == f"file {name}".encode()
        settle(ahead)
        assert len(here.asked) == 2 * min(at + depth if at else 1, 6)
        ahead.start_after(name)
        settle(ahead)
        assert len(here.asked) == 2 * min(at + 1 + depth, 6)
    assert set(here.asked.values()) == {1}


def test_the_very_next_batch_is_fetched_whatever_its_size() -> None:
    here, ahead = shelf(size=MAX_PREFETCHED_BYTES + 1)
    ahead.start_after("a")
    settle(ahead)
    assert here.asked == {"b": 1, "file b": 1}


def test_what_went_wrong_is_raised_once_and_then_asked_again(tmp_path: Path) -> None:
    here, ahead = shelf(size=MAX_PREFETCHED_BYTES // 2, b=JobNotFound("no b"), file_c=NotReady("no file c"))
    ahead.get("a")
    ahead.start_after("a")
    with pytest.raises(JobNotFound, match="no b"):
        ahead.get("b")
    assert ahead.get("b").remote_id == "b"
    ahead.get("c")
    with pytest.raises(NotReady, match="no file c"):
        brought(ahead, "c", tmp_path / "body")
    assert brought(ahead, "c", tmp_path / "body") == b"file c"
    assert here.asked == {"a": 1, "b": 2, "c": 1, "file c": 2}
