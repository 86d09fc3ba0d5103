"""The most memory that each command takes, as a process with the real SDKs beside `batchgen serve`, when many batches
end in one tick.

Half of the conversations go first, so that later ticks bring and submit as many batches at Gemini as at Together; in
another root all of them go at once.
The texts have the length of real ones. The service keeps its jobs on disk and answers at once.

    python benchmarks/peaks.py [--conversations 24000]      # writes docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.emulator.backends import builtin
from batchgen.runtime.settings import Settings
from benchmarks.commands import ENVIRONMENT, line
from benchmarks.serving import Serving, memory_mb, serving

FORMATS = ("messages", "sharegpt", "preference", "aligner", "parquet")
SERVICE = "--service"
LONG = 400  # characters of a text; a question has a third of them
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = 20_000  # that all texts are made of, a few of them far more often than most
SKEW = 3
LEFT_BEHIND = 0.02  # of the conversations, at the last step
MOST_TICKS = 50
# A child's peak begins with its parent's memory: the parent must be small. `wait4` gives the peak of the largest of a
# command's processes; what all of them have at one moment is looked up again and again. A process that has just been
# begun is still its parent, memory and command line: it counts once.
WATCH = """
import os, re, sys, time
def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
def family(pid):
    yield pid
    for task in os.listdir(f"/proc/{pid}/task") if os.path.exists(f"/proc/{pid}/task") else ():
        for child in read(f"/proc/{pid}/task/{task}/children").split():
            yield from family(child)
def held():
    try:
        found = {read(f"/proc/{one}/cmdline"): read(f"/proc/{one}/status") for one in family(pid)}
    except OSError:
        return 0
    return sum(int(size) for status in found.values() for size in re.findall(r"VmRSS:\\s+(\\d+)", status))
start, together, done = time.perf_counter(), 0, 0
nothing = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ, file_actions=nothing)
while not done:
    together = max(together, held())
    time.sleep(0.02)
    done, status, usage = os.wait4(pid, os.WNOHANG)
