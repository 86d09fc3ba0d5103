"""How fast local work is, beside the floor that the libraries themselves set, in one run on one machine.

Build: prompt, encode, hash, durable write, ledger. Its floor: orjson and sha256 of the same bytes.
Collect: parse, judge, join, store, round files. Its floor: orjson, polars 1:1 join and parquet of the same bytes.
Each measurement runs in a process of its own, which also gives its peak memory.

    python benchmarks/throughput.py [--rows 100000] [--runs 3]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from random import Random

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen import build, submit  # noqa: E402 - the repository is found first
from batchgen.collect import book  # noqa: E402
from batchgen.dialogue import Stage, Step, Turn  # noqa: E402
from batchgen.files import Layout  # noqa: E402
from batchgen.providers.base import Job, JobState  # noqa: E402
from batchgen.records import Batch  # noqa: E402
from batchgen.rounds import refresh  # noqa: E402
from batchgen.seeds import SeedReport, read_seeds  # noqa: E402
from batchgen.session import Session  # noqa: E402
from batchgen.settings import Settings  # noqa: E402
from batchgen.store import Store  # noqa: E402

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
    """A follow-up question of some 150 characters about conversation `number`."""
    return f"Thank you, that helps. Now with {topic(number)}: which would you begin with if only ten minutes were left?"


def session(root: Path, rows: int) -> Session:
    """A prepared run whose store holds `rows` conversations; it has no provider."""
    layout = Layout(root)
    layout.data.mkdir(parents=True)
    store = Store.open(layout.store)
    store.replace_seeds(seeds(rows), {"run": "bench", "prepared": "bench"})
    store.set_meta("model:gemini", Settings().gemini.models[0])
    return Session(layout, Settings(), store, {})


def build_all(run: Session) -> list[Batch]:
    """Every request file of the first step, entered into the ledger."""
    batches = []
    while shard := build.shard(run, QUESTION, 0):
        batches.append(submit.plan(run, shard))
    return batches


def result_lines(run: Session, batch: Batch) -> bytes:
    """What the provider would send back for a batch."""
    lines = []
    names = run.names()
    for row in run.store.held(batch.batch):
        text = orjson.dumps({"question": reply(row.number)}).decode()
        response = {
            "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 300, "candidatesTokenCount": 40, "totalTokenCount": 340},
            "modelVersion": "gemini-2.5-flash-lite",
        }
        lines.append(orjson.dumps({"response": response, "key": names.key(row.number, batch.step, batch.attempt)}))
    return b"\n".join(lines) + b"\n"


def measure_build(rows: int, root: Path) -> dict[str, float]:
    run = session(root, rows)
    start = time.perf_counter()
    build_all(run)
    return {"seconds": time.perf_counter() - start}


def floor_build(rows: int, root: Path) -> dict[str, float]:
    """orjson and sha256 over the same request lines."""
    run = session(root, rows)
    seconds = 0.0
    after = 0
    while shard := build.shard(run, QUESTION, 0, after=after):
        after = shard.rows[-1].number
        values = [orjson.loads(line) for line in shard.body.splitlines()]
        start = time.perf_counter()
        digest = hashlib.sha256()
        for value in values:
            digest.update(orjson.dumps(value))
        seconds += time.perf_counter() - start
    return {"seconds": seconds}


def measure_collect(rows: int, root: Path) -> dict[str, float]:
    from batchgen.providers import PROVIDERS

    run = session(root, rows)
    seconds = 0.0
    job = Job("batches/x", JobState.SUCCEEDED, "JOB_STATE_SUCCEEDED")
    batches = [run.store.update(batch, state="in_flight", remote_id="x") for batch in build_all(run)]
    refresh(run)
    for batch in batches:
        raw = result_lines(run, batch)
        start = time.perf_counter()
        book(run, PROVIDERS["gemini"], batch, job, raw)
        refresh(run)
        seconds += time.perf_counter() - start
    return {"seconds": seconds}


def floor_collect(rows: int, root: Path) -> dict[str, float]:
    """orjson, a polars 1:1 join and parquet over the same result lines."""
    import polars as pl

    run = session(root, rows)
    seconds = 0.0
    for batch in build_all(run):
        raw = result_lines(run, batch)
        keys = list(run.keys(batch))
        start = time.perf_counter()
        parsed = [orjson.loads(line) for line in raw.split(b"\n") if line]
        texts = [row["response"]["candidates"][0]["content"]["parts"][0]["text"] for row in parsed]
        found = pl.DataFrame({"key": [row["key"] for row in parsed], "text": texts})
        joined = pl.DataFrame({"key": keys}).join(found, on="key", how="left", validate="1:1")
        joined.write_parquet(BytesIO())
        seconds += time.perf_counter() - start
    return {"seconds": seconds}


MEASURES = {
    "build": measure_build,
    "build floor": floor_build,
    "collect": measure_collect,
    "collect floor": floor_collect,
}


def in_own_process(name: str, rows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, "--rows", str(rows)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as folder:
            result = MEASURES[options.measure](options.rows, Path(folder) / "root")
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    print(f"{options.rows} rows, median of {options.runs} runs, each in a process of its own")
    print(f"{'':<16}{'rows/s':>12}{'of floor':>10}{'peak MB':>10}")
    rounds = [{name: in_own_process(name, options.rows) for name in MEASURES} for _ in range(options.runs)]
    for name in MEASURES:
        rate = statistics.median(options.rows / one[name]["seconds"] for one in rounds)
        floor = name if name.endswith("floor") else f"{name} floor"
        share = statistics.median(one[floor]["seconds"] / one[name]["seconds"] for one in rounds)
        peak = statistics.median(one[name]["peak_mb"] for one in rounds)
        print(f"{name:<16}{rate:>12,.0f}{share:>10.3f}{peak:>10.0f}")


if __name__ == "__main__":
    main()
