"""`Forks`: run commands as real processes, quickly.

A helper process imports everything once. For each command it forks a child, which a signal can kill at a named point
or after its N-th write to the disk, the store or the network. The child's memory is lost.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.support.bench import Result

if TYPE_CHECKING:
    from tests.support.bench import Bench

REPOSITORY = Path(__file__).resolve().parents[2]
KILLED = -signal.SIGKILL
# Functions with an effect outside the process: on the disk, the store, the network.
EFFECTS = {
    *(("posix", name) for name in ("fsync", "replace", "rename", "unlink", "mkdir", "truncate")),
    *(("BufferedWriter", name) for name in ("write", "flush", "close")),
    *(("Connection", name) for name in ("execute", "executemany")),
    *(("socket", name) for name in ("send", "sendall", "recv", "connect")),
}


class Order(NamedTuple):
    """One command. `offset` is added to the clock; `crash` is the name of a failpoint.

    `signal` ends the process after effect number `effect`; 0: never. `unprivileged`: it has only the rights that the
    modes of files give, even as root.
    """

    arguments: list[str]
    environment: dict[str, str]
    offset: float = 0.0
    crash: str = ""
    effect: int = 0
    signal: int = signal.SIGKILL
    folder: str = str(REPOSITORY)
    unprivileged: bool = False


class Forks:
    """The helper process, as a context manager."""

    def __enter__(self) -> Self:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"}
        command = [sys.executable, "-W", "error", "-m", "tests.support.fork_server"]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._folder.cleanup()

    def run(self, bench: Bench, *arguments: str, **how: Any) -> Result:
        """Run one command (default: the cron line) on a bench, at the time of its service. `how`: see Order.

        The exit status is negative if a signal killed the process.
        """
        line = ["--root", str(bench.root), *(arguments or ("collect", "--advance"))]
        return self._ask(Order(line, bench.environment, bench.service.world.offset, **how))

    def command(
        self,
        *arguments: str,
        variables: Mapping[str, str] = MappingProxyType({}),
        folder: Path = REPOSITORY,
        unprivileged: bool = False,
    ) -> Result:
        """Run a command line in `folder`, with these variables, PATH and the trust store of the tests."""
        environment = {name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE")} | dict(variables)
        return self._ask(Order([*arguments], environment, folder=str(folder), unprivileged=unprivileged))

    def _ask(self, order: Order) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        paths = {name: str(Path(self._folder.name) / name) for name in ("out", "err")}
        self._process.stdin.write(json.dumps({**order._asdict(), **paths}) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err = (Path(path).read_text("utf-8") for path in paths.values())
        return Result(code, out, err)


# Modules that commands import late; here they are imported once. polars starts its threads at the first join: they
# would not survive a fork, and no join happens here.
PAID_FOR_ONCE = (
    *("google.genai", "google.auth.aio.credentials", "together", "together.resources", "httpcore", "httpcore2"),
    *("truststore", "encodings.idna", "encodings.utf_8_sig", "tomllib", "stamina", "logging", "zstandard", "polars"),
    *(f"batchgen.cli.{name}" for name in ("main", "commands.run", "commands.dataset", "commands.maintenance")),
    *(f"batchgen.providers.{name}" for name in ("gemini_client", "together_client", "openai_client")),
    *(f"batchgen.engine.{name}" for name in ("tick", "collection.poll", "submission.submit", "rehearsal")),
    *(f"batchgen.engine.settlement.{name}" for name in ("match", "swap_detection")),
    *(f"batchgen.dataset.{name}" for name in ("round_lines", "verify", "verify_exports", "prepare", "seeds")),
    *(f"batchgen.reports.{name}" for name in ("notify", "status_text")),
)
# Models of the SDKs that nearly every tick needs; pydantic would complete them at the first use in each child.
MADE_WHEN_NEEDED = {
    "google.genai.types": (
        *("HttpOptions", "HttpResponse", "UploadFileConfig", "CreateFileConfig", "_CreateFileParameters", "File"),
        *("CreateFileResponse", "BatchJobSource", "_CreateBatchJobParameters", "BatchJob", "UserContent"),
        *("_GenerateContentParameters", "GenerateContentConfig", "GenerateContentResponse"),
    ),
    "together.types.chat.chat_completion": ("ChatCompletion",),
    "together.types": ("BatchCreateResponse", "FileResponse", "BatchJob"),
}


def _serve() -> None:
    for name in PAID_FOR_ONCE:
        import_module(name)
    for module, names in MADE_WHEN_NEEDED.items():
        for name in names:
            getattr(import_module(module), name).model_rebuild()
    gc.collect()
    gc.freeze()  # a garbage collection in a child would touch, and so copy, all this memory
    for line in sys.stdin:
        order = json.loads(line)
        if "report" in order["arguments"]:
            _draw_in_the_same_process()
        pid = os.fork()
        if not pid:
            _carry_out(order)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _draw_in_the_same_process() -> None:
    """Import what draws charts, once, so that a report need not start another process for it."""
    for name in ("altair", "vl_convert", "batchgen.reports.html.charts"):
        import_module(name)
    write: Any = import_module("batchgen.reports.html.write")
    write.run_in_subprocess = lambda work, piece: work(piece)
    gc.freeze()


def _carry_out(order: dict[str, Any]) -> None:
    import time

    import stamina

    from batchgen.cli.main import main
    from batchgen.runtime import clock

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(order["folder"])
    if order["unprivileged"] and os.geteuid() == 0:
        _drop_rights()
    os.environ.clear()
    os.environ.update(order["environment"], BATCHGEN_CRASH=order["crash"])
    time.tzset()
    stamina.set_testing(True, attempts=3)
    setattr(clock, "now", lambda: time.time() + order["offset"])  # noqa: B010 - a module's function
    if order["effect"]:
        _die_after(order["effect"], order["signal"])
    code: Any = 1
    try:
        main(order["arguments"])
        code = 0
    except SystemExit as done:
        code = done.code or 0
    except BaseException:  # noqa: BLE001 - the child must not go on as a second helper
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _drop_rights() -> None:
    """Drop the rights to ignore file modes: CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2)."""
    import ctypes

    kernel = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3: 2 x (effective, ...)
    assert kernel.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    for place in range(3):  # effective, permitted, inheritable
        sets[place] &= ~0b110
    assert kernel.capset(header, sets) == 0, os.strerror(ctypes.get_errno())


def _die_after(last: int, deadly: int) -> None:
    """Count effects from now on; signal `deadly` kills the process right after effect number `last`."""
    count = 0

    def profile(_frame: FrameType, event: str, function: Any) -> None:
        nonlocal count
        if event != "c_return":
            return
        owner = getattr(function, "__self__", None)
        kind = getattr(owner, "__name__", type(owner).__name__)
        if (kind, function.__name__) in EFFECTS:
            count += 1
            if count == last:
                os.kill(os.getpid(), deadly)

    threading.setprofile(profile)
    sys.setprofile(profile)


if __name__ == "__main__":
    _serve()
