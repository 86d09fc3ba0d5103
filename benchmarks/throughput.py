"""How fast local work is, beside the floor that the libraries themselves set, in one run on one machine.

Build: prompt, encode, hash, durable write, ledger. Its floor: orjson and sha256 of the same bytes.
Collect: parse, judge, join, store, round files. Its floor: orjson, polars 1:1 join and parquet of the same bytes.
Each measurement runs in a process of its own, which also gives its peak memory.

    python benchmarks/throughput.py [--rows 100000] [--runs 3]      # writes docs/performance.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.core.dialogue import ECHO_FIELD, Stage, Step, Turn, echo_of
from batchgen.core.outcomes import Reason, Reply, Usage
from batchgen.dataset.round_files import write_due_files
from batchgen.dataset.seeds import SeedReport, read_seeds
from batchgen.engine.collection.poll import settle_ended_job
from batchgen.engine.session import Session
from batchgen.engine.submission import request_files, submit
from batchgen.engine.submission.request_files import BatchDraft
from batchgen.ledger.rows import Batch, BatchIdentity, BatchPlan, BatchState
from batchgen.ledger.store import Store
from batchgen.providers.base import Job, JobState
from batchgen.runtime.files import FileDigest, Layout, write_durably
from batchgen.runtime.settings import BatchSettings, Settings
from benchmarks.commands import relative

Clock = Callable[[], float]
QUESTION = Step(2, Stage.QUESTION)
SYLLABLES = ("ba", "co", "du", "fe", "gi", "ho", "ju", "ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "we", "zo")


def topic(number: int) -> str:
    """Words that hardly another conversation has, as real ones have them."""
    chance = Random(number)
    return " and ".join("".join(chance.choices(SYLLABLES, k=4)) for _ in range(4))


def seeds(rows: int) -> Iterator[Turn]:
    """`rows` conversations made from the shipped examples, each about something else."""
    examples = list(read_seeds(REPOSITORY / "batchgen" / "examples.jsonl", SeedReport()))
    for number, seed in enumerate(islice(cycle(examples), rows), start=1):
        yield Turn(f"{seed.question} It is about {topic(number)}.", seed.answer, seed.correction)


def reply(number: int) -> str:
    """A follow-up question of some 150 characters about conversation `number`. Every other one does not name what it is
    about, as many real replies do not: they have to be compared with all requests to know that they fit no other.
    """
    about = topic(number) if number % 2 else "all of what you have just told me, as far as I understood it"
    return f"Thank you, that helps. Now with {about}: which would you begin with if only ten minutes were left?"


def session(root: Path, rows: int, *, echo: bool = True) -> Session:
    """A prepared run whose store holds `rows` conversations; it has no provider."""
    layout = Layout(root)
    layout.data.mkdir(parents=True)
    store = Store.open(layout.store)
    store.replace_seeds(seeds(rows), {"run": "bench", "prepared": "bench"})
    store.set_fact("model:gemini", Settings().gemini.models[0])
    return Session(layout, Settings(batches=BatchSettings(echo=echo)), store, {})


def build_all(run: Session) -> list[Batch]:
    """Every request file of the first step, entered into the ledger."""
    batches = []
    while shard := request_files.draft_batch(run, QUESTION, 0):
        batches.append(submit.plan_batch(run, shard))
    return batches


def result_lines(run: Session, batch: Batch) -> bytes:
    """What the provider would send back for a batch."""
    lines = []
    names = run.names()
    for row in run.store.held_conversations(batch.number):
        echo = {ECHO_FIELD: echo_of(row.number)} if batch.plan.echo else {}
        text = orjson.dumps({**echo, "question": reply(row.number)}).decode()
        response = {
            "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 300, "candidatesTokenCount": 40, "totalTokenCount": 340},
            "modelVersion": "gemini-2.5-flash-lite",
        }
        lines.append(orjson.dumps({"response": response, "key": names.key(row.number, batch.step, batch.attempt)}))
    return b"\n".join(lines) + b"\n"


def measure_build(rows: int, root: Path, *, echo: bool = True, clock: Clock = time.perf_counter) -> list[float]:
    run = session(root, rows, echo=echo)
    seconds, start = [], clock()
    while shard := request_files.draft_batch(run, QUESTION, 0):
        submit.plan_batch(run, shard)
        seconds.append(clock() - start)
        start = clock()
    return seconds


def floor_build(rows: int, root: Path) -> list[float]:
    """orjson and sha256 over the same request lines."""
    run = session(root, rows)
    seconds: list[float] = []
    after = 0
    while shard := request_files.draft_batch(run, QUESTION, 0, after=after):
        after = shard.rows[-1].number
        values = [orjson.loads(line) for line in shard.body.splitlines()]
        start = time.perf_counter()
        digest = hashlib.sha256()
        for value in values:
            digest.update(orjson.dumps(value))
        seconds.append(time.perf_counter() - start)
    return seconds


def measure_collect(rows: int, root: Path, *, echo: bool = True, clock: Clock = time.perf_counter) -> list[float]:
    from batchgen.providers import PROVIDERS

    run = session(root, rows, echo=echo)
    seconds: list[float] = []
    job = Job("batches/x", JobState.SUCCEEDED, "JOB_STATE_SUCCEEDED")
    batches = [run.store.update(batch, state=BatchState.IN_FLIGHT, remote_id="x") for batch in build_all(run)]
    write_due_files(run)
    for batch in batches:
        raw = result_lines(run, batch)
        start = clock()
        settle_ended_job(run, PROVIDERS["gemini"], batch, job, raw, run.keys(batch))
        write_due_files(run)
        seconds.append(clock() - start)
    return seconds


def floor_collect(rows: int, root: Path) -> list[float]:
    """orjson, a polars 1:1 join and parquet over the same result lines."""
    import polars as pl

    run = session(root, rows)
    seconds: list[float] = []
    for batch in build_all(run):
        raw = result_lines(run, batch)
        keys = list(run.keys(batch))
        start = time.perf_counter()
        parsed = [orjson.loads(line) for line in raw.split(b"\n") if line]
        texts = [row["response"]["candidates"][0]["content"]["parts"][0]["text"] for row in parsed]
        found = pl.DataFrame({"key": [row["key"] for row in parsed], "text": texts})
        joined = pl.DataFrame({"key": keys}).join(found, on="key", how="left", validate="1:1")
        joined.write_parquet(BytesIO())
        seconds.append(time.perf_counter() - start)
    return seconds


def least_build(rows: int, root: Path) -> list[float]:
    """What building cannot do without while the store is the truth and every step is durable: rows and texts read from
    the store, the file hashed and written, the ledger. Its lines are there already.
    """
    run = session(root, rows)
    names, after = run.names(), 0
    shards: list[BatchDraft] = []
    while shard := request_files.draft_batch(run, QUESTION, 0, after=after):
        after = shard.rows[-1].number
        shards.append(shard)
    seconds: list[float] = []
    for number, shard in enumerate(shards, start=1):
        start = time.perf_counter()
        ready = run.store.ready(QUESTION, 0, after=0, limit=len(shard.rows))
        run.store.dialogues.ready_texts(ready, range(len(Turn._fields)))
        written = write_durably(run.layout.requests(QUESTION, f"{names.run}-{number}"), [shard.body])
        run.store.plan(*_entry(f"{names.run}-{number}", len(ready), written), ready)
        seconds.append(time.perf_counter() - start)
    return seconds


def _entry(name: str, requests: int, written: FileDigest) -> tuple[BatchIdentity, BatchPlan]:
    identity = BatchIdentity(
        name=name,
        position=QUESTION.position,
        attempt=1,
        provider="gemini",
        model="",
    )
    plan = BatchPlan(
        requests=requests,
        bytes=written.size,
        sha256=written.sha256,
        input_tokens=0,
        output_ceiling=0,
        estimated_usd=None,
        reserved_usd=None,
        planned_at=0.0,
    )
    return identity, plan


def least_collect(rows: int, root: Path) -> list[float]:
    """What collecting cannot do without: lines and replies parsed by orjson, and the store's one transaction. Nothing
    is checked or matched, and no file is derived.
    """
    run = session(root, rows)
    batches = [run.store.update(batch, state=BatchState.IN_FLIGHT, remote_id="x") for batch in build_all(run)]
    seconds: list[float] = []
    for batch in batches:
        raw = result_lines(run, batch)
        start = time.perf_counter()
        parsed = [orjson.loads(line) for line in raw.split(b"\n") if line]
        said = [orjson.loads(row["response"]["candidates"][0]["content"]["parts"][0]["text"]) for row in parsed]
        numbers = run.store.held_numbers(batch.number)
        settled = {
            number: Reply("", Reason.ACCEPTED, reply["question"]) for number, reply in zip(numbers, said, strict=True)
        }
        run.store.settle(batch, settled, {Reason.ACCEPTED: (len(settled), Usage(), 0.0)}, max_attempts=1)
        seconds.append(time.perf_counter() - start)
    return seconds


MEASURES: dict[str, Callable[[int, Path], list[float]]] = {
    "build": measure_build,
    "build least": least_build,
    "build floor": floor_build,
    "collect": measure_collect,
    "collect least": least_collect,
    "collect floor": floor_collect,
    **{
        f"{name}, {how}": partial(measure, echo=how == "echo", clock=time.process_time)
        for name, measure in (("build", measure_build), ("collect", measure_collect))
        for how in ("echo", "no echo")
    },
}
ECHO_MEASURES = [name for name in MEASURES if name.endswith("echo")]


def in_own_process(name: str, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", name, "--rows", str(rows)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def local_work(rows: int, runs: int) -> dict[str, float]:
    """Rates, and shares of the floor: of the median seconds of a request file, run by run."""
    names = [name for name in MEASURES if name not in ECHO_MEASURES]
    rounds = [{name: in_own_process(name, rows) for name in names} for _ in range(runs)]
    found = {}
    for name in ("build", "collect"):
        floors, ours, least = (
            [statistics.median(one[f"{name}{part}"]["seconds"]) for one in rounds] for part in (" floor", "", " least")
        )
        found[f"{name}, rows/s"] = Settings().batches.max_requests / statistics.median(ours)
        found[f"{name}, share of what store and disk alone reach"] = _share(least, ours)
        found[f"{name}, share of the floor"] = _share(floors, ours)
        found[f"{name}, peak MB"] = statistics.median(one[name]["peak_mb"] for one in rounds)
    return found


def echo_work(rows: int, runs: int) -> dict[str, float]:
    """Milliseconds of CPU time a request file with and without the echo, taken in turn."""
    rounds = [{name: in_own_process(name, rows)["seconds"] for name in ECHO_MEASURES} for _ in range(runs)]
    return {name: 1000 * statistics.median(statistics.median(one[name]) for one in rounds) for name in ECHO_MEASURES}


def _share(floors: Sequence[float], seconds: Sequence[float]) -> float:
    return statistics.median(floor / mine for floor, mine in zip(floors, seconds, strict=True))


def commands(conversations: int, runs: int) -> dict[str, float]:
    """How long a tick and a status take where nothing is in flight, as multiples of `import click, sqlite3`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        run = session(root, conversations)
        write_due_files(run)
        run.close()
        found = relative(root, {"tick": ["collect"], "status": ["status"]}, runs)
    return {f"{name}, nothing in flight, {conversations} conversations": value for name, value in found.items()}


