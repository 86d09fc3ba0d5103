"""`Bench`: a root, a local service and the command line in one process. Nearly every test uses it.

The commands run through `batchgen.cli.main.main` with the real SDKs over real HTTP. They use the clock of
the service, which tests advance.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.cli.main import main
from batchgen.emulator.server import LocalService
from batchgen.providers import PROVIDERS
from batchgen.runtime.settings import LLAMA

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"  # real rows next to the repository; tests must pass without them
GEMINI_KEY = "AIzaSyPLANTED0gemini0key0000000000000000"
TOGETHER_KEY = "tgp_v1_PLANTED0together0key000000000000"
SERVICE_KEY = "sk_PLANTED0service0key00000000000000000"  # of a service with OpenAI's protocol


SPARE_MODEL = "Qwen/Qwen3.5-9B"  # the second one of the list


class Result(NamedTuple):
    """The exit status, stdout and stderr of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Bench:
    """A root and a local service; `run` runs one command.

    `answerer` is the provider of the answers: Together, as in most runs, or a service with OpenAI's protocol.
    """

    def __init__(
        self, root: Path, service: LocalService, capture: pytest.CaptureFixture[str], answerer: str = "together"
    ) -> None:
        self.root, self.service, self._capture, self.answerer = root, service, capture, answerer

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a subprocess reaches the service."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "GEMINI_API_KEY": GEMINI_KEY,
            "TOGETHER_API_KEY": TOGETHER_KEY,
            "GOOGLE_GEMINI_BASE_URL": self.service.gemini_url,
            "TOGETHER_BASE_URL": self.service.together_url,
            **self._service_environment(),
            "NO_PROXY": "127.0.0.1",
            **{name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ},
        }

    def _service_environment(self) -> dict[str, str]:
        if self.answerer == "together":
            return {}
        row = PROVIDERS[self.answerer]
        return {row.key_variable: SERVICE_KEY, row.url_variable: self.service.service_url(self.answerer)}

    def run(self, *arguments: str) -> Result:
        """Run one command in this process."""
        self._capture.readouterr()
        try:
            main(["--root", str(self.root), *arguments])
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        captured = self._capture.readouterr()
        return Result(code, captured.out, captured.err)

    def spawn(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run one command in a new process."""
        return subprocess.run(
            [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(self.root), *arguments],
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def configure(self, text: str) -> None:
        """Write batchgen.toml; the models of the answers are added unless Together gives them or `text` has them."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self.answerer != "together" and f'"{self.answerer}:' not in text:
            models = f'models = ["{self.answerer}:{LLAMA}", "{self.answerer}:{SPARE_MODEL}"]\n'
            text = text.replace("[answer]\n", f"[answer]\n{models}") if "[answer]" in text else f"answer.{models}{text}"
        (self.root / "batchgen.toml").write_text(text, "utf-8")

    def prepare(self, seeds: Sequence[dict[str, str]]) -> Result:
        self.root.mkdir(parents=True, exist_ok=True)
        source = self.root / "seeds.jsonl"
        source.write_text("".join(json.dumps(seed, ensure_ascii=False) + "\n" for seed in seeds), "utf-8")
        return self.run("prepare", "--input", str(source), "--all")

    def status(self) -> Any:
        return self.run("status", "--json").json

    def is_finished(self) -> bool:
        """Whether every conversation is complete or rejected. `status` knows, and is asked only if no batch has one."""
        path = self.root / "data" / "batchgen.sqlite"
        if path.is_file():
            with closing(sqlite3.connect(path)) as store:
                if store.execute("SELECT 1 FROM conversations WHERE batch IS NOT NULL LIMIT 1").fetchone():
                    return False
        return bool(self.status()["finished"])

    def ticks(self, most: int = 40, *, seconds: float = 60.0) -> list[Result]:
        """Run `collect --advance` until the run is finished. The clock advances by `seconds` between two ticks."""
        done = []
        for _ in range(most):
            done.append(self.run("collect", "--advance"))
            if self.is_finished():
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


def seeds(count: int) -> list[dict[str, str]]:
    """Triples that differ in a number, by which a test recognises the texts of a conversation."""
    return [
        {
            "question": f"How do I keep plant number {number} alive in winter?",
            "answer": f"Put plant {number} next to the heater and drown it daily.",
            "correction": f"Keep plant {number} cool and bright, and water it only when its soil is dry.",
        }
        for number in range(1, count + 1)
    ]
