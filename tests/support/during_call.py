"""Act while a command waits for a response: check a condition, release the response, or send Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread

from tests.support.bench import REPOSITORY, Bench
from tests.support.invariants import ROUNDS, finished

PATIENCE_SECONDS = 60.0  # how long a response is held back if no test releases it; long, because machines may be busy
Condition = Callable[[], bool]


def waited_for(condition: Condition) -> bool:
    """Wait until `condition` is true. Returns False after half of PATIENCE_SECONDS."""
    end = time.monotonic() + PATIENCE_SECONDS / 2
    while not condition() and time.monotonic() < end:
        Event().wait(0.005)
    return condition()


@contextmanager
def released(bench: Bench, condition: Condition, then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While the body runs: wait for `condition`, call `then`, and release the responses that a fault holds back."""
    met, done = list[bool](), Event()

    def watch() -> None:
        met.append(waited_for(condition))
        then()
        while not done.is_set():  # again, because some responses may not have been held back yet
            bench.service.faults.release()
            done.wait(0.005)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    assert met == [True]


def interrupted(bench: Bench, arguments: Sequence[str], condition: Condition) -> None:
    """Send Ctrl-C to a command as soon as `condition` is true. It must exit with 130 and one clear line."""
    command = [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(bench.root), *arguments]
    with subprocess.Popen(command, env=bench.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert waited_for(condition)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_SECONDS / 2)
        finally:
            process.kill()  # has no effect if the process has ended
    assert process.returncode == 130
    assert "Interrupted. Nothing is lost" in said
    assert "Traceback" not in said


def goes_on(bench: Bench, after: float = 0.0) -> None:
    """Remove all faults and finish the run. Requests without a plan go in one batch per step, which is quick."""
    bench.service.faults.clear()
    bench.configure(f"{ROUNDS}batches.reconcile_grace_seconds = 20\n")
    bench.service.world.advance(after)
    bench.ticks()
    finished(bench)
