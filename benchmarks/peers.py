"""The local work for the same requests: this program beside two packages that also submit and collect batches.

Each package does it by its own public calls, with its defaults, in OpenAI's batch protocol:
    build    read the rows from a JSONL file, make the requests, upload them and create the batches;
    collect  in another process: see that the batches have ended, download the results and store them.
All call the same small service on loopback, which answers at once. Each measurement is a process of its own. It first
does both steps with ten rows, so that imports and first connections are not timed. The packages take turns.

    python benchmarks/peers.py [--rows 20000] [--runs 3]      # writes docs/performance.md; needs requirements-peers.txt
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks import peer_packages
from benchmarks.peer_packages import MODEL, OURS, PACKAGES, WARM_ROWS, Rows, build_ours
from benchmarks.throughput import FIGURES, machine, reply, seeds, topic, write_page

# ---------------------------------------------------------------- the service


class Service(ThreadingHTTPServer):
    """OpenAI's files and batches, for `rows` rows. A batch of more than `WARM_ROWS` runs until `end` is called."""

    def __init__(self, rows: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.numbers = {topic(number): number for number in range(1, rows + 1)}
        self.ids = count()  # of files and batches; calls come at once
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        Thread(target=self.serve_forever, daemon=True).start()

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def running(self) -> list[dict[str, Any]]:
        return [batch for batch in self.batches.values() if batch["status"] == "in_progress"]

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = self.files[asked["input_file_id"]].count(b"\n")
        batch = {
            **asked,
            "id": f"batch_{next(self.ids)}",
            "object": "batch",
            "status": "in_progress",
            "created_at": int(time.time()),
            "request_counts": {"total": rows, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        if rows <= WARM_ROWS:
            self.end(batch)
        return batch

    def end(self, batch: dict[str, Any]) -> int:
        """Answer the requests of a batch. Returns their number."""
        requests = [orjson.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        batch["output_file_id"] = f"file-{batch['id']}"
        batch["status"] = "completed"
        batch["request_counts"]["completed"] = len(requests)
        lines = [result_line(request["custom_id"], self._number(request)) for request in requests]
        self.files[batch["output_file_id"]] = b"\n".join(lines) + b"\n"
        return len(requests)

    def _number(self, request: dict[str, Any]) -> int:
        """The number of a row, by what its text is about: the batches of a run may be created in any order."""
        about = request["body"]["messages"][-1]["content"].partition("It is about ")[2]
        return self.numbers[about.partition(".")[0]]


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
            file = f"file-{next(self.server.ids)}"
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


# ---------------------------------------------------------------- measuring


def in_own_process(name: str, step: str, folder: Path, rows: int, service: Service) -> dict[str, float]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "OPENAI_API_KEY": "no-real-key-openai",
        "OPENAI_BASE_URL": service.url,
    }
    command = [sys.executable, peer_packages.__file__, name, step, str(folder), str(rows)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return dict(json.loads(said.splitlines()[-1]))


def one_turn(name: str, files: Path, rows: int) -> dict[str, Any]:
    """Both steps of one package, beside a service of its own."""
    with tempfile.TemporaryDirectory() as name_of_folder, Service(rows) as service:
        folder = Path(name_of_folder)
        for path in files.glob("*.jsonl"):
            (folder / path.name).symlink_to(path)
        build = in_own_process(name, "build", folder, rows, service)
        batches = len(service.running())
        assert sum(map(service.end, service.running())) == rows, f"{name} sent other rows"
        return {"batches": batches, "build": build, "collect": in_own_process(name, "collect", folder, rows, service)}


def write_rows(files: Path, rows: int) -> None:
    """Write the rows of both kinds. The texts of the requests are those that this program sends."""
    for number in (WARM_ROWS, rows):
        given = (dict(zip(("question", "answer", "correction"), seed, strict=True)) for seed in seeds(number))
        Rows.at(files, number).seeds.write_bytes(b"".join(orjson.dumps(seed) + b"\n" for seed in given))
    with Service(rows) as service:
        os.environ |= {"OPENAI_API_KEY": "no-real-key-openai", "OPENAI_BASE_URL": service.url}
        build_ours(files / "sample", Rows.at(files, rows))
        sent = [orjson.loads(line)["body"]["messages"] for body in service.files.values() for line in body.splitlines()]
    texts = [{message["role"]: message["content"] for message in messages} for messages in sent]
    lines = [
        orjson.dumps({"custom_id": f"row-{number}", "system": text["system"], "prompt": text["user"]}) + b"\n"
        for number, text in enumerate(texts, start=1)
    ]
    for number in (WARM_ROWS, rows):
        Rows.at(files, number).requests.write_bytes(b"".join(lines[:number]))


def compare(rows: int, runs: int) -> dict[str, Any]:
    """Medians of each package, and how many times as long as this program it took, turn by turn."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), rows)
        turns = [{name: one_turn(name, Path(folder), rows) for name in PACKAGES} for _ in range(runs)]
    found: dict[str, Any] = {"machine": machine(), "rows": rows, "runs": runs}
    found["versions"] = {name: version(name) for name in ("batchor", "batchwork-ai")}
    for name in PACKAGES:
        found[name] = {"batches": turns[0][name]["batches"]}
        for step in ("build", "collect"):
            for what in turns[0][name][step]:
                found[name][f"{step}, {what}"] = statistics.median(turn[name][step][what] for turn in turns)
            for what in ("s", "CPU s"):
                times = [turn[name][step][what] / turn[OURS][step][what] for turn in turns]
                found[name][f"{step}, {what}, times {OURS}"] = statistics.median(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    found = compare(options.rows, options.runs)
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / "peers.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    write_page()
    for what in found[OURS]:
        print(f"{what:<40}" + "".join(f"{name}: {found[name][what]:<12.4g}" for name in PACKAGES))


if __name__ == "__main__":
    main()
