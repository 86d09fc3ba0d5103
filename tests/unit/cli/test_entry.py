"""Press Ctrl-C while the program loads or exits: one line and status 130, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchgen.cli.entry import FAREWELL
from tests.support.bench import REPOSITORY

NOW = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
WHILE_LOADING = {"click/__init__.py": f"{NOW}raise SystemExit('it went on')\n"}
WHILE_LEAVING = {
    "sitecustomize.py": "import atexit, os, signal\natexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
}
DOORS = [["cli.py"], ["-m", "batchgen"], ["-c", "from batchgen.cli.entry import main; raise SystemExit(main())"]]


def interrupted(folder: Path, files: dict[str, str], *arguments: str) -> tuple[int, str]:
    """What a command leaves that is interrupted where `files` stand in for modules: (status, stderr)."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    done = subprocess.run(
        arguments,
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{folder}:{REPOSITORY}", "BATCHGEN_ROOT": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("files", [WHILE_LOADING, WHILE_LEAVING], ids=["loading", "leaving"])
@pytest.mark.parametrize("door", DOORS, ids=["cli.py", "module", "script"])
def test_an_interrupt_at_either_end_is_one_line(files: dict[str, str], door: list[str], tmp_path: Path) -> None:
    assert interrupted(tmp_path, files, sys.executable, *door, "status") == (130, f"{FAREWELL}\n")


def test_where_interrupts_are_ignored_they_stay_ignored(tmp_path: Path) -> None:
    """As below `nohup`, or behind an ampersand in a script."""
    command = ["sh", "-c", 'trap "" INT; exec "$0" cli.py status', sys.executable]
    assert interrupted(tmp_path, WHILE_LEAVING, *command) == (0, "")


HALF = """
import os, signal, threading
from pathlib import Path
os.kill(os.getpid(), signal.SIGINT)
Path(__file__).with_name("whole").touch()
JSONDecodeError = ValueError
def loads(line):
    while True:  # a signal in the moment before a wait is heard after it
        threading.Event().wait(0.1)
"""


def test_an_interrupt_never_breaks_off_an_import(tmp_path: Path) -> None:
    """Compiled modules (orjson is one) end the process by SIGSEGV then. It is heard as soon as the import is over."""
    (tmp_path / "seeds.jsonl").write_text("{}\n", "utf-8")
    arguments = ["cli.py", "prepare", "--input", str(tmp_path / "seeds.jsonl")]
    status, said = interrupted(tmp_path, {"orjson.py": HALF}, sys.executable, *arguments)
    assert (status, said.strip()) == (130, FAREWELL)
    assert (tmp_path / "whole").exists()
