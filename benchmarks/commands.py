"""Commands as what they are to cron: whole processes, with their seconds, CPU seconds and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CLI = Path(__file__).resolve().parents[1] / "cli.py"
BASE = [sys.executable, "-c", "import click, sqlite3"]
# Python keeps its bytecode, as it does for everybody else; no key is asked for where nobody is called.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "GEMINI_API_KEY": "no-real-key",
    "TOGETHER_API_KEY": "no-real-key",
}
# A child's peak begins with its parent's memory: the parent must be small.
WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)
"""


class Measured(NamedTuple):
    """What a command took; where it has a second process, the peak of the larger one, and the CPU seconds of both."""

    seconds: float
    peak_mb: float
    cpu_seconds: float


def line(root: Path, command: Sequence[str]) -> list[str]:
    return [sys.executable, str(CLI), "--quiet", "--root", str(root), *command]


def measured(root: Path, *command: str) -> Measured:
    """Run a command in a process of its own."""
    watched = [sys.executable, "-c", WATCH, *line(root, command)]
    said = subprocess.run(watched, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
    return Measured(*map(float, said.split()))


def relative(root: Path, commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, float]:
    """The medians of some commands' seconds as multiples of BASE's, run in turn."""
    lines = {"": BASE, **{name: line(root, command) for name, command in commands.items()}}
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(runs + 1):
        for name, words in lines.items():
            start = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True, env=ENVIRONMENT)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}  # the first ones compile
    base = medians.pop("")
    return {name: found / base for name, found in medians.items()}
