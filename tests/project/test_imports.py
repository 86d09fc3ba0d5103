"""Test which modules a command loads. Cron pays for each import at each tick."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import batchgen
from batchgen.emulator.faults import CallFault, Status
from tests.support.bench import GEMINI_KEY, REPOSITORY, Bench, seeds

HEAVY = {
    "altair",
    "jinja2",
    "vl_convert",
    "polars",
    "jsonschema_rs",
    "google.genai",
    "together",
    "httpx",
    "httpx2",
    "stamina",
    "rich",
    "numpy",
    "pyarrow",
    "pydantic",
    "certifi",
    "asyncio",
}
LOADED = """
import sys
from batchgen.cli.main import main
try:
    main({argv!r})
except SystemExit as done:
    assert not done.code, done.code
print("loaded:", *sys.modules)
"""


def loaded(argv: Sequence[str], root: Path) -> set[str]:
    """The modules that a command has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv=["--root", str(root), *argv])],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], ["submit", "--help"], ["collect", "--help"], ["status"], ["status", "--json"]],
    ids=" ".join,
)
def test_light_commands_load_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    assert HEAVY & loaded(argv, tmp_path) == set()


def test_status_of_a_run_loads_nothing_heavy(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    assert HEAVY & loaded(["status"], bench.root) == set()
    assert HEAVY & loaded(["status", "--json"], bench.root) == set()


def test_a_tick_with_nothing_to_do_loads_nothing_heavy(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    at_work = {
        "batchgen.cli.commands.dataset",
        "orjson",
        "ssl",
        "email",
        "batchgen.engine.collection.poll",
        "batchgen.engine.submission.submit",
        "batchgen.dataset.round_lines",
    }
    assert (HEAVY | at_work) & loaded(["collect"], bench.root) == set()


def test_a_tick_of_a_finished_run_loads_nothing_heavy(bench: Bench) -> None:
    bench.configure("rounds = 2\n")
    assert bench.prepare(seeds(2)).code == 0
    bench.ticks()
    at_work = {
        "ssl",
        "email",
        "batchgen.engine.collection.poll",
        "batchgen.engine.submission.submit",
        "batchgen.dataset.round_lines",
    }
    assert (HEAVY | at_work) & loaded(["collect", "--advance"], bench.root) == set()


@pytest.mark.slow
def test_a_tick_that_has_something_to_say_says_it_redacted(bench: Bench) -> None:
    """In a new process, where the first log line loads the logging modules."""
    assert bench.prepare(seeds(2)).code == 0
    bench.service.faults.add(CallFault(endpoint="probe", action=Status(400, f"Unknown field {GEMINI_KEY}.")))
    said = bench.spawn("collect", "--advance")
    assert said.returncode == 0, said.stderr
    assert "could not check whether it serves" in said.stderr
    assert "is pinned for this run" in said.stderr
    assert GEMINI_KEY not in said.stderr
    assert "is pinned" not in bench.run("-q", "collect", "--advance").err


ENTERED = (
    *("core.dialogue", "core.outcomes", "core.prompts", "core.pricing", "core.errors", "runtime.settings"),
    *("providers", "core.jsonl", "runtime.files", "ledger.status", "ledger.holds"),
)


def test_rooms_that_every_command_enters_are_light() -> None:
    """Import them one after another in one process; the failure names the first one that loads a heavy module."""
    code = f"import sys, importlib\nfor name in {ENTERED}:\n    importlib.import_module(f'batchgen.{{name}}')\n"
    code += f"    found = {HEAVY} & {{*sys.modules}}\n    assert not found, (name, found)\n"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_process_that_writes_a_report_loads_nothing_that_draws() -> None:
    """Another process draws, and frees that memory when it ends."""
    code = "import sys, batchgen.reports.html.write\nassert not {'altair', 'vl_convert'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_the_rooms_import_only_what_they_may() -> None:
    """Check the import contracts of pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_requests_and_results_never_become_packages() -> None:
    """google-genai imports a library named requests, which must not find the folder of request files."""
    for name in ("requests", "results", "data"):
        assert not list((REPOSITORY / name).rglob("*.py"))


def test_the_package_is_built_with_its_data() -> None:
    """Every file of the package that is no module is named in pyproject.toml."""
    named = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    packed = {path for name, globs in named.items() for glob in globs for path in _folder(name).glob(glob)}
    beside = {path for path in _folder("batchgen").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert packed == beside


def _folder(package: str) -> Path:
    return REPOSITORY.joinpath(*package.split("."))


def test_every_name_of_all_exists() -> None:
    for module in pkgutil.walk_packages(batchgen.__path__, "batchgen."):
        if module.name != "batchgen.__main__":
            named = importlib.import_module(module.name)
            assert [name for name in getattr(named, "__all__", ()) if not hasattr(named, name)] == [], module.name
