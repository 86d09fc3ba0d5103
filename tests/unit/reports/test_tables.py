"""Test the table that `status` prints at a terminal: it states the same facts as the JSON."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from typing import Any

import pytest

from tests.support.bench import REPOSITORY, seeds
from tests.support.invariants import ROUNDS
from tests.support.scene import Make, Scene

COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def at_a_terminal(scene: Scene, *arguments: str, columns: int | None = 100, real: int = 0) -> str:
    """The output of a command on a terminal with `real` columns, without colours; `columns` is the value of COLUMNS."""
    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, real))
    said_width = {} if columns is None else {"COLUMNS": str(columns)}
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "cli.py"), "--root", str(scene.bench.root), *arguments],
        env={**scene.bench.environment, **said_width, "TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    said = b""
    try:
        while block := os.read(mine, 65536):
            said += block
    except OSError:  # Linux raises OSError at the end of a terminal
        pass
    os.close(mine)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    return COLOURS.sub("", said.decode()).replace("\r\n", "\n")


@pytest.mark.slow
def test_status_is_a_table_with_the_same_facts(make_bench: Make) -> None:
    unknown = 'question.max_rejected_share = 1.0\ngemini.models = ["gemini-nobody-knows"]\n'
    scene = Scene.of(make_bench, 8, unknown, most=4, job_seconds=500.0)
    scene.bench.service.faults.rows("blocked_prompt", key=r"r1-000003.*question")
    for _ in range(4):
        scene.tick(300)
    facts = scene.bench.status()
    for columns in (72, 100, 200):
        shown = at_a_terminal(scene, "status", columns=columns)
        assert max(map(len, shown.split("\n"))) <= columns
        same_facts(facts, shown)


def same_facts(facts: Any, shown: str) -> None:
    assert f"0 of 8 conversations have {facts['rounds']} rounds, 1 was rejected." in shown
    for row in facts["steps"]:
        wanted = [row[name] or "·" for name in ("done", "in_flight", "ready", "rejected")]
        (line,) = [line for line in shown.split("\n") if line.startswith(f"round {row['round']} {row['stage']}")]
        assert line.split()[-4:] == [str(count) for count in wanted]
    live = [batch for batch in facts["batches"] if batch["state"] == "in_flight"]
    assert live
    assert all(re.search(rf"{batch['batch']} +{batch['requests']} +{batch['provider']}", shown) for batch in live)
    assert '[prices."MODEL"]' in shown  # brackets are not markup
    assert "gemini-nobody-knows" in shown


@pytest.mark.slow
def test_a_terminal_of_a_width_for_no_table_loses_no_figure(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 8)
    scene.bench.ticks()  # batches in flight have an age, which changes between two calls
    expected = scene.bench.run("status").out
    for columns, real in ((1, 100), (71, 100), (0, 100), (100_000, 100), (None, 0), (None, 71)):
        assert at_a_terminal(scene, "status", columns=columns, real=real) == expected, (columns, real)


def test_the_width_of_a_terminal_is_its_own_where_no_variable_says_it(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 2)
    shown = at_a_terminal(scene, "status", columns=None, real=100)
    assert shown != scene.bench.run("status").out
    assert "in flight" in shown


@pytest.mark.parametrize("columns", ["0", "1", "100000"])
def test_a_live_view_on_such_a_terminal_is_lines(
    make_bench: Make, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log lines of a run without a terminal are printed instead."""
    scene = Scene.of(make_bench, 2)
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "2/2 complete, 0 in flight" in scene.bench.run("run").err


def test_json_stays_json_at_a_terminal(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 2)
    assert at_a_terminal(scene, "status", "--json").startswith('{"conversations": 2')


def test_status_of_an_empty_root(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure(ROUNDS)
    scene = Scene(bench)
    assert at_a_terminal(scene, "status").startswith("Nothing is prepared here yet.")
    assert bench.prepare(seeds(1)).code == 0
