"""A whole run of N conversations on this machine: prepare, six steps, beside providers that answer at once; then the
commands that read all of it, each as a process of its own.

The providers are in-process: jobs are lists, files stay on disk, nothing is sent. What they take to write their replies
is measured apart and left out of every rate. So the figures are this program's own share of a run. What they write is
much alike: nearly every conversation has flags and is a near-duplicate, so that `export` and `report` have most to do.

    python benchmarks/million.py [--conversations 100000] [--only-rebuild]
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.core.dialogue import Turn, steps
from batchgen.dataset.manifest import write_manifest
from batchgen.dataset.round_files import write_due_files, write_outdated_files
from batchgen.dataset.seeds import SeedReport, read_seeds
from batchgen.engine import tick
from batchgen.engine.session import Session
from batchgen.ledger.status import status
from batchgen.ledger.store import Store
from batchgen.providers.base import Job, JobState, RemoteFile
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import ProviderSettings, Settings
from benchmarks.commands import measured, relative

SYLLABLES = ("ba", "co", "du", "fe", "gi", "ho", "ju", "ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "we", "zo")
KEY = re.compile(rb"r1-(\d+)\.r(\d+)\.(question|answer|correction)\.a\d+\.\w+")
CHARACTERS = {b"question": 110, b"answer": 400, b"correction": 400}
TICKS = 15
LOOKS = 5  # single batches that are collected one by one, in the middle of the run
HALF = 2


def topic(number: int) -> str:
    """Words that hardly another conversation has."""
    words = []
    for _ in range(4):
        number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
        words.append("".join(SYLLABLES[(number >> shift) % len(SYLLABLES)] for shift in (20, 28, 36, 44)))
    return " ".join(words)


def seeds(conversations: int) -> Iterator[Turn]:
    """The shipped examples over and over, each about something else."""
    examples = list(read_seeds(REPOSITORY / "batchgen" / "examples.jsonl", SeedReport()))
    for number, seed in enumerate(islice(cycle(examples), conversations), start=1):
        yield Turn(f"{seed.question} It is about {topic(number)}.", seed.answer, seed.correction)


class Instant:
    """A provider whose jobs have ended when they are looked at, unless `gate` holds round 2's corrections back."""

    def __init__(self, name: str) -> None:
        self.name, self.seconds = name, 0.0
        self.gate: int | None = None
        self._files: list[Path] = []
        self._corrections: list[str] = []

    def upload(self, path: Path, size: int) -> RemoteFile:
        del size
        self._files.append(path)
        return RemoteFile(f"files/{len(self._files) - 1}", ready=True)

    def file(self, file_id: str) -> RemoteFile:
        return RemoteFile(file_id, ready=True)

    def inputs(self, name: str) -> list[str]:  # noqa: ARG002 - nothing is lost here
        return []

    def create(self, *, model: str, file_id: str, name: str) -> str:
        del model
        remote_id = file_id.replace("files/", f"{self.name}/")
        if "-r2-correction-" in name:
            self._corrections.append(remote_id)
        return remote_id

    def get(self, remote_id: str) -> Job:
        held = self.gate is not None and remote_id in self._corrections[self.gate :]
        state = JobState.RUNNING if held else JobState.SUCCEEDED
        return Job(remote_id, state, state.value, output=remote_id.replace(f"{self.name}/", "files/"))

    def jobs(self) -> list[Job]:
        return [self.get(f"{self.name}/{number}") for number in range(len(self._files))]

    def download(self, file_id: str, destination: BinaryIO) -> None:
        start = time.perf_counter()
        path = self._files[int(file_id.removeprefix("files/"))]
        destination.writelines(self._row(line) + b"\n" for line in path.read_bytes().splitlines())
        self.seconds += time.perf_counter() - start

    def _row(self, line: bytes) -> bytes:
        found = KEY.search(line)
        assert found
        stage = found[3]
        about = f"About {topic(int(found[1]))}, in round {int(found[2])}: "
        text = about + "which of these comes first, and what would have to be done before it? " * 6
        said, key = text[: CHARACTERS[stage]] + "?", found[0].decode()
        if self.name == "together":
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300}
            body = {"model": "m", "choices": [choice], "usage": usage}
            return orjson.dumps({"custom_id": key, "response": {"status_code": 200, "body": body}})
        part = {"text": orjson.dumps({stage.decode(): said}).decode()}
        response = {
            "candidates": [{"content": {"parts": [part], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 300, "candidatesTokenCount": 40, "totalTokenCount": 340},
            "modelVersion": "gemini-2.5-flash-lite",
        }
        return orjson.dumps({"response": response, "key": key})

    def cancel(self, remote_id: str) -> None:
        """Every job has ended already."""

    def delete_file(self, file_id: str) -> None:
        """The files are the run's own."""

    def delete_job(self, remote_id: str) -> bool:
        del remote_id
        return False

    def probe(self, model: str) -> None:
        """Every model is served."""

    def close(self) -> None:
        """Nothing is open."""


class Run(NamedTuple):
    """A root, its session and its two providers."""

    session: Session
    providers: tuple[Instant, Instant]

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of `work`, without what the providers took to write."""
        before = sum(provider.seconds for provider in self.providers)
        start = time.perf_counter()
        work()
        return time.perf_counter() - start - (sum(provider.seconds for provider in self.providers) - before)


def prepared(root: Path, conversations: int) -> tuple[Run, float]:
    """A run of `conversations`, and the seconds that its preparation took."""
    layout = Layout(root)
    layout.data.mkdir(parents=True)
    defaults = Settings()
    settings = Settings(
        gemini=ProviderSettings(models=defaults.gemini.models, enqueued_tokens=10**12),
        together=ProviderSettings(models=defaults.together.models, enqueued_tokens=10**12),
    )
    keys = {"GEMINI_API_KEY": "no-real-key", "TOGETHER_API_KEY": "no-real-key"}
    providers = Instant("gemini"), Instant("together")
    session = Session(layout, settings, Store.open(layout.store), keys, remotes={one.name: one for one in providers})
    run = Run(session, providers)
    facts = {"run": "bench", "prepared": "bench", "source": "bench"}

    def work() -> None:
        session.store.replace_seeds(seeds(conversations), facts)
        write_manifest(session, facts)
        write_due_files(session)

    return run, run.timed(work)


def one_batch(run: Run) -> list[float]:
    """Seconds of ticks that bring one batch of round 2's corrections each, when half of them have come back."""
    gemini, session = run.providers[0], run.session
    gemini.gate = 0
    batches = -(-session.conversations // session.settings.batches.max_requests)
    while session.store.totals.settled_at(4)[0] < session.conversations or session.store.ready_attempts(
        session.steps()[2]
    ):
        before = len(gemini._corrections)  # noqa: SLF001 - this file's own
        tick.tick(session, advance=True)
        if len(gemini._corrections) == before and before >= session.settings.gemini.concurrent_batches:  # noqa: SLF001
            break
    gemini.gate = min(batches // HALF, len(gemini._corrections) // HALF)  # noqa: SLF001
    tick.tick(session, advance=False)
    seconds = []
    for _ in range(min(LOOKS, len(gemini._corrections) - gemini.gate)):  # noqa: SLF001
        gemini.gate += 1
        seconds.append(run.timed(lambda: tick.tick(session, advance=False)))
    gemini.gate = None
    return seconds


def finish(run: Run) -> None:
    while not status(run.session.store, run.session.settings, run.session.now())["finished"]:
        tick.tick(run.session, advance=True)


def tree(path: Path) -> int:
    """Bytes of all files below."""
    return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())


def whole(root: Path, conversations: int) -> Iterator[dict[str, float]]:
    """The figures of one run, group by group."""
    run, preparing = prepared(root, conversations)
    session = run.session
    ticks: list[float] = []
    moving = run.timed(lambda: ticks.extend(one_batch(run))) + run.timed(lambda: finish(run))
    idle = run.timed(lambda: tick.tick(session, advance=True))
    looking = run.timed(lambda: status(session.store, session.settings, session.now()))
    write_outdated_files(session)
    (text,) = session.store._connection.execute("SELECT sum(length(CAST(text AS BLOB))) FROM texts").fetchone()  # noqa: SLF001
    requests = conversations * len(session.steps())
    yield {
        "prepare, conversations/s": conversations / preparing,
        "six steps, requests/s": requests / moving,
        "tick that brings one batch, ms": statistics.median(ticks) * 1000,
        "idle tick (in process), ms": idle * 1000,
        "status (in process), ms": looking * 1000,
        "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "text in the store, MB": text / 1e6,
        "store, MB": session.layout.store.stat().st_size / 1e6,
        "store / text": session.layout.store.stat().st_size / text,
        "requests/, MB": tree(root / "requests") / 1e6,
        "results/, MB": tree(root / "results") / 1e6,
        "data/, MB": tree(root / "data") / 1e6,
    }
    session.close()
    yield from reading(root, conversations)
    yield rebuilding(root, conversations)


def reading(root: Path, conversations: int) -> Iterator[dict[str, float]]:
    """The commands that must not look at a whole run, and those that do."""
    looks = {"idle tick": ["collect", "--advance"], "status": ["status"], "status --json": ["status", "--json"]}
    times = relative(root, looks, TICKS)
    yield {f"{name}, times `import click, sqlite3`": value for name, value in times.items()}
    for name in ("estimate", "receipt"):
        found = measured(root, name)
        yield {f"{name}, s": found.seconds, f"{name}, peak MB": found.peak_mb}
    output = str(root.parent / "export.jsonl")
    for name, *more in (("verify",), ("report",), ("export", "--format", "messages", "--output", output)):
        found = measured(root, name, *more)
        yield {f"{name}, conversations/s": conversations / found.seconds, f"{name}, peak MB": found.peak_mb}


def rebuilding(root: Path, conversations: int) -> dict[str, float]:
    """The store of a finished run, built again from its files."""
    Layout(root).store.unlink()
    found = measured(root, "rebuild")
    requests = conversations * len(steps(Settings().rounds))
    return {"rebuild, requests/s": requests / found.seconds, "rebuild, peak MB": found.peak_mb}


def only_rebuilding(root: Path, conversations: int) -> Iterator[dict[str, float]]:
    """That alone, after a run that is not measured."""
    run, _ = prepared(root, conversations)
    finish(run)
    write_outdated_files(run.session)
    run.session.close()
    yield rebuilding(root, conversations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=1_000_000)
    parser.add_argument("--root", type=Path, help="An empty folder on the disk to be measured.")
    parser.add_argument("--only-rebuild", action="store_true", help="Measure `rebuild` alone; keep the other figures.")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    place = REPOSITORY / "benchmarks" / "figures"
    place.mkdir(exist_ok=True)
    kept: dict[str, float] = {"conversations": options.conversations}
    figures_file = place / f"million-{options.conversations}.json"
    if options.only_rebuild and figures_file.exists():
        kept = json.loads(figures_file.read_text("utf-8"))
    print(f"{options.conversations} conversations")
    parts = only_rebuilding if options.only_rebuild else whole
    with tempfile.TemporaryDirectory(dir=options.root) as folder:
        for figures in parts(Path(folder) / "root", options.conversations):
            kept |= figures  # a long run that is stopped leaves what it has found
            figures_file.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
            for name, value in figures.items():
                print(f"{name:<50}{value:>12,.{2 if value < 100 else 0}f}", flush=True)


if __name__ == "__main__":
    main()
