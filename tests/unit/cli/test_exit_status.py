"""Start the program and press Ctrl-C: one line and status 130, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest

from batchgen import __version__
from batchgen.cli.exit_status import INTERRUPTED_MESSAGE
from batchgen.cli.main import main
from tests.support.bench import REPOSITORY

INTERRUPTED = """
import signal
from batchgen.cli import main
main.cli.invoke = lambda _: signal.raise_signal(signal.SIGINT)
main.main(["status"])
"""


def ended(*command: str) -> tuple[int, str, str]:
    """Wait for a command. Returns (status, stdout, stderr)."""
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("entry", [["cli.py"], ["-m", "batchgen"]], ids=" ".join)
def test_every_entry_is_the_same_program(entry: list[str]) -> None:
    assert ended(sys.executable, *entry, "--version") == (0, f"batchgen, version {__version__}\n", "")


def test_the_installed_command_is_this_program() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["scripts"]["batchgen"].partition(":")
    assert getattr(import_module(module), name) is main


def test_an_interrupt_is_one_line() -> None:
    status, out, err = ended(sys.executable, "-c", INTERRUPTED)
    assert (status, out, err.strip()) == (130, "", INTERRUPTED_MESSAGE)


def test_where_interrupts_are_ignored_they_stay_ignored() -> None:
    """For example under `nohup`, or with an ampersand in a script."""
    assert ended("sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, INTERRUPTED) == (0, "", "")
