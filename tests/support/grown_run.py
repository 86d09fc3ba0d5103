"""`grow`: make a finished run once, for tests that only read it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from batchgen.emulator.backends.builtin import Scripted
from batchgen.emulator.server import LocalService
from batchgen.runtime import clock
from tests.support.bench import Bench, Result


class Capture:
    """Replaces the fixture capsys outside of a test. The output of the commands goes to `stream`."""

    def __init__(self) -> None:
        self.stream = StringIO()

    def readouterr(self) -> Result:
        said = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return Result(0, said, "")


def grow(root: Path, prepare: Callable[[Bench], object], *, backend: Any = None, ticks: int = 40) -> Bench:
    """Make a run at `root` with a new service, which is stopped at the end: reading the run needs no service."""
    said, service = Capture(), LocalService(backend=backend or Scripted(), job_seconds=0.0)
    bench = Bench(root, service, said)  # type: ignore[arg-type] # see Capture
    service.start()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said.stream):
        for name, value in bench.environment.items():
            patch.setenv(name, value)
        patch.setattr(clock, "now", service.world.now)
        patch.setattr(clock, "sleep", service.world.advance)
        prepare(bench)
        bench.ticks(ticks)
    service.stop()
    return bench
