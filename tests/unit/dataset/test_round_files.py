"""Test when large round files are written: at most once an hour, at the end of a run, and before they are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchgen.dataset import round_files
from batchgen.runtime import clock
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.invariants import ROUNDS
from tests.support.scene import HOUR, Make

CONVERSATIONS = 12
ONE_BY_ONE = f"{ROUNDS}batches.max_requests = 3\ngemini.concurrent_batches = 1\n"
HISTORY, SINGLE = "round2/round2_history.jsonl", "round2/round2_single_turn.jsonl"


@pytest.fixture
def bench(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Three conversations per tick; files of more than two lines count as large."""
    monkeypatch.setattr(round_files, "SMALL_FILE_LINES", 2)
    made = make_bench()
    made.configure(ONE_BY_ONE)
    assert made.prepare(seeds(CONVERSATIONS)).code == 0
    return made


def tick(bench: Bench, seconds: float = 60.0) -> None:
    bench.service.world.advance(seconds)
    assert bench.run("collect", "--advance").code == 0


def until(bench: Bench, complete: int) -> None:
    for _ in range(30):
        if bench.status()["complete"] >= complete:
            return
        tick(bench)
    raise AssertionError


def ids(bench: Bench, name: str = HISTORY) -> list[str]:
    return [row["id"] for row in bench.rows(name)]


@pytest.mark.slow
def test_a_large_file_waits_while_more_is_under_way(bench: Bench) -> None:
    until(bench, 3)
    assert len(ids(bench)) == 3
    until(bench, 6)
    assert len(ids(bench)) == len(ids(bench, SINGLE)) == 3
    until(bench, CONVERSATIONS)
    assert bench.status()["finished"]
    assert ids(bench) == ids(bench, SINGLE) == [f"r1-{number:06d}" for number in range(1, CONVERSATIONS + 1)]
    assert bench.run("verify").code == 0


@pytest.mark.slow
def test_a_large_file_is_written_once_an_hour(bench: Bench) -> None:
    until(bench, 6)
    assert len(ids(bench)) == 3
    for path in (SINGLE, HISTORY):
        written = (bench.root / "data" / path).stat().st_mtime
        os.utime(bench.root / "data" / path, (written, written - HOUR))
    tick(bench)
    assert len(ids(bench)) == len(ids(bench, SINGLE)) == bench.status()["complete"] >= 6


@pytest.mark.slow
def test_a_clock_set_back_does_not_make_a_file_wait_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    until(bench, 6)
    assert len(ids(bench)) == 3
    monkeypatch.setattr(clock, "now", lambda: bench.service.world.now() - 24 * HOUR)
    tick(bench)
    assert len(ids(bench)) == bench.status()["complete"] >= 6


@pytest.mark.slow
def test_a_command_that_reads_the_files_finds_them_whole(bench: Bench) -> None:
    until(bench, 6)
    assert len(ids(bench)) == 3
    result = bench.run("verify")
    assert result.code == 1
    (problem,) = result.out.splitlines()
    assert problem.startswith("not finished")
    assert len(ids(bench)) == 6


@pytest.mark.slow
def test_small_files_are_whole_after_every_command(make_bench: Make) -> None:
    made = make_bench()
    made.configure(ONE_BY_ONE)
    assert made.prepare(seeds(CONVERSATIONS)).code == 0
    for complete in (3, 6, 9, 12):
        until(made, complete)
        assert len(ids(made)) == complete


@pytest.mark.slow
def test_a_kill_between_the_files_and_the_note_of_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are new but the store lists them as outdated: they are written again."""
    until(bench, 6)
    tick(bench)
    before = bench.status()["complete"]
    code = "import batchgen.dataset.round_files as r; r.SMALL_FILE_LINES = 2\nfrom batchgen.cli.main import main\n"
    code += f"main(['--root', {str(bench.root)!r}, 'verify'])"
    killed = subprocess.run(
        [sys.executable, "-c", code],
        env={**bench.environment, "BATCHGEN_CRASH": "round_files_written", "PYTHONPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -9
    assert len(ids(bench)) == before
    monkeypatch.setattr(round_files, "LARGE_SECONDS", 0.0)
    tick(bench)
    until(bench, CONVERSATIONS)
    assert len(ids(bench)) == CONVERSATIONS
    assert bench.run("verify").code == 0


@pytest.mark.slow
def test_a_missing_file_is_written_whatever_its_size(bench: Bench) -> None:
    until(bench, 6)
    path: Path = bench.root / "data" / HISTORY
    path.unlink()
    tick(bench)
    assert len(ids(bench)) == bench.status()["complete"]


def test_another_number_of_rounds_is_another_receipt(bench: Bench) -> None:
    """The receipt has one line per step; `verify` accepts the new number of lines."""
    bench.configure("rounds = 3\n")
    bench.prepare(seeds(2))
    assert bench.run("run").code == 0
    for fewer in (2, 3):
        bench.configure(f"rounds = {fewer}\n")
        checked = bench.run("verify")
        assert (checked.code, "no problems found" in checked.out) == (0, True), checked