# ---------------------------------------------------------------- the page

FIGURES = REPOSITORY / "benchmarks" / "figures"
PAGE = REPOSITORY / "docs" / "performance.md"
HEAD = """# How fast it is

Written by `make bench` (this program's share of the work) from what it measured and from what the other benchmarks left
in `benchmarks/figures/`. The providers take hours; this is what one machine does beside them.

Build is prompt, encode, hash, durable write and ledger; its floor is orjson and sha256 of the same bytes. Collect is
parse, judge, join, store and derived files; its floor is orjson, a polars 1:1 join and parquet of the same bytes. The
floors neither read a store nor write durably. *Store and disk alone* do: to build, they read rows and texts by the
plainest queries, hash and write the finished lines, and enter them into the ledger; to collect, they parse lines and
replies with orjson and make the store's one transaction. Nothing is checked, matched or derived.

All are medians over request files of 2,000 rows; a share is measured side by side. A tick and a status are whole
processes, as multiples of `python -c "import click, sqlite3"` on the same machine at the same time.
"""


def write_page() -> None:
    """Write docs/performance.md anew from the figures that lie there."""
    PAGE.write_text(page(), "utf-8")


def page() -> str:
    """docs/performance.md, from the figures that lie there."""
    after, before = (_figures(name) for name in ("after", "before"))
    lines = [HEAD, f"Machine: {after.pop('machine')}.", ""]
    note = before.pop("machine", "")
    lines += ["| | before | now |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {_number(before.get(name))} | {_number(value)} |" for name, value in after.items()]
    lines += ["", f"Before: {note}."] if note else []
    runs = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FIGURES.glob("million-*.json"))}
    if runs:
        several = sorted(runs.values(), key=lambda run: run["conversations"])
        lines += ["", "## A whole run", "", "In-process providers that answer at once; their time is left out.", ""]
        lines += [f"| | {' | '.join(format(run['conversations'], ',') for run in several)} conversations |"]
        lines += ["| --- |" + " ---: |" * len(several)]
        names = [name for name in several[0] if name not in ("conversations", "machine")]
        lines += [f"| {name} | {' | '.join(_number(run.get(name)) for run in several)} |" for name in names]
    lines += _echo() + _exports() + _round_trips() + _peaks() + _peers()
    where = FIGURES / "where.md"
    return "\n".join(lines) + "\n" + ("\n" + where.read_text("utf-8") if where.exists() else "")


