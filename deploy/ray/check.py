"""The answer model on a real Ray cluster on this machine, and what holds when parts of it are killed.

    make check-ray, or: python deploy/ray/check.py RAY_BIN     # RAY_BIN: the bin folder of an environment with Ray

The cluster runs cpu.yaml: the small model of `demo`, first one replica, then two. `batchgen serve --backend` stands in
front of it and passes all three stages on: questions and corrections over Gemini's protocol, answers over Together's.

1. The same batch three times: by one replica, by two, and by two of which one is killed.
2. Shipped seeds are grown through all six steps. Meanwhile a replica is killed, then `serve`, then Ray's proxy, each in
   the middle of a batch.
3. Every promise is checked. Exit status 1 if one is broken.

Everything listens on 127.0.0.1. Every process that was started is ended, also after a failure or Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from local_cluster import HERE, PATIENCE_SECONDS, REPOSITORY, Broken, Cluster, kill_proxy, kill_replica
from own_processes import all_ended_at_exit, free_ports, start, wait_for

ROWS_AT_ONCE = 14  # more than both replicas take (2 x 6 in cpu.yaml): the others wait in Ray's proxy
STEPS = 6
SMALLEST_BATCH = 3  # in whose middle something is killed: not the one or two rows that are asked a second time
OK = 200  # status of HTTP
MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"  # the name on the rows; the small model answers
CONFIG = """\
# Short prompts and replies: a small model on this machine reads and writes them.
history_messages = 2
[question]
max_output_tokens = 60
[answer]
max_output_tokens = 64
target_characters = 150
[correction]
max_output_tokens = 90
target_characters = 150
"""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


class Serve:
    """`batchgen serve` in front of the cluster; it can be killed and started again."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.data_dir, self._log = folder / "serve", folder / "serve.log"
        gemini, together, other = map(str, free_ports(3))
        ports = ["--gemini-port", gemini, "--together-port", together, "--openai-port", other]
        rest = ["--data-dir", str(self.data_dir), "--job-seconds", "0", "--concurrency", str(ROWS_AT_ONCE)]
        self._command = [sys.executable, str(REPOSITORY / "cli.py"), "serve", "--backend", backend, *ports, *rest]
        self.together_url = f"http://127.0.0.1:{together}"
        keys = {"GEMINI_API_KEY": "local", "TOGETHER_API_KEY": "local", "NO_PROXY": "127.0.0.1"}
        urls = {"GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{gemini}", "TOGETHER_BASE_URL": self.together_url}
        self.environment = {"PATH": os.environ["PATH"], **keys, **urls}
        self.start()

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = start(self._command, self.environment, self._log)
        wait_for("serve", self._listens, PATIENCE_SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def half_answered(self) -> str:
        """Return step and state of a batch of which some rows are answered and some are not; "" if there is none."""
        for path in (self.data_dir / "answers").glob("*.jsonl"):
            try:
                done = path.read_bytes().count(b"\n")
                keys = json.loads((self.data_dir / "jobs" / f"{path.stem}.json").read_bytes())["keys"]
            except OSError:  # the batch has just ended
                continue
            if 0 < done < len(keys) and len(keys) >= SMALLEST_BATCH:
                _, number, stage, *_ = keys[0].split(".")  # as in r1-000001.r2.answer.a1.1cefbbff
                return f"round {number[1:]} {stage}, {done} of {len(keys)} rows answered"
        return ""

    def _listens(self) -> bool:
        try:
            urllib.request.urlopen(self.together_url, timeout=5)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


class Measured(NamedTuple):
    """One batch: its rows, the seconds from the create call to the end, calls that were ended by a dead replica."""

    rows: int
    seconds: float
    refused: int = 0


def measure(cluster: Cluster, serve: Serve, rows: int, at_half: Callable[[], None] = lambda: None) -> Measured:
    """Send one batch through the SDK. `at_half` is called when half of its rows are answered."""
    import together

    path = serve.data_dir / "measured.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = [{"role": "user", "content": f"Tell a long story about boat number {number} and its crew."}]
            body = {"model": MODEL, "messages": messages, "max_tokens": 40 + 11 * number % 49}  # not all end at once
            file.write(json.dumps({"custom_id": f"k{number}", "body": body}) + "\n")
    before, refused = cluster.written(), cluster.refused()
    with together.Together(api_key="local", base_url=serve.together_url, max_retries=0) as client:
        source = client.files.upload(path, purpose="batch-api", check=False)
        begin = time.monotonic()
        job = client.batches.create(input_file_id=source.id, endpoint="/v1/chat/completions").job
        if not job or not job.id:
            raise Broken("the batch was not created")
        wait_for("half of the batch", lambda: cluster.written() - before >= rows // 2, PATIENCE_SECONDS)
        at_half()
        while not (output := client.batches.retrieve(job.id).output_file_id):
            if time.monotonic() - begin > PATIENCE_SECONDS:
                raise Broken("a batch did not end")
            time.sleep(0.1)
        seconds = time.monotonic() - begin
        answered = Counter(json.loads(line)["custom_id"] for line in client.files.content(output).read().splitlines())
    if answered != Counter(f"k{number}" for number in range(rows)):
        raise Broken(f"of {rows} rows, {len(answered)} were answered, {answered.total() - len(answered)} twice")
    return Measured(rows, seconds, cluster.refused() - refused)


def kill_serve(serve: Serve) -> Callable[[], object]:
    """Kill `serve`. Returns a function that starts it again and waits for it."""
    serve.kill()
    return serve.start


class Run:
    """A run of the shipped seeds in `root`."""

    def __init__(self, serve: Serve, root: Path, conversations: int) -> None:
        self.root, self._serve = root, serve
        root.mkdir()
        (root / "batchgen.toml").write_text(CONFIG, "utf-8")
        seeds = str(REPOSITORY / "batchgen" / "examples.jsonl")
        self.command("prepare", "--input", seeds, "--limit", str(conversations), "--no-shuffle")

    def command(self, *words: str) -> str:
        """Run a command to its end and return what it printed. Raises Broken if it fails."""
        done = subprocess.run(
            self._words(*words), env=self._serve.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Broken(f"{words[0]} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> subprocess.Popen[bytes]:
        return start(self._words("run"), self._serve.environment, self.root / "run.log")

    def keys(self, folder: str) -> Counter[str]:
        """Return how often each request key stands in the files of requests/ or results/."""
        rows = self.rows(*(self.root / folder).rglob("*.jsonl"))
        return Counter(str(row.get("key") or row.get("custom_id")) for row in rows)

    @staticmethod
    def rows(*paths: Path) -> Iterator[Any]:
        return (json.loads(line) for path in paths for line in path.read_bytes().splitlines())

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(self.root), *words]


class Killed(NamedTuple):
    """What was killed, when, and the seconds until it worked again."""

    what: str
    when: str
    seconds: float


def grow(cluster: Cluster, serve: Serve, run: Run, conversations: int) -> Iterator[Killed]:
    """Grow the seeds through all steps, and kill a replica, `serve` and the proxy on the way."""
    begin = cluster.written()
    process = run.start()

    def batch_in_the_middle(step: float) -> str:
        if process.poll() is not None:
            raise Broken("the run ended too early, see run/run.log")
        return serve.half_answered() if cluster.written() - begin >= step * conversations else ""

    def kill_at(step: float, what: str, act: Callable[[], Callable[[], object]]) -> Killed:
        when = wait_for("the next kill", lambda: batch_in_the_middle(step), 2 * PATIENCE_SECONDS)
        say(f"kill {what}: {when}")
        killed = time.monotonic()
        act()()
        return Killed(what, when, time.monotonic() - killed)

    yield kill_at(1.4, "a replica", lambda: kill_replica(cluster))
    yield kill_at(2.7, "`serve`", lambda: kill_serve(serve))
    yield kill_at(4.2, "Ray's proxy", lambda: kill_proxy(cluster))
    if process.wait(2 * PATIENCE_SECONDS):
        raise Broken(f"run ended with status {process.returncode}, see run/run.log")


def has_failed(row: dict[str, Any]) -> bool:
    """Return whether a result line of Gemini or Together has an error in place of a reply."""
    return bool(row.get("error") or (row.get("response") or {}).get("status_code", 200) != OK)


def check_promises(run: Run, conversations: int) -> list[tuple[str, str]]:
    """Return what holds, as rows of the table. Raises Broken."""
    asked, answered = run.keys("requests"), run.keys("results")
    if asked != answered or set(asked.values()) != {1}:
        raise Broken(f"requests {asked - answered} have no answer, answers {answered - asked} no request or are double")
    ids = Counter(row["id"] for row in run.rows(run.root / "data" / "round3" / "round3_history.jsonl"))
    rejected = list(run.rows(*(run.root / "data").glob("rejected.jsonl")))
    if set(ids.values()) != {1} or len(ids) + len(rejected) != conversations:
        raise Broken(f"{len(ids)} conversations are in the dataset, {len(rejected)} rejected, of {conversations}")
    failed = [row for row in run.rows(*(run.root / "results").rglob("*.jsonl")) if has_failed(row)]
    if failed:
        raise Broken(f"rows failed because of the faults: {failed}")
    said = run.command("verify").strip().rpartition(": ")[2]
    return [
        ("requests, each answered exactly once, none with an error", f"{asked.total()}"),
        ("conversations in the dataset, none twice", f"{len(ids)} of {conversations}"),
        ("rejected for what the small model wrote", f"{len(rejected)}"),
        ("`verify`", said),
    ]


def check(ray_bin: Path, folder: Path, conversations: int, rows: int) -> list[tuple[str, str]]:
    """Do all of it; return the table."""
    say("validate cpu.yaml and gpu.yaml")
    configs = [str(HERE / name) for name in ("cpu.yaml", "gpu.yaml")]
    subprocess.run([ray_bin / "python", HERE / "validate.py", *configs], check=True)
    say("start a Ray cluster, one replica")
    cluster = Cluster(ray_bin, folder)
    first = cluster.deploy(1)
    serve = Serve(cluster.url, folder)
    one = measure(cluster, serve, rows)
    say(f"{one}; scale out to two replicas")
    second = cluster.deploy(2)
    two = measure(cluster, serve, rows)
    say(f"{two}; again, and kill a replica")
    waits: list[Callable[[], object]] = []
    killed = measure(cluster, serve, rows, lambda: waits.append(kill_replica(cluster)))
    say(f"{killed}; grow {conversations} seeds")
    waits[0]()
    before, begin = cluster.written(), time.monotonic()
    run = Run(serve, folder / "run", conversations)
    kills = list(grow(cluster, serve, run, conversations))
    seconds = time.monotonic() - begin
    promises = check_promises(run, conversations)
    return [
        ("`serve run`: one replica answers after", f"{first:.0f} s"),
        ("scaled out to two replicas after", f"{second:.0f} s"),
        (f"{rows} rows by one replica", f"{one.seconds:.1f} s, {rows / one.seconds:.2f} rows/s"),
        (f"{rows} rows by two replicas", f"{two.seconds:.1f} s, {rows / two.seconds:.2f} rows/s"),
        ("two replicas against one", f"{one.seconds / two.seconds:.2f} times as fast"),
        (f"{rows} rows by two replicas, one killed at half", f"{killed.seconds:.1f} s"),
        ("what its death cost", f"{killed.seconds - two.seconds:.1f} s, {killed.refused} rows sent again"),
        (f"{conversations} seeds grown through {STEPS} steps, with three kills", f"{seconds:.0f} s"),
        *((f"killed in mid-batch: {one.what} ({one.when})", f"works again after {one.seconds:.1f} s") for one in kills),
        *promises,
        ("answers written by the replicas, those that nobody received included", str(cluster.written() - before)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ray_bin", type=Path)
    parser.add_argument("--conversations", type=int, default=12)
    parser.add_argument("--rows", type=int, default=24, help="of the measured batch")
    options = parser.parse_args()
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # not in here: the path of a socket may have 107 characters
    kept = options.ray_bin.absolute().parent / "failed"
    try:
        with all_ended_at_exit():
            table = check(options.ray_bin.absolute(), folder, options.conversations, options.rows)
    except BaseException as error:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, symlinks=True, ignore=shutil.ignore_patterns("sockets"))
        say(f"check-ray failed: {error!r}\nIts files are in {kept}")
        raise
    finally:
        shutil.rmtree(folder)
    print("| | |\n| --- | --- |")
    table.append(("all of this took", f"{time.monotonic() - begin:.0f} s"))
    table.append(("cores, load average of the last 5 minutes", f"{os.cpu_count()}, {os.getloadavg()[1]:.1f}"))
    for name, value in table:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
