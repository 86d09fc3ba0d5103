"""Test a disk that is full or fails (33): old files stay, exit 75, and the run continues when there is space."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.invariants import ROUNDS, Make, Watch, end, ledger, undisturbed

CONVERSATIONS = 3
WORLD = ("files", "jobs", "progress", "uploads", "posts", "requests", "serial", "offset")
WRITING = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE")


class Disk:
    """Counts every write, fsync, rename and store statement; number `nth` fails (`forever`: and all after it).

    A refused write has no effect, as on a full disk.
    """

    def __init__(self) -> None:
        self.count = self.nth = 0
        self.number = errno.ENOSPC
        self.forever = True

    def trouble(self) -> OSError | None:
        self.count += 1
        due = self.nth and (self.count == self.nth or (self.forever and self.count > self.nth))
        return OSError(self.number, os.strerror(self.number), "somewhere") if due else None

    def act(self) -> None:
        if error := self.trouble():
            raise error


class _Stream:
    """A file whose writes may fail."""

    def __init__(self, stream: Any, disk: Disk) -> None:
        self._stream, self._disk = stream, disk

    def write(self, data: bytes) -> int:
        self._disk.act()
        return int(self._stream.write(data))

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A Disk that counts every write of this process."""
    shim = Disk()
    fsync, replace, opened, connect = os.fsync, Path.replace, Path.open, sqlite3.connect

    def failing_fsync(handle: int) -> None:
        shim.act()
        fsync(handle)

    def failing_replace(self: Path, target: Path) -> Path:
        shim.act()
        return replace(self, target)

    def failing_open(self: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        stream = opened(self, mode, *arguments, **more)
        return _Stream(stream, shim) if mode == "wb" else stream

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            self._refuse(sql)
            return super().execute(sql, *parameters)

        def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
            self._refuse(sql)
            return super().executemany(sql, parameters)

        def _refuse(self, sql: str) -> None:
            if sql.startswith(WRITING) and (error := shim.trouble()):
                full = error.errno == errno.ENOSPC
                raise sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")

    def failing_connect(*arguments: Any, **more: Any) -> sqlite3.Connection:
        return connect(*arguments, **more, factory=Connection)

    monkeypatch.setattr(os, "fsync", failing_fsync)
    monkeypatch.setattr(Path, "replace", failing_replace)
    monkeypatch.setattr(Path, "open", failing_open)
    monkeypatch.setattr("batchgen.ledger.connection.sqlite3.connect", failing_connect)
    monkeypatch.setattr(
        "batchgen.ledger.connection.BUSY_TIMEOUT_SECONDS", 0.0
    )  # a lock that was not released is another error
    return shim


class Moment(NamedTuple):
    """A saved state of a run and its service, which a test can restore."""

    root: Path
    world: dict[str, Any]
    blobs: dict[str, bytes]


def remember(bench: Bench, name: str) -> Moment:
    world: Any = bench.service.world
    root = bench.root.with_name(name)
    shutil.copytree(bench.root, root)
    with world.lock:
        state = {field: copy.deepcopy(getattr(world, field)) for field in WORLD}
        return Moment(root, state, dict(world.store._blobs))


def come_back(bench: Bench, moment: Moment) -> None:
    world: Any = bench.service.world
    shutil.rmtree(bench.root)
    shutil.copytree(moment.root, bench.root)
    with world.lock:
        for field, value in copy.deepcopy(moment.world).items():
            setattr(world, field, value)
        world.store._blobs = dict(moment.blobs)


def outline(bench: Bench) -> tuple[list[tuple[str, int, int]], int, int]:
    """The progress of a run: its batches, its texts, the jobs bought."""
    now = ledger(bench)
    batches = [(batch["state"], batch["position"], batch["attempt"]) for batch in now.batches]
    return batches, len(now.texts), bench.service.world.batches_bought


@pytest.fixture
def expected(make_bench: Make) -> dict[str, bytes]:
    return undisturbed(make_bench, CONVERSATIONS)


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    bench = make_bench()
    bench.configure(ROUNDS)
    assert bench.prepare(seeds(CONVERSATIONS)).code == 0
    return bench


@contextmanager
def failing(disk: Disk, nth: int, number: int, *, forever: bool) -> Iterator[None]:
    disk.count, disk.nth, disk.number, disk.forever = 0, nth, number, forever
    yield
    disk.nth = 0


@pytest.mark.fault(
    33,
    "the disk is full or fails at any write of a tick",
    injected="the N-th write, fsync, rename or store statement, for all N",
    seen="status 75; `status` works meanwhile; the next tick arrives where an undisturbed one does",
)
@pytest.mark.parametrize("ticks", [0, 1, 3], ids=["submit", "collect_submit", "collect_files"])
def test_33_every_write_of_a_tick_fails_once(ticks: int, bench: Bench, disk: Disk, expected: dict[str, bytes]) -> None:
    """For all N: the N-th write of a tick fails, either alone (bad sector) or with all after it (full disk).

    The tick reports it and exits with 75, `status` works meanwhile, and the next tick reaches the usual state.
    """
    for _ in range(ticks):
        assert bench.run("collect", "--advance").code == 0
    moment = remember(bench, "before")
    disk.count = 0
    assert bench.run("collect", "--advance").code == 0
    events, aims = disk.count, [outline(bench)]
    assert events > 10
    assert bench.run("collect", "--advance").code == 0
    aims.append(outline(bench))  # the state after the next tick, if the disturbed one had done all its work
    for nth in range(1, events + 1):
        come_back(bench, moment)
        forever = nth % 2 == 0
        with failing(disk, nth, errno.ENOSPC if forever else errno.EIO, forever=forever):
            broken = bench.run("collect", "--advance")
            assert (nth, broken.code) == (nth, 75), broken
            assert "Traceback" not in broken.err
            assert (nth, bench.run("status").code) == (nth, 0)
        Watch(bench).check()
        clean = bench.run("collect", "--advance")
        assert (nth, clean.code) == (nth, 0), clean
        assert outline(bench) in aims, nth
        Watch(bench).check()
    end(bench, expected)


@pytest.mark.fault(
    33,
    "the disk is full during `prepare`",
    injected="the N-th write, for all N",
    seen="status 75; `prepare` again: round 1 is there",
)
@pytest.mark.slow
def test_33_prepare_on_a_full_disk(bench: Bench, disk: Disk, expected: dict[str, bytes]) -> None:
    """After any failed write, `prepare` makes round 1 when there is space again."""
    arguments = ("prepare", "--input", str(bench.root / "seeds.jsonl"), "--all")
    source = bench.root.with_name("seeds.jsonl")
    shutil.copy(bench.root / "seeds.jsonl", source)
    nth = 0
    while True:
        nth += 1
        shutil.rmtree(bench.root / "data")
        with failing(disk, nth, errno.ENOSPC, forever=True):
            broken = bench.run(*arguments)
            assert bench.run("status").code == 0
        assert "Traceback" not in broken.err
        if broken.code == 0:
            break
        assert broken.code == 75, broken
        assert bench.run(*arguments).code == 0
    assert nth > 10
    end(bench, expected)


def limited(bench: Bench, blocks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real program under a limit of file size, so that the store cannot grow."""
    command = [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(bench.root), *arguments]
    shell = ["/bin/sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", *command]
    environment = {**bench.environment, "PYTHONDONTWRITEBYTECODE": "1"}  # CPython 3.11 leaves half a .pyc file behind
    return subprocess.run(
        shell, env=environment, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL
    )


@pytest.mark.fault(
    33,
    "the operating system refuses writes of the store",
    injected="`ulimit -f`",
    seen="status 75; `status` works",
)
@pytest.mark.parametrize("blocks", [1, 60])
@pytest.mark.slow
def test_33_the_real_program_on_a_file_that_may_not_grow(blocks: int, bench: Bench, expected: dict[str, bytes]) -> None:
    """SQLite's own behaviour when the operating system refuses its writes."""
    assert bench.run("collect", "--advance").code == 0
    broken = limited(bench, blocks, "collect", "--advance")
    assert broken.returncode == 75, broken
    assert "Traceback" not in broken.stderr
    assert bench.run("status").code == 0
    Watch(bench).check()
    end(bench, expected)


@pytest.mark.fault(
    33,
    "a file where a directory should be",
    injected="`requests/round2` is a file",
    seen="status 2 and the path",
)
def test_33_a_file_where_a_directory_should_be(bench: Bench, expected: dict[str, bytes]) -> None:
    """More space does not help: the message tells the user what to fix, and where."""
    (bench.root / "requests").mkdir(exist_ok=True)
    obstacle = bench.root / "requests" / "round2"
    obstacle.write_text("in the way", "utf-8")
    broken = bench.run("collect", "--advance")
    assert broken.code == 2
    assert str(obstacle) in broken.err
    assert "Traceback" not in broken.err
    obstacle.unlink()
    end(bench, expected)


@pytest.mark.fault(
    32,
    "killed in the middle of a commit",
    injected="a half-written store and its journal",
    seen="`status` and the next tick put it back and go on",
)
def test_32_killed_within_a_commit(bench: Bench, expected: dict[str, bytes]) -> None:
    """Pages are half written and the journal has the old ones: `status` restores them, and the run continues."""
    assert bench.run("collect", "--advance").code == 0
    before = ledger(bench)
    store = bench.root / "data" / "batchgen.sqlite"
    writer = sqlite3.connect(store, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")  # so that SQLite writes pages to the file before the commit
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE batches SET error = ?", ("x" * 100_000,))
    writer.execute("UPDATE conversations SET detail = ?", ("y" * 100_000,))
    killed = bench.root.with_name("killed")
    shutil.copytree(bench.root, killed)
    writer.close()
    assert (killed / "data" / "batchgen.sqlite-journal").stat().st_size > 0
    shutil.rmtree(bench.root)
    killed.rename(bench.root)
    assert bench.run("status").code == 0
    assert ledger(bench) == before
    end(bench, expected)