def _echo() -> list[str]:
    """What `--echo` found, if it was run."""
    found = _figures("echo")
    if not found:
        return []
    rows = [
        f"| {name} | {_number(found[f'{name}, echo'])} | {_number(found[f'{name}, no echo'])} |"
        for name in ("build", "collect")
    ]
    words = [
        "CPU milliseconds a file of 2,000 questions: `[batches] echo = true` (echoes are compared) and `false`",
        "(words are compared), taken in turn: `.venv/bin/python benchmarks/throughput.py --echo --rows 20000`.",
        "`benchmarks/parts.py --rows 10000` shows the parts of both.",
    ]
    return ["", "## The echo", "", *words, "", "| | with echo | without |", "| --- | ---: | ---: |", *rows]


def _exports() -> list[str]:
    """What benchmarks/exports.py found, if it was run."""
    found = _figures("exports")
    if not found:
        return []
    sizes = sorted(found, key=int)
    words = [
        "`export --format messages` and `report` as processes, of dialogues of three rounds, each about something",
        "else; one in fifty nearly copies another (`make bench-export`).",
    ]
    head = f"| | {' | '.join(format(int(size), ',') for size in sizes)} conversations |"
    rows = [f"| {name} | {' | '.join(_number(found[size].get(name)) for size in sizes)} |" for name in found[sizes[0]]]
    return ["", "## Exports and reports", "", *words, "", head, "| --- |" + " ---: |" * len(sizes), *rows]


