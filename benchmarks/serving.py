"""`serve` in front of a chat server: how near it comes to rows * latency / concurrency, and what it holds in memory.

The service runs as its users run it, in a process of its own, driven by the together SDK; behind it stands a chat
server on loopback that answers each row after a fixed time.

    python benchmarks/serving.py [--rows 2000] [--milliseconds 50] [--concurrency 64]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import orjson

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.upstream import Upstream

MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
PADDING = "The harbour wall was rebuilt after the storm, and the boats lie behind it in two rows. " * 12


class Measured(NamedTuple):
    """Seconds from the create call to the end of the job, memory of the service in MB, and the rows that came back.

    idle_mb: before the upload. working_mb: the most while rows were asked. peak_mb: the most ever.
    """

    seconds: float
    idle_mb: float
    working_mb: float
    peak_mb: float
    rows: int


class Serving(NamedTuple):
    """A `serve` in a process of its own."""

    process: subprocess.Popen[str]
    together_url: str
    gemini_url: str


@contextmanager
def serving(
    data_dir: Path, backend: str, *options: str, program: tuple[str, ...] = (str(REPOSITORY / "cli.py"),)
) -> Iterator[Serving]:
    """`batchgen serve` on free ports; killed in the end, as a machine that fails would."""
    ports = ["--gemini-port", "0", "--together-port", "0", "--openai-port", "0"]
    rest = ["--job-seconds", "0", "--data-dir", str(data_dir)]
    command = [sys.executable, *program, "serve", "--backend", backend, *ports, *rest, *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        # Read to the end, or a line for each request fills the pipe and the service waits for ever.
        reader = threading.Thread(target=process.stderr.read)
        try:
            said = ""
            while not (found := re.search(r"GOOGLE_GEMINI_BASE_URL=(\S+) TOGETHER_BASE_URL=(\S+)", said)):
                line = process.stderr.readline()
                assert line, said
                said += line
            reader.start()
            yield Serving(process, found[2], found[1])
        finally:
            process.kill()
            if reader.ident:
                reader.join()


def memory_mb(process: subprocess.Popen[str], field: str = "VmRSS") -> float:
    """Resident memory of a process in MB; VmHWM is the most there ever was."""
    text = Path(f"/proc/{process.pid}/status").read_text("ascii")
    return int(re.findall(rf"{field}:\s+(\d+) kB", text)[0]) / 1024


def request_file(path: Path, rows: int) -> Path:
    """A Together batch file of `rows` requests of about a kilobyte."""
    with path.open("wb") as file:
        for number in range(rows):
            messages = [{"role": "user", "content": f"{PADDING}What of boat {number}?"}]
            body = {"model": MODEL, "messages": messages, "max_tokens": 64}
            file.write(orjson.dumps({"custom_id": f"k{number}", "body": body}) + b"\n")
    return path


def measure(rows: int, seconds: float, concurrency: int, text: str = PADDING) -> Measured:
    """One job of `rows` rows, each answered with `text`, through the SDK to its result file."""
    import together

    with (
        tempfile.TemporaryDirectory() as folder,
        Upstream(seconds=seconds, text=text) as upstream,
        serving(Path(folder, "data"), upstream.url, "--concurrency", str(concurrency)) as service,
        together.Together(api_key="local", base_url=service.together_url, max_retries=0) as client,
    ):
        idle = memory_mb(service.process)
        source = client.files.upload(request_file(Path(folder, "r.jsonl"), rows), purpose="batch-api", check=False)
        start = time.perf_counter()
        job = client.batches.create(input_file_id=source.id, endpoint="/v1/chat/completions").job
        assert job
        assert job.id
        working = 0.0
        while not (output := client.batches.retrieve(job.id).output_file_id):
            working = max(working, memory_mb(service.process))
            time.sleep(0.1)
        elapsed = time.perf_counter() - start
        came = client.files.content(output).read().count(b"\n")
        return Measured(elapsed, idle, working, memory_mb(service.process, "VmHWM"), came)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[2000, 50_000])
    parser.add_argument("--milliseconds", type=float, default=50.0)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[64])
    options = parser.parse_args()
    print("| rows | at once | seconds | rows/s | of rows x latency / at once | MB idle | MB asking | MB at most |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for rows in options.rows:
        for concurrency in options.concurrency:
            found = measure(rows, options.milliseconds / 1000, concurrency)
            assert found.rows == rows
            least = rows * options.milliseconds / 1000 / concurrency
            memory = f"{found.idle_mb:.0f} | {found.working_mb:.0f} | {found.peak_mb:.0f}"
            speed = f"{found.seconds:.1f} | {rows / found.seconds:,.0f} | {found.seconds / least:.2f}"
            print(f"| {rows:,} | {concurrency} | {speed} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
