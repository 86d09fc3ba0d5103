"""Start processes, find them again by what they are called, and end every one of them. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

BECOME_SUBREAPER = 36  # prctl(PR_SET_CHILD_SUBREAPER): processes whose parent ends become ours, so that none gets lost


@contextmanager
def all_ended_at_exit() -> Iterator[None]:
    """Kill everything that this process has started, and what that has started, however the block ends."""
    ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        while found := descendants():
            for process in found:
                kill(process)
            time.sleep(0.05)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in the background, with its output in `log`. Ctrl-C does not reach it: only we end it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def kill(process: int) -> None:
    """Kill one process; it may have ended already."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def descendants() -> list[int]:
    """Return the processes that this one has started, and theirs, and so on, without ended ones."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile
            state, parent = (folder / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[:2]
            parents[int(folder.name)] = (int(parent), state)
    found, level = [], {os.getpid()}
    while level := {process for process, (parent, _) in parents.items() if parent in level}:
        found += [process for process in level if parents[process][1] != "Z"]
    return found


def named(title: str) -> list[int]:
    """Return the processes of ours whose command line begins with `title`, oldest first."""
    found = []
    for process in descendants():
        with suppress(OSError):
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(title.encode()):
                found.append(process)
    return sorted(found)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(what: str, happened: Callable[[], T], seconds: float) -> T:
    """Wait until `happened()` is true; return what it returned. Raises TimeoutError."""
    begin = time.monotonic()
    while not (found := happened()):
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
    return found
