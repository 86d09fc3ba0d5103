"""Compare `submit --dry-run` with `submit`: same batches, same reasons, same exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchgen.emulator.faults import ALWAYS, CallFault, Status
from tests.support.bench import Bench, Result, seeds
from tests.support.invariants import ROUNDS, ledger
from tests.support.scene import Make, Scene

SUBMIT = ["submit", "--stage", "question"]
FIELDS = ("provider", "model", "requests", "bytes", "input_tokens", "estimated_usd", "attempt")
TWO_EACH = f"{ROUNDS}batches.max_requests = 2\n"


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def dry(bench: Bench) -> Result:
    """A dry run; checks that it changes no file and makes no call."""
    before, calls = tree(bench.root), len(bench.service.world.requests)
    shown = bench.run(*SUBMIT, "--dry-run", "--json")
    assert tree(bench.root) == before
    assert len(bench.service.world.requests) == calls
    return shown


def both(bench: Bench) -> tuple[Any, int]:
    """The output and the exit status of a dry run, after a comparison with the real command."""
    shown = dry(bench)
    known = {row["batch"] for row in ledger(bench).batches if row["state"] == "in_flight"}
    real = bench.run(*SUBMIT)
    assert shown.code == real.code
    assert shown.err.count("batchgen: ") == real.err.count("batchgen: ")
    sent = [row for row in ledger(bench).batches if row["state"] == "in_flight" and row["batch"] not in known]
    want = [tuple(row[name] for name in FIELDS) for row in sent]
    assert [tuple(row[name] for name in FIELDS) for row in shown.json["batches"]] == want
    for wait in bench.status()["waiting"]:
        if wait["for"].startswith("round"):
            assert wait["reason"] in {one["reason"] for one in shown.json["waiting"]}
    return shown.json, shown.code


@pytest.mark.parametrize(
    ("toml", "sent", "code", "reason"),
    [
        ("", 4, 0, None),
        ("gemini.concurrent_batches = 1\nmax_usd = 1e-7\n", 0, 3, "max_usd = 1e-07 would be exceeded"),
        ("max_usd = 0.00017\n", 2, 3, "max_usd = 0.00017 would be exceeded"),
        ("gemini.concurrent_batches = 3\n", 3, 0, "3 batches are in flight at gemini; concurrent_batches allows no"),
        ("gemini.enqueued_tokens = 500\n", 2, 0, "enqueued_tokens allows 500"),
        (
            'max_usd = 5\ngemini.models = ["nobody/knows-1B"]\n',
            0,
            3,
            "max_usd = 5 cannot be checked: a price is unknown",
        ),
    ],
    ids=["nothing", "cap", "cap-half-way", "batches", "tokens", "price"],
)
def test_limits_hold_in_a_dry_run(toml: str, sent: int, code: int, reason: str | None, make_bench: Make) -> None:
    """The batches of one dry run count against the same limits."""
    scene = Scene.of(make_bench, 8, job_seconds=600.0)
    scene.bench.configure(f"{TWO_EACH}{toml}")
    shown, left = both(scene.bench)
    assert (len(shown["batches"]), left) == (sent, code)
    assert [reason in one["reason"] for one in shown["waiting"]] == ([] if reason is None else [True])
    if reason is not None:
        again, left = both(scene.bench)
        assert (again["batches"], left) == ([], code)
        text = scene.bench.run(*SUBMIT, "--dry-run").out
        assert f"round 2 question waits: {again['waiting'][0]['reason']}" in text


def test_a_dry_run_is_no_reservation(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 8, most=2)
    scene.bench.configure(f"{TWO_EACH}max_usd = 0.00017\n")
    first = dry(scene.bench)
    assert dry(scene.bench) == first
    assert scene.bench.status()["cost"]["reserved_usd"] == 0


@pytest.mark.parametrize(("status", "code"), [(429, 75), (400, 3)])
def test_what_is_held_back_is_held_back_in_a_dry_run(status: int, code: int, make_bench: Make) -> None:
    """By a pause after a quota, or a halt after a refusal. An uploaded batch waits too."""
    scene = Scene.of(make_bench, 8, most=2)
    no = Status(status, "This one is not taken.")
    scene.bench.service.faults.add(CallFault(endpoint="create", nth=2, times=ALWAYS, action=no))
    assert scene.run(*SUBMIT).code == code
    shown, left = both(scene.bench)
    assert (shown["batches"], left) == ([], code)
    assert "This one is not taken." in shown["waiting"][0]["reason"]
    scene.bench.service.faults.clear()
    scene.bench.service.world.advance(3 * 3600.0)
    scene.bench.run("retry")
    shown, left = both(scene.bench)
    assert (len(shown["batches"]), left) == (3, 0)


def test_batches_of_an_earlier_command_are_sent_again_or_given_up(make_bench: Make) -> None:
    """If the model was changed since, their conversations go into other batches, unless a job may exist."""
    scene = Scene.of(make_bench, 8, most=2)
    scene.bench.service.faults.add(CallFault(endpoint="create", times=ALWAYS, action=Status(429, "Slow down.")))
    assert scene.run(*SUBMIT).code == 75
    scene.bench.service.faults.clear()
    scene.bench.service.world.advance(3 * 3600.0)
    assert [row["requests"] for row in dry(scene.bench).json["batches"]] == [2] * 4
    scene.bench.configure(f'{TWO_EACH}gemini.models = ["gemini-2.5-flash"]\n')
    shown, _ = both(scene.bench)
    assert [row["model"] for row in shown["batches"]] == ["gemini-2.5-flash-lite", *["gemini-2.5-flash"] * 3]


@pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "TOGETHER_API_KEY"])
def test_a_missing_key_is_told_by_a_dry_run(variable: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene.of(make_bench, 4)
    monkeypatch.delenv(variable)
    shown, left = both(scene.bench)
    assert left == 2
    assert len(shown["batches"]) == (variable == "TOGETHER_API_KEY")
    reasons = [one["reason"] for one in shown["waiting"]]
    assert reasons == ([] if variable == "TOGETHER_API_KEY" else ["GEMINI_API_KEY is not set."])


def test_requests_that_no_file_can_hold_stop_a_dry_run_too(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure(f"{ROUNDS}batches.max_bytes = 4000\n")
    long = [{name: f"{text} {'very ' * 2000}" for name, text in seed.items()} for seed in seeds(6)]
    assert bench.prepare([*seeds(8)[6:], *long]).code == 0
    shown, left = both(bench)
    assert left == 3
    assert "max_rejected_share" in shown["waiting"][0]["reason"]
