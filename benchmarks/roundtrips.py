"""What overlapping calls save: a tick that submits many batches, and one that collects them, over a slow network.

The real SDKs talk to the embedded service; each of its answers comes late by the same time, so that a tick's seconds
divided by it are the round trips that it waited for. "In a row" is the same program with nothing ahead and nothing at
once. Both kinds of run are made in turns.

    python benchmarks/roundtrips.py [--batches 100] [--milliseconds 100] [--runs 3]      # writes docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.emulator.backends.builtin import Scripted
from batchgen.emulator.faults import ALWAYS, CallFault, Delay
from batchgen.emulator.server import LocalService
from benchmarks.throughput import FIGURES, machine, write_page

IN_A_ROW = "--in-a-row"
CONFIGURATION = (
    "rounds = 2\nbatches.max_requests = 1\ngemini.concurrent_batches = 1000\ntogether.concurrent_batches = 1000\n"
)
TICKS = {
    "gemini": {"submit": ["submit", "--stage", "question"], "collect": ["collect"]},
    "together": {"submit": ["submit", "--stage", "answer"], "collect": ["collect"]},
}


class Bench(NamedTuple):
    """A root beside a service whose every answer comes `seconds` late once `late` was called."""

    root: Path
    service: LocalService
    seconds: float
    in_a_row: bool

    def run(self, *arguments: str) -> float:
        """Seconds of one command as a process."""
        environment = {
            "PATH": os.environ["PATH"],
            "NO_PROXY": "127.0.0.1",
            "GEMINI_API_KEY": "no-real-key-gemini",
            "TOGETHER_API_KEY": "no-real-key-together",
            "GOOGLE_GEMINI_BASE_URL": self.service.gemini_url,
            "TOGETHER_BASE_URL": self.service.together_url,
        }
        mode = [IN_A_ROW] if self.in_a_row else []
        command = [sys.executable, __file__, *mode, "--cli", "--root", str(self.root), *arguments]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return time.perf_counter() - start

    def prepared(self, batches: int) -> None:
        self.root.mkdir()
        (self.root / "batchgen.toml").write_text(CONFIGURATION, "utf-8")
        seeds = self.root / "seeds.jsonl"
        rows = [
            {
                "question": f"What is number {n}?",
                "answer": f"It is {n}.",
                "correction": f"It is {n}: one more than {n - 1}.",
            }
            for n in range(batches)
        ]
        seeds.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        self.run("prepare", "--input", str(seeds), "--all")

    def late(self) -> None:
        self.service.faults.add(CallFault(times=ALWAYS, action=Delay(self.seconds)))


def round_trips(batches: int, seconds: float, *, in_a_row: bool) -> dict[str, float]:
    """Round trips that each tick waited for, by provider: its seconds, less those without delay, in delays."""
    with tempfile.TemporaryDirectory() as folder:
        service = LocalService(backend=Scripted(), job_seconds=0.0)
        service.start()
        try:
            bench = Bench(Path(folder) / "root", service, seconds, in_a_row)
            bench.prepared(batches)
            bench.late()
            return {
                f"{provider}, {name} {batches} batches, round trips": bench.run(*arguments) / seconds
                for provider, ticks in TICKS.items()
                for name, arguments in ticks.items()
            }
        finally:
            service.stop()


def measured(batches: int, seconds: float, runs: int) -> dict[str, Any]:
    """Medians of the runs with calls in a row and of those as they are, made in turns."""
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(runs):
        for in_a_row, several in found.items():
            several.append(round_trips(batches, seconds, in_a_row=in_a_row))
    medians = {
        in_a_row: {name: statistics.median(one[name] for one in several) for name in several[0]}
        for in_a_row, several in found.items()
    }
    return {"machine": machine(), "seconds": seconds, "in a row": medians[True], "now": medians[False]}


def command(arguments: list[str], *, in_a_row: bool) -> None:
    """The program itself, in this process."""
    from batchgen.cli.main import main as batchgen
    from batchgen.engine.collection import prefetch
    from batchgen.engine.submission import sender

    if in_a_row:
        prefetch.MAX_PREFETCHED, sender.MAX_UPLOADS_AHEAD = 0, 0
    batchgen(arguments)


def main() -> None:
    if "--cli" in sys.argv:
        at = sys.argv.index("--cli")
        command(sys.argv[at + 1 :], in_a_row=IN_A_ROW in sys.argv[:at])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--milliseconds", type=float, default=100)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    found = measured(options.batches, options.milliseconds / 1000, options.runs)
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / "roundtrips.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    write_page()
    for name, value in found["now"].items():
        before = found["in a row"][name]
        print(f"{name:<50}{before:>8.0f} in a row{value:>8.0f} now{before / value:>8.1f} times")


if __name__ == "__main__":
    main()
