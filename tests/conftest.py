"""A root, a local service and the command line, in one process: what nearly every test drives.

The commands run through `batchgen.cli.main.main` with the real SDKs over real HTTP. Time is the service's virtual
clock.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import certifi
import hypothesis
import pytest
import reliability
import stamina

from batchgen.cli.main import main
from batchgen.emulator.backends.builtin import Scripted
from batchgen.emulator.server import LocalService
from batchgen.runtime import clock

if TYPE_CHECKING:
    from forks import Forks

# A deadline per example measures the machine's other work. Every run draws other examples (`make soak`: more of them).
EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "50"))
hypothesis.settings.register_profile("batchgen", deadline=None, max_examples=EXAMPLES)
hypothesis.settings.load_profile("batchgen")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"  # real rows beside the repository; tests must pass without them
GEMINI_KEY = "AIzaSyPLANTED0gemini0key0000000000000000"
MEMORY = Path("/dev/shm")  # noqa: S108 - below it, pytest makes a folder for this user alone
ROOM_BYTES = 2**31  # several times what the largest tests leave; those of passed tests are deleted at once
GARBAGE = 10_000  # objects that may be made before the newest of them are looked at
TOGETHER_KEY = "tgp_v1_PLANTED0together0key000000000000"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", action="store_true", help="Write the table of docs/reliability.md and stop.")


def pytest_configure() -> None:
    """Roots lie in memory where it has room: their thousands of syncs would take longer than all else that tests do.
    Tests are compiled once: with asserts that explain themselves it takes seconds, in every worker of every run.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # for workers; other processes get environments of their own
    sys.dont_write_bytecode = False
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a test often waits for a process or a server."""
    return 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Where nothing is compiled yet, workers start with a share of the tests each: they find the others' done."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    at, workers = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for path in sorted(Path(__file__).parent.rglob("test_*.py"))[at::workers]:
        with suppress(Exception):  # whatever is wrong with it is told when it is collected
            import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))


def pytest_collection_finish(session: pytest.Session) -> None:
    # What is there now stays: looking through all of it for garbage again and again is a tenth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    if session.config.getoption("--reliability"):
        reliability.write(session.items)
        pytest.exit("docs/reliability.md is written", returncode=0)


class Result(NamedTuple):
    """What a command left: exit status, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Bench:
    """A root beside a local service; `run` is the command line."""

    def __init__(self, root: Path, service: LocalService, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self.service, self._capture = root, service, capture

    @property
    def environment(self) -> dict[str, str]:
        """What a subprocess needs to reach the service."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "GEMINI_API_KEY": GEMINI_KEY,
            "TOGETHER_API_KEY": TOGETHER_KEY,
            "GOOGLE_GEMINI_BASE_URL": self.service.gemini_url,
            "TOGETHER_BASE_URL": self.service.together_url,
            "NO_PROXY": "127.0.0.1",
            **{name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ},
        }

    def run(self, *arguments: str) -> Result:
        """One command, in this process."""
        self._capture.readouterr()
        try:
            main(["--root", str(self.root), *arguments])
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        captured = self._capture.readouterr()
        return Result(code, captured.out, captured.err)

    def spawn(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """One command, in a process of its own."""
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(self.root), *arguments],
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def configure(self, text: str) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "batchgen.toml").write_text(text, "utf-8")

    def prepare(self, seeds: Sequence[dict[str, str]]) -> Result:
        self.root.mkdir(parents=True, exist_ok=True)
        source = self.root / "seeds.jsonl"
        source.write_text("".join(json.dumps(seed, ensure_ascii=False) + "\n" for seed in seeds), "utf-8")
        return self.run("prepare", "--input", str(source), "--all")

    def status(self) -> Any:
        return self.run("status", "--json").json

    def ticks(self, most: int = 40, *, seconds: float = 60.0) -> list[Result]:
        """`collect --advance` until the run is finished, the clock going on between ticks."""
        done = []
        for _ in range(most):
            done.append(self.run("collect", "--advance"))
            if self.status()["finished"]:
                break
            self.service.world.advance(seconds)
        return done

    def rows(self, name: str) -> list[Any]:
        """The records of a file under data/."""
        return [json.loads(line) for line in (self.root / "data" / name).read_bytes().split(b"\n") if line]

    def files(self) -> dict[str, bytes]:
        """Every file of the dataset, by its name."""
        found = [*(self.root / "data").glob("round*/*.jsonl"), self.root / "data" / "rejected.jsonl"]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}


class Capture:
    """What capsys is to a test, for a run that outlives tests. The commands' output goes to `stream`."""

    def __init__(self) -> None:
        self.stream = StringIO()

    def readouterr(self) -> Result:
        said = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return Result(0, said, "")


def grow(root: Path, prepare: Callable[[Bench], object], *, backend: Any = None, ticks: int = 40) -> Bench:
    """A run grown at `root` by a service of its own, which is gone afterwards: what only reads the run needs none."""
    said, service = Capture(), LocalService(backend=backend or Scripted(), job_seconds=0.0)
    bench = Bench(root, service, said)  # type: ignore[arg-type] # see Capture
    service.start()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said.stream):
        for name, value in bench.environment.items():
            patch.setenv(name, value)
        patch.setattr(clock, "now", service.world.now)
        patch.setattr(clock, "sleep", service.world.advance)
        prepare(bench)
        bench.ticks(ticks)
    service.stop()
    return bench