seconds = time.perf_counter() - start
print(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss, together, file=sys.stderr)
"""


class Peak(NamedTuple):
    """A command as it was to the machine: seconds, peak MB of its largest process, and of all its processes at once."""

    seconds: float
    largest: float
    together: float


class Found(NamedTuple):
    """The peaks of commands by their names, and how many batches ended in one tick at most."""

    peaks: dict[str, Peak]
    ended: int


class Run(NamedTuple):
    """A root beside a service, and what was found of its commands so far."""

    root: Path
    service: Serving
    found: dict[str, Peak]

    def beside(self, name: str) -> Run:
        """Another root beside the same service; what is found of it comes to the same figures."""
        root = self.root.parent / name
        root.mkdir()
        return self._replace(root=root)

    def command(self, name: str, *arguments: str) -> str:
        """One command, kept under `name` where no larger one is; what it says on stdout."""
        environment = ENVIRONMENT | {
            "NO_PROXY": "127.0.0.1",
            "GOOGLE_GEMINI_BASE_URL": self.service.gemini_url,
            "TOGETHER_BASE_URL": self.service.together_url,
        }
        watched = [sys.executable, "-c", WATCH, *line(self.root, arguments)[1:]]
        done = subprocess.run(watched, check=True, capture_output=True, text=True, env=environment)
        code, seconds, largest, together = map(float, done.stderr.splitlines()[-1].split())
        assert not code, (arguments, done.stderr)
        peak = Peak(seconds, largest / 1024, max(together, largest) / 1024)
        if name not in self.found or self.found[name].largest < peak.largest:
            self.found[name] = peak
        print(f"{name:<55}{seconds:>8.1f} s{peak.largest:>8.0f} MB{peak.together:>8.0f} MB at once", flush=True)
        return done.stdout

    def control(self, what: str, value: object) -> None:
        """Tell the service what shall go wrong."""
        body = json.dumps(value).encode()
        url, headers = f"{self.service.gemini_url}/_control/{what}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - this machine's own service
        urllib.request.urlopen(request).close()  # noqa: S310 - this machine's own service


def configuration(batches: int) -> str:
    """No limit but that of the `batches` that may be at Gemini at once."""
    enqueued = f"gemini.enqueued_tokens = {10**12}\ntogether.enqueued_tokens = {10**12}\n"
    return f"gemini.concurrent_batches = {batches}\n{enqueued}"


def containers(folder: Path, conversations: int) -> Iterator[Path]:
    """The same seeds in every container that `prepare` reads without unpacking."""
    import polars as pl

    from benchmarks.million import seeds  # here and below: the service is as small as it is to its users

    rows = [seed._asdict() for seed in seeds(conversations)]
    writers: dict[str, Callable[[Path], object]] = {
        "json": lambda path: path.write_bytes(orjson.dumps(rows)),
        "csv": lambda path: pl.DataFrame(rows).write_csv(path),
        "parquet": lambda path: pl.DataFrame(rows).write_parquet(path),
        "jsonl": lambda path: path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows)),
    }
    for suffix, write in writers.items():
        path = folder / f"seeds.{suffix}"
        write(path)
        yield path


def prepared(run: Run, conversations: int) -> None:
    """Every root's `prepare`, each from another container. The last one is `run`'s own."""
    batches = -(-conversations // Settings().batches.max_requests)
    for path in containers(run.root.parent, conversations):
        own = path.suffix == ".jsonl"
        root = run if own else run.beside(path.suffix[1:])
        (root.root / "batchgen.toml").write_text(configuration(-(-batches // 2) if own else batches), "utf-8")
        root.command(f"prepare, {path.suffix}", "prepare", "--input", str(path), "--all")


def first_batches(run: Run) -> None:
    """What a person does before cron does the rest."""
    run.command("doctor", "doctor")
    run.command("estimate", "estimate")
    run.command("submit --dry-run", "submit", "--stage", "question", "--dry-run")
    run.command("submit", "submit", "--stage", "question")
    for name in ("status", "receipt"):
        run.command(name, name)
    run.command("status --json", "status", "--json")
    run.command("collect", "collect")


def ticks(run: Run) -> int:
    """The cron line until the dataset is finished: how many batches ended in one tick at most. Some conversations are
    left behind at the last step.
    """
    fault = {"type": "rows", "outcome": "blocked_prompt", "key": r"\.r3\.correction\.", "share": LEFT_BEHIND}
    run.control("faults", fault)
    most: int = 0
    for _ in range(MOST_TICKS):
        done = json.loads(run.command("collect --advance", "collect", "--advance", "--json"))
        most = max(most, int(done["collected"]))
        if not done["collected"] and not done["submitted"]:
            return most
    raise AssertionError("the run does not end")


def finished(run: Run) -> None:
    """What reads the whole dataset, and what mends it."""
    for name in ("status", "receipt", "estimate", "verify", "report"):
        run.command(name, name)
    run.command("status --json", "status", "--json")
    for form in FORMATS:
        output = run.root.parent / f"{form}.{'parquet' if form == 'parquet' else 'jsonl'}"
        run.command(f"export, {form}", "export", "--format", form, "--output", str(output))
    run.command("verify", "verify")  # the exports, too
    run.command("retry", "retry")
    run.command("switch", "switch", "together", Settings().together.models[-1])
    run.command("clean", "clean")
    (run.root / "data" / "batchgen.sqlite").unlink()
    run.command("rebuild", "rebuild")


def in_one_go(run: Run) -> None:
    """What is cancelled, and a whole run in one process."""
    run.command("submit", "submit", "--stage", "question")  # twice as many
    run.command("cancel", "cancel")
    run.command("run", "run")
    run.command("clean", "clean")


def measured(conversations: int, folder: Path) -> Found:
    """The peaks of all commands, of one run and of another in one go."""
    program = (__file__, SERVICE)
    with serving(folder / "service", "scripted", "--control", program=program) as service:
        run = Run(folder / "root", service, {})
        run.root.mkdir()
        prepared(run, conversations)
        first_batches(run)
        ended = ticks(run)
        finished(run)
        in_one_go(run._replace(root=folder / "json"))
        run.command("demo --backend scripted", "demo", "--backend", "scripted", "--output", str(folder / "demo"))
        held = memory_mb(service.process, "VmHWM")
        return Found({**run.found, "serve --backend scripted": Peak(0.0, held, held)}, ended)


def service(arguments: list[str]) -> None:
    """`batchgen serve`, whose scripted texts have the length of real ones."""
    from batchgen.cli.main import main as batchgen

    short = builtin.default_text

    def text(prompt: builtin.Prompt) -> str:
        said = short(prompt)
        if prompt.schema is None:
            return longer(said, LONG)
        return orjson.dumps(
            {
                name: longer(value, LONG // 3 if name == "question" else LONG)
                for name, value in orjson.loads(said).items()
            }
        ).decode()

    builtin.default_text = text
    batchgen(arguments)


def longer(text: str, characters: int) -> str:
    """`text`, and other words."""
    chance, words = Random(text), vocabulary()
    while len(text) < characters:
        text += " " + words[int(WORDS * chance.random() ** SKEW)]
    return text


@cache
def vocabulary() -> list[str]:
    chance = Random(1)
    return ["".join(chance.choices(LETTERS, k=chance.randint(3, 10))) for _ in range(WORDS)]


def figures(found: Found, conversations: int) -> dict[str, Any]:
    """What is kept of them."""
    from benchmarks.throughput import machine

    kept = {name: peak._asdict() for name, peak in found.peaks.items()}
    facts = {"conversations": conversations, "requests": Settings().batches.max_requests, "ended": found.ended}
    return {"machine": machine(), **facts, "commands": kept}


def main() -> None:
    if SERVICE in sys.argv[:2]:
        service(sys.argv[2:])
        return
    from benchmarks.throughput import FIGURES, write_page

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=24_000)
    parser.add_argument("--folder", type=Path, help="An empty folder on the disk to be used.")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measured(options.conversations, Path(folder))
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / "peaks.json").write_text(json.dumps(figures(found, options.conversations), indent=1) + "\n", "utf-8")
    write_page()
    name, largest = max(found.peaks.items(), key=lambda item: item[1].largest)
    print(f"{time.perf_counter() - start:.0f} s; {found.ended} batches ended in one tick at most")
    print(f"the largest process: {largest.largest:.0f} MB ({name})")
    print(f"the most at one moment: {max(peak.together for peak in found.peaks.values()):.0f} MB")


if __name__ == "__main__":
    main()
