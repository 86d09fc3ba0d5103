"""Test a stdout or stderr that is full, closed, or a pipe without a reader (33).

Output that cannot be written changes neither the work nor the exit status.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from io import StringIO
from itertools import cycle, islice
from pathlib import Path

import pytest

from batchgen.cli.commands import run
from batchgen.emulator.faults import CallFault, Status
from tests.support.bench import REPOSITORY, Bench, Result
from tests.support.invariants import Make, end, start
from tests.support.scene import Scene
from tests.support.slow import slow

FULL = Path("/dev/full")
UNREAD = "a pipe that nobody reads"
STREAMS = [pytest.param(str(FULL), marks=pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")), UNREAD]


class Refusing(StringIO):
    """A stream that refuses every write."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, _: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


def spawned(bench: Bench, *arguments: str, **streams: str) -> Result:
    """Run a command in a new process; `stdout` and `stderr` are redirected or captured."""
    opened = {name: _opened(where) for name, where in streams.items()}
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(bench.root), *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=opened.get("stdout", subprocess.PIPE),
        stderr=opened.get("stderr", subprocess.PIPE),
        check=False,
        text=True,
        timeout=60,
    )
    for handle in opened.values():
        os.close(handle)
    return Result(done.returncode, done.stdout or "", done.stderr or "")


def _opened(where: str) -> int:
    if where != UNREAD:
        return os.open(where, os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.fault(
    33,
    "stderr takes nothing: its disk is full, or nobody reads the pipe",
    injected="a stream that refuses every write",
    seen="log lines are dropped; the run takes as many ticks as ever, and leaves the same statuses",
)
@pytest.mark.slow
def test_33_log_lines_that_cannot_be_written_stop_nothing(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does any kind of refusal, one in each tick."""
    heard = Scene.of(make_bench, 2, most=1, root="heard")
    before = [done.code for done in heard.bench.ticks()]
    unheard = Scene.of(make_bench, 2, most=1, root="unheard")
    after = []
    for number in islice(cycle([errno.ENOSPC, errno.EPIPE, errno.EIO]), len(before)):
        unheard.bench.service.world.advance(60)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Refusing(number))
            after.append(unheard.bench.run("collect", "--advance").code)
    assert after == before
    assert len(after) > 3
    assert unheard.bench.files() == heard.bench.files()


@pytest.mark.parametrize("stream", STREAMS)
def test_33_no_status_changes_where_stderr_takes_nothing(stream: str, bench: Bench) -> None:
    """In a new process, because Python flushes again at its end and exits with 120 if that fails."""
    assert spawned(bench, "nonsense", stderr=stream).code == 2
    (bench.root / "data" / "round1" / "round1_single_turn.jsonl").unlink()
    assert spawned(bench, "verify", stderr=stream).code == 1


@pytest.mark.slow
def test_33_a_tick_does_its_work_where_stderr_takes_nothing(bench: Bench, expected: dict[str, bytes]) -> None:
    assert bench.run("collect", "--advance").code == 0
    bench.service.faults.add(CallFault(provider="together", endpoint="create", action=Status(401, "no")))
    assert spawned(bench, "-v", "collect", "--advance", stderr=UNREAD).code == 2
    end(bench, expected)


@pytest.mark.fault(
    33,
    "the answer of a command cannot be written: the disk of stdout is full",
    injected="`> /dev/full`",
    seen="all of the work is done; one line and status 75, or what the command would have left if it is not 0",
)
@pytest.mark.parametrize("command", ["status", "collect", "receipt", "--help", "--version"])
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_33_an_answer_on_a_full_disk(command: str, bench: Bench) -> None:
    done = spawned(bench, command, *(["--json"] if command == "collect" else []), stdout=str(FULL))
    assert (done.code, done.err.count("\n"), "Traceback" in done.err) == (75, 2, False), done
    assert "No space left on device" in done.err


def test_33_the_work_behind_an_answer_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick reports its troubles and exits with their status, though its output is lost."""
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(429, "quota")))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Refusing(errno.ENOSPC))
        done = bench.run("collect", "--advance", "--json")
    assert done.code == 75
    assert "quota" in done.err
    assert "answer" in done.err


@pytest.mark.parametrize("command", ["status", *map(slow, ("receipt", "collect", "estimate", "--help"))])
def test_nobody_reads_the_answer(command: str, bench: Bench) -> None:
    """`batchgen status | head -0` under pipefail: the command must not fail."""
    done = spawned(bench, command, *([] if command == "--help" else ["--json"]), stdout=UNREAD)
    assert (done.code, done.err) == (0, "")


@pytest.mark.slow
def test_verify_says_what_it_found_by_its_status_where_nobody_reads(finished: Bench) -> None:
    path = max((finished.root / "data").glob("round*/*history*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    found = finished.run("verify")
    assert found.code == 1
    assert spawned(finished, "verify", stdout=UNREAD).code == 1
    if FULL.exists():
        assert spawned(finished, "verify", stdout=str(FULL)).code == 1


def test_a_broken_pipe_that_is_not_ours_is_temporary(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """click exits with 1 for any broken pipe, but here 1 means that `verify` found something."""

    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(run, "require_prepared", broken)
    done = bench.run("collect")
    assert (done.code, done.err.count("Broken pipe")) == (75, 1)
