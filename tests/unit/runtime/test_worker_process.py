"""Share work with a second process: same results in the same order, even when that process dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from batchgen.runtime import worker_process
from batchgen.runtime.worker_process import parallel_map, run_in_subprocess
from tests.support.bench import REPOSITORY
from tests.support.worker_tasks import dies_elsewhere, fails, square, where


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the second process on any number of cores."""
    monkeypatch.setenv("HERE", str(os.getpid()))
    monkeypatch.setattr(worker_process, "_cpu_count", lambda: 2)


@pytest.mark.parametrize(
    "many",
    [
        0,
        1,
        worker_process.ITEMS_BEFORE_WORKER,
        worker_process.ITEMS_BEFORE_WORKER + 1,
        worker_process.ITEMS_BEFORE_WORKER + 2,
        12,
        13,
    ],
)
def test_every_piece_is_done_in_order(many: int) -> None:
    assert list(parallel_map(square, range(many))) == [(number, number * number) for number in range(many)]


def test_every_second_piece_is_done_by_another_process() -> None:
    here = [process == os.getpid() for _, process in parallel_map(where, range(worker_process.ITEMS_BEFORE_WORKER + 6))]
    assert here == [True] * worker_process.ITEMS_BEFORE_WORKER + [False, True] * 3


def test_few_pieces_or_one_core_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {process for _, process in parallel_map(where, range(worker_process.ITEMS_BEFORE_WORKER))} == {os.getpid()}
    monkeypatch.setattr(worker_process, "_cpu_count", lambda: 1)
    assert {process for _, process in parallel_map(where, range(9))} == {os.getpid()}


def test_what_a_dead_process_does_not_answer_is_done_here() -> None:
    assert [result for _, result in parallel_map(dies_elsewhere, range(12))] == list(range(12))


def test_where_no_process_can_be_had_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(worker_process, "ProcessPoolExecutor", none)
    assert {process for _, process in parallel_map(where, range(9))} == {run_in_subprocess(where, 1)} == {os.getpid()}


def test_a_single_piece_is_done_apart() -> None:
    assert run_in_subprocess(where, 1) != os.getpid()
    assert run_in_subprocess(dies_elsewhere, 4) == 4


def test_an_error_is_the_caller_s() -> None:
    with pytest.raises(ValueError, match="not this one"):
        list(parallel_map(fails, range(9)))


def test_few_pieces_are_in_memory_at_once() -> None:
    taken = 0

    def pieces() -> Iterator[int]:
        nonlocal taken
        while taken < 50:
            taken += 1
            yield taken

    for done, _ in parallel_map(square, pieces()):
        assert taken - done <= 2  # one in each process and one finished


def test_who_stops_early_leaves_no_process() -> None:
    results = parallel_map(where, range(50))
    processes = {process for _, (_, process) in zip(range(9), results, strict=False)} - {os.getpid()}
    results.close()  # type: ignore[attr-defined] # it is a generator
    assert len(processes) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(processes.pop(), 0)


FIRST = """
import os, signal
from batchgen.runtime import worker_process
from tests.support.worker_tasks import where
if __name__ == "__main__":
    worker_process._cpu_count = lambda: 2
    for number, (_, process) in enumerate(worker_process.parallel_map(where, range(50))):
        if number == worker_process.ITEMS_BEFORE_WORKER:
            print(process, flush=True)
            os.kill(os.getpid(), signal.ENDING)
"""


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGINT"])
def test_the_second_process_does_not_outlive_the_first(ending: str) -> None:
    """It would keep its memory and its open files: a reader of this pipe would wait for ever."""
    done = subprocess.run(  # returns when no process has the pipe open
        [sys.executable, "-c", FIRST.replace("ENDING", ending)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == -signal.Signals[ending]
    assert int(done.stdout) > 0
