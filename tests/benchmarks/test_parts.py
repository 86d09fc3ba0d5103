"""Test that benchmarks/parts.py still measures what the pipeline calls."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.parts import PARTS
from tests.support.bench import REPOSITORY


@pytest.mark.slow
def test_every_part_is_called_and_measured() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/parts.py", "--rows", "2000"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    milliseconds = {line[:42].strip(): float(line[42:]) for line in done.stdout.splitlines() if line.startswith("  ")}
    for parts in PARTS.values():
        for _, _, label in parts:
            assert milliseconds[label.strip()] > 0, label
