"""Test that a command reports every fault it met, however it ends. The worst fault decides the exit status."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from batchgen.emulator.faults import CallFault, Status
from batchgen.engine.session import Session
from batchgen.engine.submission import submit
from batchgen.ledger.store import Store
from tests.support.bench import Bench, seeds
from tests.support.scene import HOUR, MINUTE, Make, Scene

LOST = "it is given up, and what it cost is unknown"


def nearly_lost(make_bench: Make) -> Scene:
    """A run whose only job was unknown to its provider at five polls; at the next one it is lost."""
    scene = Scene.of(make_bench, 4)
    scene.tick()
    [job] = scene.bench.service.world.jobs
    scene.bench.service.faults.add(CallFault(endpoint="get", contains=job, action=Status(404, "Not found."), times=0))
    for _ in range(4):
        assert scene.tick(MINUTE).code == 75
    scene.bench.service.world.advance(3 * HOUR)
    return scene


@pytest.mark.fault(
    22,
    "a job is lost, and something else ends the tick that says so",
    injected="404 for two hours; then a full disk, a forbidden path, Ctrl-C",
    seen="both are told; the status of the worse one, 130 after Ctrl-C",
)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "requests"), 3),
        (OSError(errno.EACCES, "Permission denied", "requests"), 2),
        (sqlite3.OperationalError("database or disk is full"), 3),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=["full", "forbidden", "store", "pipe", "ctrl-c"],
)
def test_a_lost_job_is_told_whatever_ends_the_tick(
    error: BaseException, code: int, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported once only, so this tick must report it."""
    scene = nearly_lost(make_bench)

    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(submit, "write_durably", fails)
        done = scene.bench.run("collect", "--advance")
    assert done.code == code
    assert LOST in done.err
    assert str(error.args[-1] if code == 2 else "") in done.err
    scene.finish()


def test_a_lost_job_is_told_at_the_end_of_a_wait(make_bench: Make) -> None:
    """The later ticks finish the run and do not mention it."""
    scene = nearly_lost(make_bench)
    done = scene.run("run")
    assert scene.bench.status()["finished"]
    assert (done.code, done.err.count(LOST)) == (3, 1)


def test_the_first_error_is_told_where_closing_fails_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed `prepare` asks the store whether to keep it; if that fails too, only the first error is reported."""

    asked: list[str] = []

    def fails(_: Store, key: str) -> None:
        asked.append(key)
        if asked.count("run") > 1:
            raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(Store, "fact", fails)
    done = bench.run("prepare", "--input", str(bench.root / "nowhere.jsonl"))
    assert done.code == 2
    assert "nowhere.jsonl" in done.err
    assert "malformed" not in done.err
    assert asked.count("run") == 2


@pytest.mark.parametrize("command", [["collect"], ["report"]])
def test_the_first_error_is_told_where_the_store_cannot_be_closed(
    command: list[str], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.prepare(seeds(2))

    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Session, "require_complete_store", lambda _: bench.root.joinpath("gone").rename(bench.root))
    monkeypatch.setattr(Store, "close", fails)
    done = bench.run(*command)
    assert done.code == 2
    assert "gone" in done.err
    assert "disk I/O error" not in done.err
