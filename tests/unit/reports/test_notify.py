"""Test `[notify]`: who is told, when, how often, and that nothing private is told."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen.emulator.faults import CallFault, Status
from batchgen.reports import notify
from tests.support.bench import GEMINI_KEY, TOGETHER_KEY, Bench, seeds
from tests.support.receiver import Receiver

BUDGET = "max_usd = 0.0000001\n"
# Appends the state, and the names of all variables, to a file.
WRITE = "import os, sys; open(sys.argv[1], 'a').write(' '.join([os.environ['BATCHGEN_STATE'], *os.environ]) + '\\n')"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def command(*words: str) -> str:
    """A line of batchgen.toml that runs Python."""
    return f"command = {json.dumps(shlex.join([sys.executable, *words]))}\n"


def test_a_finished_run_is_told_once_without_a_text_a_key_or_a_path(bench: Bench, receiver: Receiver) -> None:
    told = bench.root / "told"
    bench.configure(f'[notify]\nurl = "{receiver.url}/ping{{/fail}}"\n' + command("-c", WRITE, str(told)))
    bench.prepare(seeds(3))
    assert not receiver.taken
    bench.ticks()
    for _ in range(3):
        bench.service.world.advance(600)
        assert bench.run("collect", "--advance").err == ""
    assert bench.run("run").code == 0
    (ping,) = receiver.taken
    assert (ping.method, ping.path, ping.headers["content-type"]) == ("POST", "/ping", "application/json")
    usd = bench.status()["cost"]["spent_usd"]
    counts = {"conversations": 3, "complete": 3, "rejected": 0, "in_flight": 0, "usd": usd}
    assert json.loads(ping.body) == {"state": "finished", **counts}
    everything = f"{ping.headers} {ping.body!r}"
    for private in (GEMINI_KEY, TOGETHER_KEY, str(bench.root), "plant"):
        assert private not in everything
    (line,) = told.read_text().splitlines()
    state, *variables = line.split(" ")
    assert state == "finished"
    assert "PATH" in variables
    assert not {"GEMINI_API_KEY", "TOGETHER_API_KEY"} & set(variables)


def test_a_person_is_called_once_for_each_time_one_is_needed(bench: Bench, receiver: Receiver) -> None:
    notified = f'[notify]\nurl = "{receiver.url}/ping{{/fail}}"\n'
    bench.configure(BUDGET + notified)
    bench.prepare(seeds(2))
    for _ in range(3):
        assert bench.run("collect", "--advance").code == 3
    bench.service.faults.add(CallFault(endpoint="probe", action=Status(503), times=1))
    bench.configure(notified)
    bench.run("collect", "--advance")
    bench.configure(BUDGET + notified)
    bench.service.world.advance(60)
    while bench.run("collect", "--advance").code != 3:
        bench.service.world.advance(60)
    assert [json.loads(ping.body)["state"] for ping in receiver.taken] == ["needs_person"] * 2
    bench.configure(notified)
    bench.ticks()
    assert [ping.path for ping in receiver.taken] == ["/ping/fail", "/ping/fail", "/ping"]
    assert json.loads(receiver.taken[2].body)["state"] == "finished"


def test_a_refused_key_needs_a_person_and_a_busy_provider_does_not(bench: Bench, receiver: Receiver) -> None:
    bench.configure(f'[notify]\nurl = "{receiver.url}"\n')
    bench.prepare(seeds(2))
    bench.service.faults.add(CallFault(endpoint="create", action=Status(503), times=1))
    assert bench.run("collect", "--advance").code == 75
    assert not receiver.taken
    bench.service.world.valid_keys = set()
    bench.service.world.advance(3600)
    assert bench.run("collect", "--advance").code == 2
    assert json.loads(receiver.taken[0].body)["state"] == "needs_person"


def test_a_run_in_the_foreground_tells_too(bench: Bench, receiver: Receiver) -> None:
    notified = f'[notify]\nurl = "{receiver.url}"\n'
    bench.configure(BUDGET + notified)
    bench.prepare(seeds(2))
    assert bench.run("run").code == 3
    bench.configure(notified)
    assert bench.run("run").code == 0
    told = [json.loads(ping.body) for ping in receiver.taken]
    assert [(one["state"], one["complete"]) for one in told] == [("needs_person", 0), ("finished", 2)]


def finished(bench: Bench, lines: str) -> list[str]:
    """What the ticks of a small run say on stderr; its last ticks have nothing to do but to tell."""
    bench.configure(f"rounds = 2\n[notify]\n{lines}")
    bench.prepare(seeds(1))
    bench.ticks()
    said = [bench.run("collect", "--advance") for _ in range(2)]
    assert {one.code for one in said} == {0}
    return [one.err for one in said]


@pytest.mark.parametrize(
    ("status", "calls", "warning"),
    [
        (204, 1, ""),
        (404, 1, ""),  # what refuses for good is not asked again
        (302, 1, ""),
        (503, 3, "[notify] url answered 503\n"),
    ],
)
def test_an_address_that_refuses(bench: Bench, receiver: Receiver, status: int, calls: int, warning: str) -> None:
    receiver.status = status
    assert finished(bench, f'url = "{receiver.url}/secret-id"\n') == [warning] * 2
    assert len(receiver.taken) == calls


@pytest.mark.parametrize("status", [302, 404])
def test_a_corrected_address_is_told(bench: Bench, receiver: Receiver, status: int) -> None:
    with Receiver() as wrong:
        wrong.status = status
        finished(bench, f'url = "{wrong.url}/mistyped"\n')
        assert len(wrong.taken) == 1
    for _ in range(2):
        bench.configure(f'rounds = 2\n[notify]\nurl = "{receiver.url}/secret-id"\n')
        assert bench.run("collect").code == 0
    assert len(receiver.taken) == 1
    store = (bench.root / "data" / "batchgen.sqlite").read_bytes()
    assert b"secret-id" not in store


def test_an_address_that_is_none_is_asked_again(bench: Bench) -> None:
    assert finished(bench, 'url = "http://[::bad/"\n') == ["[notify] url could not be called: InvalidURL\n"] * 2


@pytest.mark.fault(
    43,
    "the address of `[notify]` is down, or hangs",
    injected="closed port, no answer",
    seen="one warning without the address, the status is unchanged; only what nobody can have got is sent again",
)
def test_an_address_that_is_down_is_asked_again_and_one_that_hangs_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "URL_SECONDS", 0.2)
    with Receiver() as receiver:
        url = f"{receiver.url}/secret-id"
    assert finished(bench, f'url = "{url}"\n') == ["[notify] url could not be called: ConnectError\n"] * 2
    with Receiver() as hanging:
        hanging.silent = True
        bench.configure(f'rounds = 2\n[notify]\nurl = "{hanging.url}/secret-id"\n')
        said = [bench.run("collect").err for _ in range(2)]
        assert said == ["[notify] url could not be called: ReadTimeout\n", ""]
        assert len(hanging.taken) == 1


def test_a_command_that_fails_changes_no_status(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = "[notify] command could not be started: [Errno 2] No such file or directory: '/no/such'\n"
    assert finished(bench, 'command = "/no/such thing"\n') == [missing] * 2
    monkeypatch.setattr(notify, "COMMAND_SECONDS", 1)
    for code, said in {
        "exit(4)": "ended with status 4",
        "import time; time.sleep(30)": "was stopped after 1 s",
    }.items():
        bench.configure("rounds = 2\n[notify]\n" + command("-c", code))
        done = bench.run("collect")
        assert (done.code, done.err) == (0, f"[notify] command {said}\n")
        assert bench.run("collect").err == ""
        (bench.root / "data" / "batchgen.sqlite").rename(tmp_path / "old")
        assert bench.run("rebuild").code == 0  # a store that has told nothing
    bench.configure('rounds = 2\n[notify]\ncommand = "sh -c \'unfinished"\n')
    assert "No closing quotation" in bench.run("collect").err


@pytest.mark.parametrize("line", ['url = "ftp://example.org"', 'url = "hc-ping.com/1"', "url = 7", 'urls = "x"'])
def test_a_mistake_in_the_section_is_told(bench: Bench, line: str) -> None:
    bench.configure(f"[notify]\n{line}\n")
    done = bench.run("collect")
    assert done.code == 2
    assert "line 2" in done.err