def seeds(count: int) -> list[dict[str, str]]:
    """Self-written triples, each recognisable by its number."""
    return [
        {
            "question": f"How do I keep plant number {number} alive in winter?",
            "answer": f"Put plant {number} next to the heater and drown it daily.",
            "correction": f"Keep plant {number} cool and bright, and water it only when its soil is dry.",
        }
        for number in range(1, count + 1)
    ]


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, proxy or provider variable of the machine reaches a test, and no retry waits."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("GEMINI", "GOOGLE", "TOGETHER", "BATCHGEN", "HF_")):
            monkeypatch.delenv(name)
    stamina.set_testing(True, attempts=3)
    yield
    stamina.set_testing(False)


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trust store with one certificate: reading the machine's whole one is most of a command's time in a test."""
    path = tmp_path_factory.mktemp("trust") / "one.pem"
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----\n")
    path.write_text(first + end, "utf-8")
    return path


@pytest.fixture
def make_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_certificate: Path
) -> Iterator[Callable[..., Bench]]:
    """Makes benches: the last one made owns the environment and the clock."""
    services: list[LocalService] = []

    def make(*, root: str = "run", job_seconds: float = 0.0, backend: Any = None) -> Bench:
        service = LocalService(backend=backend or Scripted(), job_seconds=job_seconds)
        service.start()
        services.append(service)
        bench = Bench(tmp_path / root, service, capsys)
        for name, value in {**bench.environment, "SSL_CERT_FILE": str(one_certificate)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(clock, "now", service.world.now)
        monkeypatch.setattr(clock, "sleep", service.world.advance)
        return bench

    yield make
    for service in services:
        service.stop()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A bench whose jobs are done as soon as they are looked at."""
    return make_bench()


@pytest.fixture
def expected(make_bench: Callable[..., Bench]) -> dict[str, bytes]:
    """The files of a run of the usual size in which nothing goes wrong."""
    from invariants import CONVERSATIONS, undisturbed

    return undisturbed(make_bench, CONVERSATIONS)


@pytest.fixture
def drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's charts need no other process: its start is most of a small report's time."""
    from batchgen.reports.html import write

    monkeypatch.setattr(write, "apart", lambda work, piece: work(piece))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs commands in children that may be killed. One helper: it remembers nothing, and takes a second to start."""
    from forks import Forks

    with Forks() as helper:
        yield helper


@pytest.fixture(scope="session")
def finished_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run with everything in it that breaks a reader, made once; nobody writes to it."""
    from exported import grown

    return grown(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished(finished_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """A copy of the finished run. Exporting needs no service, no key and no network."""
    shutil.copytree(finished_root, tmp_path / "run")
    return Bench(tmp_path / "run", None, capsys)  # type: ignore[arg-type] # nothing is sent any more