def _round_trips() -> list[str]:
    """What benchmarks/roundtrips.py found, if it was run."""
    found = _figures("roundtrips")
    if not found:
        return []
    now, in_a_row = found["now"], found["in a row"]
    rows = [f"| {name} | {in_a_row[name]:.0f} | {now[name]:.0f} |" for name in now]
    late = f"{found['seconds'] * 1000:.0f} ms"
    words = [
        f"Whole commands beside a service whose every answer comes {late} late, in such delays: what a tick of many",
        "batches waits for. The first batch of a model is created alone, the others one by one beside the uploads of",
        "the next four; results are fetched four deep. In a row: the same program with none of that.",
    ]
    return ["", "## A slow network", "", *words, "", "| | in a row | now |", "| --- | ---: | ---: |", *rows]


def _peaks() -> list[str]:
    """What benchmarks/peaks.py found, if it was run."""
    found = _figures("peaks")
    if not found:
        return []
    peaks = found["commands"]
    rows = [f"| {name} | {one['largest']:.0f} | {one['together']:.0f} |" for name, one in peaks.items()]
    words = [
        "Peaks of every command as a process, with the real SDKs beside `batchgen serve`, in MB (`make bench-peaks`):",
        f"{found['conversations']:,} conversations in batches of {found['requests']:,}; {found['ended']} batches end",
        "in one tick. Of several runs of a command the largest counts: its largest process, and all of its processes",
        "at one moment (what two of them share counts twice).",
    ]
    return ["", "## Memory", "", *words, "", "| | largest process | all at once |", "| --- | ---: | ---: |", *rows]


def _peers() -> list[str]:
    """What benchmarks/peers.py found, if it was run. What the packages do differently stands in figures/peers.md."""
    found = _figures("peers")
    if not found:
        return []
    packages = {name: value for name, value in found.items() if isinstance(value, dict) and "batches" in value}
    names = list(next(iter(packages.values())))
    rows = [f"| {name} | {' | '.join(_number(one[name]) for one in packages.values())} |" for name in names]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    words = [
        f"{found['rows']:,} rows, medians of {found['runs']} turns, in which the packages follow each other:",
        f"`make bench-peers`. {versions}; {found['machine']}.",
    ]
    table = [f"| | {' | '.join(packages)} |", "| --- |" + " ---: |" * len(packages), *rows]
    notes = (FIGURES / "peers.md").read_text("utf-8").rstrip()
    return ["", "## Beside other packages", "", *words, "", *table, "", notes]


def _figures(name: str) -> dict[str, Any]:
    path = FIGURES / f"{name}.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def machine() -> str:
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--figures", default="after", help="Under which name the figures are kept.")
    parser.add_argument("--echo", action="store_true", help="Measure only what the echo costs and saves.")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as folder:
            seconds = MEASURES[options.measure](options.rows, Path(folder) / "root")
        print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    name = "echo" if options.echo else options.figures
    found: dict[str, Any]
    if options.echo:
        found = dict(echo_work(options.rows, options.runs))
    else:
        found = {"machine": machine(), **local_work(options.rows, options.runs)}
        for conversations in (200, options.rows):
            found |= commands(conversations, 5 * options.runs)
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if name in ("after", "echo"):
        write_page()
    for name, value in found.items():
        print(f"{name:<55}{value if isinstance(value, str) else _number(value):>10}")


if __name__ == "__main__":
    main()
