"""Fixtures and pytest hooks for all tests.

Most tests use the fixture `bench`: an empty root, a local service, and the command line in this process.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import hypothesis
import pytest
import stamina

from batchgen.emulator.backends.builtin import Scripted
from batchgen.emulator.server import LocalService
from batchgen.providers.openai_services import SERVICES
from batchgen.runtime import clock
from tests.support import fault_table
from tests.support.bench import REPOSITORY, Bench
from tests.support.provider_facts import providers_in

if TYPE_CHECKING:
    from tests.support.fork_server import Forks

# No deadline: it would fail on a busy machine. Every run draws new examples (`make soak` draws more).
EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "15"))
hypothesis.settings.register_profile("batchgen", deadline=None, max_examples=EXAMPLES)
hypothesis.settings.load_profile("batchgen")

FAULTS = Path(__file__).parent / "faults"
MEMORY = Path("/dev/shm")  # noqa: S108 - below it, pytest makes a folder for this user alone
ROOM_BYTES = 2**31  # several times the size of the largest root; roots of passed tests are deleted at once
# Variables of the machine that tests keep, by the beginnings of their names: no keys, no proxies, none that the SDKs
# read. Each HTTP client looks for proxies in all variables, so that few of them also save time.
KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMP", "TEMP", "TZ", "LANG", "LC_", "LD_", "DYLD_", "XDG_"),
    *("PY", "VIRTUAL_ENV", "SOAK_"),
)
GARBAGE = 10_000  # new objects before a garbage collection of the youngest generation


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", action="store_true", help="Write the table of docs/reliability.md and stop.")


def pytest_configure() -> None:
    """Put roots in memory if there is room, because thousands of fsync calls take longer than the rest of the tests.

    Compile the tests only once: rewriting their asserts takes seconds in every worker.
    """
    for name in list(os.environ):
        if not name.startswith(KEPT):
            del os.environ[name]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # for workers; tests set the environment of other processes
    sys.dont_write_bytecode = False
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Before the first compilation, let each worker compile a share of the tests, so that none is compiled twice."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    at, workers = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for path in sorted(Path(__file__).parent.rglob("test_*.py"))[at::workers]:
        with suppress(Exception):  # pytest reports the error when it collects the file
            import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests in tests/faults as slow, except the first quick case of each row of docs/reliability.md."""
    config.stash[fault_table.COLLECTED] = list(items)  # before those that are marked slow are left out
    shown = set[str]()
    for item in items:
        if FAULTS in item.path.parents and not item.get_closest_marker("slow"):
            faults = fault_table.faults_shown(item)
            if faults <= shown:
                item.add_marker(pytest.mark.slow)
            shown |= faults


def pytest_collection_finish(session: pytest.Session) -> None:
    # Objects that exist now stay: to include them in each garbage collection takes a tenth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    if session.config.getoption("--reliability"):
        fault_table.write(session.items)
        pytest.exit("docs/reliability.md is written", returncode=0)


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trust store with one certificate."""
    path = tmp_path_factory.mktemp("trust") / "one.pem"
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----\n")
    path.write_text(first + end, "utf-8")
    return path


@pytest.fixture(autouse=True)
def _equal_surroundings(monkeypatch: pytest.MonkeyPatch, one_certificate: Path) -> Iterator[None]:
    """Retries do not wait. The trust store has one certificate: to read the machine's takes as long as a command."""
    monkeypatch.setenv("SSL_CERT_FILE", str(one_certificate))
    stamina.set_testing(True, attempts=3)
    yield
    stamina.set_testing(False)


@pytest.fixture
def make_bench(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Bench]]:
    """Make benches. The environment and the clock are those of the last one.

    A test gets its answers from the service with OpenAI's protocol that a parameter of it names, if one does.
    """
    services: list[LocalService] = []
    callspec = getattr(request.node, "callspec", None)
    named = providers_in(callspec.params.values()) & SERVICES.keys() if callspec else set()
    found = min(named, default="together")

    def make(*, root: str = "run", job_seconds: float = 0.0, backend: Any = None, answerer: str = found) -> Bench:
        service = LocalService(backend=backend or Scripted(), job_seconds=job_seconds)
        service.start()
        services.append(service)
        bench = Bench(tmp_path / root, service, capsys, answerer)
        for name, value in bench.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(clock, "now", service.world.now)
        monkeypatch.setattr(clock, "sleep", service.world.advance)
        return bench

    yield make
    for service in services:
        service.stop()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A bench whose jobs have ended at their first poll."""
    return make_bench()


@pytest.fixture
def expected(make_bench: Callable[..., Bench]) -> dict[str, bytes]:
    """The dataset files of a run of the usual size without a fault."""
    from tests.support.invariants import CONVERSATIONS, undisturbed

    return undisturbed(make_bench, CONVERSATIONS)


_drawn: dict[str, Any] = {}


@pytest.fixture
def drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw charts in this process, and those of equal data once: it takes longer than the rest of a small report."""
    from batchgen.reports.html import write

    def draw(work: Callable[[Any], Any], wanted: Any) -> Any:
        data = repr(wanted)
        if data not in _drawn:
            _drawn[data] = work(wanted)
        return _drawn[data]

    monkeypatch.setattr(write, "run_in_subprocess", draw)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs commands in child processes that may be killed. All tests share the helper: it starts in a second."""
    from tests.support.fork_server import Forks

    with Forks() as helper:
        yield helper


@pytest.fixture(scope="session")
def finished_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run with all difficult texts, made once; no test may write to it."""
    from tests.support.finished_run import grown

    return grown(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def audited_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run, every turn of which was judged, made once; no test may write to it."""
    from tests.support.audited_run import audited

    return audited(tmp_path_factory.mktemp("audited") / "run").root


@pytest.fixture
def finished(finished_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """A copy of the finished run. Exporting needs no service, no key and no network."""
    shutil.copytree(finished_root, tmp_path / "run")
    return Bench(tmp_path / "run", None, capsys)  # type: ignore[arg-type] # no request is sent
