"""Rehearse with the local service: all assumptions held, then one of them broken at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from batchgen.emulator.faults import (
    AnyFault,
    Body,
    CallFault,
    Drop,
    JobFault,
    Merge,
    RowFault,
    RowOutcome,
    Status,
    Strip,
)
from batchgen.emulator.state import RETIRED_MODELS
from batchgen.providers.assumptions import gemini, openai, rehearsed, together
from batchgen.providers.assumptions.probes import UNKNOWN_END
from batchgen.runtime.files import Layout, exclusive_lock
from tests.support.bench import Bench, Result
from tests.support.fork_server import KILLED, Forks
from tests.support.invariants import Make, no_key_anywhere
from tests.support.provider_facts import ANSWERERS, UPLOAD_START

JOB_SECONDS = 30.0
DEAD = {"gemini": gemini.DEAD_MODEL, "together": together.DEAD_MODEL, "deepinfra": openai.DEAD_MODEL}


def broken(record: Any) -> set[tuple[str, str]]:
    return {(row["provider"], row["name"]) for row in record["checks"] if row["state"] == "broken"}


def unseen(record: Any) -> set[str]:
    return {row["name"] for row in record["checks"] if row["state"] == "not seen yet"}


@pytest.mark.parametrize("provider", ANSWERERS)
def test_all_is_held(provider: str, make_bench: Make) -> None:
    """Also: nothing is left at the providers that can be deleted, and the record has no key."""
    bench = make_bench(job_seconds=5.0, answerer=provider)
    bench.configure("")
    done = bench.run("rehearse", "--wait", "--json")
    assert (done.code, done.json["finished"], broken(done.json)) == (0, True, set())
    assert unseen(done.json) == {"job.expired", "quota.refusal", "rows.blocked", "rows.json"}
    world = bench.service.world
    jobs = world.jobs_created()
    assert len([job for job in jobs if "rehearsal-" in job.keys[0]]) == 3  # Gemini refuses to create the dead one
    assert {job.provider for job in jobs} == {"gemini", provider}
    left = [file.name for file in world.files.values()]
    assert set(left) <= {"output.jsonl", "error.jsonl"}  # result files; Gemini's cannot be deleted
    assert not [job for job in jobs if job.provider == "gemini" and not job.deleted]
    record = json.loads((bench.root / "rehearsal" / "rehearsal.json").read_text("utf-8"))
    assert record["providers"]["gemini"]["jobs"]
    text = (bench.root / "rehearsal" / "rehearsal.json").read_text("utf-8")
    for turn in Bench(bench.root / "rehearsal", bench.service, bench._capture).rows("round3/round3_history.jsonl"):
        assert not [said for one in turn["rounds"] for said in one.values() if json.dumps(said)[1:-1] in text]
    rehearsal = Bench(bench.root / "rehearsal", bench.service, bench._capture, provider)
    no_key_anywhere(rehearsal, [done.out, done.err])
    assert rehearsal.run("verify").code == 0
    again = bench.run("rehearse")
    assert (again.code, len(world.jobs_created())) == (0, len(jobs))
    assert "All 6" in again.out
    known = bench.run("doctor").out
    assert "  rehearsed on 20" in known
    assert "never rehearsed" not in known


def go_on(bench: Bench, calls: int, pause: float) -> Result:
    """Call the command again, `pause` seconds after the last call each. Returns the last result."""
    for _ in range(calls - 1):
        bench.service.world.advance(pause)
        bench.run("rehearse", "--json")
    bench.service.world.advance(pause)
    return bench.run("rehearse", "--json")


class Case(NamedTuple):
    """What breaks one assumption, after how many calls of the command it is seen, and the seconds after each call."""

    provider: str
    name: str
    fault: AnyFault
    calls: int = 1
    pause: float = JOB_SECONDS + 10


def call(provider: str, endpoint: str, action: Any, **fields: Any) -> CallFault:
    return CallFault(provider=provider, endpoint=endpoint, action=action, **{"times": 0, **fields})


def merged(provider: str, usage: dict[str, Any]) -> RowFault:
    member = "usageMetadata" if provider == "gemini" else "usage"
    return row(provider, "merge", text=json.dumps({member: usage}))


def row(provider: str, outcome: RowOutcome, **fields: Any) -> RowFault:
    return RowFault(provider=provider, outcome=outcome, **fields)


COUNTS = {
    "gemini": ("promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
    "together": ("prompt_tokens", "completion_tokens", "total_tokens"),
}
LABEL = {"gemini": "displayName", "together": "input_file_id", "deepinfra": "input_file_id"}
RUNNING = {"gemini": "BATCH_STATE_RUNNING", "together": "IN_PROGRESS", "deepinfra": "in_progress"}
PENDING = {"gemini": "BATCH_STATE_PENDING", "together": "VALIDATING", "deepinfra": "validating"}
EMPTY = {"gemini": {"operations": []}, "together": [], "deepinfra": {"data": [], "has_more": False}}
NO = Status(400, "No.")


def of_calls(provider: str) -> list[Case]:
    """Return what is seen soon after a job was created: in the first call, of an answerer in the second."""
    first = 1 if provider == "gemini" else 2
    dead = DEAD[provider]
    back = (RUNNING[provider], PENDING[provider]) * 3
    end = "failed" if provider == "deepinfra" else ""
    dead_create: AnyFault = JobFault(model=dead, error="No.")
    if provider == "gemini":
        dead_create = call("gemini", "create", NO, contains=dead)
    return [
        Case(provider, "upload.again", call(provider, UPLOAD_START[provider], NO, contains="cancel", nth=2), first),
        Case(provider, "create.answered", call(provider, "create", Drop(), after_effect=True, times=1), first),
        Case(provider, "listing.label", call(provider, "list", Strip(LABEL[provider])), first),
        Case(provider, "listing.whole", call(provider, "list", Body(json=EMPTY[provider]), nth=2, times=1), first + 2),
        Case(provider, "states.known", JobFault(provider=provider, states=(f"{PENDING[provider]}_NEW",)), first),
        Case(provider, "states.forward", JobFault(provider=provider, key="r2", states=back), first + 2),
        Case(provider, "dead.probe", call(provider, "probe", NO, contains=dead), first),
        Case(provider, "dead.create", dead_create, first + first - 1),
        Case(provider, "job.unknown", call(provider, "get", NO, contains=UNKNOWN_END), first),
        Case(provider, "cancel.taken", call(provider, "cancel", NO), first),
        Case(provider, "cancel.end", JobFault(provider=provider, key="-cancel", cancel="ignored", end=end), first + 1),
        Case(provider, "delete.file", call(provider, "file_delete", Body(json={"id": "x"})), first + first - 1),
    ]


def of_rows(provider: str) -> list[Case]:
    """Return what is seen in the first result file."""
    read = 2 if provider == "gemini" else 3
    asked, written, total = COUNTS[provider]
    long = {asked: 10, written: 5000, total: 5010}
    return [
        Case(provider, "results.named", JobFault(provider=provider, key="r2", output="none"), read + 1, pause=700.0),
        Case(provider, "rows.keys", row(provider, "duplicate_same"), read),
        Case(provider, "rows.fields", row(provider, "neither", times=1), read),
        Case(provider, "rows.finish", row(provider, "finish", times=1), read),
        Case(provider, "rows.model", row(provider, "merge"), read),
        Case(provider, "usage.told", merged(provider, {written: None, total: None}), read),
        Case(provider, "usage.sum", merged(provider, {total: 1}), read),
        Case(provider, "usage.thoughts", row(provider, "thoughts_and_cache"), read),
        Case(provider, "sampling.limit", merged(provider, long), read),
        Case(provider, "sampling.taken", row(provider, "http_status", code=400), read),
    ]


OTHER_ECHO = '{"m": "zz", "question": "Which of these plants needs the least water of all?"}'
SHORT_LIFE = {"file": {"expirationTime": "2020-01-01T00:00:00Z"}}
# The protocols of the answers share most checks: what is tested again reads something else there.
OTHER_CALLS = {
    "together": ("listing.label", "dead.create", "cancel.end"),
    "deepinfra": (
        *("upload.again", "create.answered", "listing.label", "states.known", "dead.probe", "dead.create"),
        *("job.unknown", "cancel.taken", "cancel.end", "delete.file"),
    ),
}
CASES = [
    *of_calls("gemini"),
    *of_rows("gemini"),
    *(case for name, wanted in OTHER_CALLS.items() for case in of_calls(name) if case.name in wanted),
    *(case for case in of_rows("together") if case.name in ("rows.keys", "usage.told", "usage.thoughts")),
    Case("gemini", "model.answers", call("gemini", "probe", NO, times=2)),
    Case("gemini", "upload.kept", call("gemini", "upload_data", Merge(SHORT_LIFE))),
    Case("gemini", "listing.appears", JobFault(provider="gemini", unlisted_seconds=2000.0), 3, pause=500.0),
    Case("gemini", "listing.pages", call("gemini", "list", Strip("nextPageToken")), 4),
    Case(
        "gemini",
        "results.counted",
        call("gemini", "get", Merge({"metadata": {"batchStats": {"failedRequestCount": "5"}}})),
        2,
    ),
    Case("gemini", "rows.json", row("gemini", "malformed_json", times=1), 2),
    Case("gemini", "rows.echo", row("gemini", "text", text=OTHER_ECHO, times=1), 2),
    Case("gemini", "delete.job", call("gemini", "delete", Body(json={}))),
    Case("together", "results.size", call("together", "file_get", Merge({"bytes": 1})), 3),
    Case("deepinfra", "upload.kept", call("deepinfra", "upload_whole", Merge({"expires_at": 1})), 2),
    Case("deepinfra", "listing.pages", call("deepinfra", "list", Strip("has_more")), 2),
    Case("deepinfra", "results.counted", call("deepinfra", "get", Merge({"request_counts": {"failed": 5}})), 3),
]


# What one rehearsal sees broken at once: none hides another, and all need the same calls. Other cases stand alone.
AT_ONCE = (
    "gemini: upload.again listing.label states.known dead.probe dead.create job.unknown cancel.taken",
    "gemini: create.answered model.answers upload.kept",
    "gemini: listing.whole; together: dead.create rows.keys usage.told",
    "gemini: cancel.end rows.model results.counted",
    "gemini: delete.file delete.job",
    "gemini: rows.keys rows.fields usage.told; together: listing.label",
    "gemini: rows.finish sampling.limit; deepinfra: upload.again listing.label states.known dead.probe job.unknown",
    "together: cancel.end usage.thoughts results.size",
    "gemini: rows.json; deepinfra: create.answered upload.kept",
    "deepinfra: cancel.taken listing.pages",
    "deepinfra: cancel.end delete.file results.counted",
)


def groups() -> Iterator[list[Case]]:
    known = {(case.provider, case.name): case for case in CASES}
    for line in AT_ONCE:
        parts = [part.split(": ") for part in line.split("; ")]
        yield [known.pop((provider, name)) for provider, names in parts for name in names.split()]
    for case in known.values():
        yield [case]


@pytest.mark.parametrize("cases", list(groups()), ids=lambda cases: f"{cases[0].provider}-{cases[0].name}")
def test_broken_assumptions(cases: list[Case], make_bench: Make) -> None:
    answerer = next((case.provider for case in cases if case.provider in ANSWERERS), "together")
    bench = make_bench(job_seconds=JOB_SECONDS, answerer=answerer)
    bench.configure("")
    bench.service.faults.add(*(case.fault for case in cases))
    done = bench.run("rehearse", "--json")
    ((calls, pause),) = {(case.calls, case.pause) for case in cases}
    if calls > 1:
        done = go_on(bench, calls - 1, pause)
    assert broken(done.json) == {(case.provider, case.name) for case in cases}
    needed = {row.needed for case in cases for row in rehearsed(case.provider).rows if row.name == case.name}
    assert (done.code == 1) if needed == {True} else (done.code in (0, 75))
    assert len(needed) == 1, "one that is needed hides the exit status of one that is not"


def test_an_upload_type_that_is_refused(make_bench: Make) -> None:
    bench = make_bench(job_seconds=JOB_SECONDS)
    bench.service.world.refused_mime_types = {"application/jsonl"}
    done = bench.run("rehearse")
    assert done.code == 0
    assert "BROKEN" in done.out
    assert "upload.type" in done.out
    assert "Broken, but a run copes: gemini upload.type. Please report this." in done.out


def test_retired_models_are_those_that_are_probed() -> None:
    assert set(DEAD.values()) == RETIRED_MODELS


def probe_jobs(bench: Bench, name: str) -> list[str]:
    return [job.id for job in bench.service.world.jobs_created() if job.keys[0].endswith(name)]


@pytest.mark.parametrize(("jobs", "pause"), [(1, 5.0), (0, 50.0)], ids=["created", "lost"])
def test_a_create_call_of_a_probe_is_made_once(jobs: int, pause: float, make_bench: Make) -> None:
    """It gets no answer: its job is looked for, and never created again."""
    bench = make_bench(job_seconds=JOB_SECONDS)
    bench.configure("batches.reconcile_grace_seconds = 60\n")
    # The first create call is that of the run, the second that of the probe.
    bench.service.faults.add(
        CallFault(endpoint="create", provider="gemini", action=Drop(), nth=2, after_effect=bool(jobs))
    )
    assert bench.run("rehearse", "--json").code == 1  # no clear answer
    assert len(probe_jobs(bench, "gemini-cancel")) == jobs
    done = go_on(bench, 3, pause)
    assert len(probe_jobs(bench, "gemini-cancel")) == jobs
    state = {row["name"]: row for row in done.json["checks"] if row["provider"] == "gemini"}["cancel.taken"]
    assert state["state"] == ("held" if jobs else "not seen yet")
    assert jobs or "no job was found" in state["seen"]


def test_a_service_that_accepts_a_dead_model(bench: Bench) -> None:
    """Its job is cancelled, and it is said; a job that cannot be found ends the matter."""
    bench.configure("")
    world = bench.service.world
    accepted = Body(json={"name": "batches/strange", "metadata": {"state": "BATCH_STATE_PENDING"}})
    bench.service.faults.add(call("gemini", "create", accepted, contains=DEAD["gemini"]))
    done = bench.run("rehearse", "--wait", "--json")
    assert done.json["finished"]
    assert [seen.path for seen in world.seen("gemini", "cancel") if "strange" in seen.path]
    assert len([post for post in world.posts if post.job == ""]) == 1
    assert "dead.create" in unseen(done.json)


def test_what_happens_seldom(make_bench: Make) -> None:
    bench = make_bench(job_seconds=JOB_SECONDS)
    bench.configure("")
    bench.service.faults.add(
        CallFault(provider="gemini", endpoint="create", action=Status(429, "Quota exceeded for metric: tokens.")),
        JobFault(provider="gemini", key="r2", end="BATCH_STATE_EXPIRED", times=1),
        row("gemini", "blocked_prompt", key="question", times=1),
    )
    assert bench.run("rehearse", "--json").code == 75
    done = go_on(bench, 5, 120.0)
    held = {row["name"]: row["seen"] for row in done.json["checks"] if row["state"] == "held"}
    assert held["quota.refusal"].startswith("HTTP 429: Quota exceeded")
    assert held["job.expired"] == "no results"
    assert re.fullmatch(r"1 row: PROHIBITED_CONTENT, \d+ prompt tokens", held["rows.blocked"])
    assert broken(done.json) == set()


def test_it_costs_no_more_than_is_allowed(bench: Bench) -> None:
    refused = bench.run("rehearse", "--max-usd", "0.0001")
    assert refused.code == 2
    assert "The rehearsal may cost $0.00" in refused.err
    assert "more than --max-usd allows ($0.0001). Nothing was sent." in refused.err
    bench.configure("max_usd = 0.0002\n")
    assert "more than max_usd of batchgen.toml allows ($0.0002)" in bench.run("rehearse").err
    bench.configure('[correction]\nmodels = ["gemini:gemini-new"]\n')
    unpriced = Bench(bench.root, bench.service, bench._capture)
    assert "its price is unknown" in unpriced.run("rehearse").err
    assert bench.service.world.batches_bought == 0


def test_what_must_be_right_before_it_begins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.configure("")
    monkeypatch.delenv("GEMINI_API_KEY")
    assert (done := bench.run("rehearse")).code == 2
    assert "GEMINI_API_KEY is not set" in done.err
    monkeypatch.setenv("GEMINI_API_KEY", bench.environment["GEMINI_API_KEY"])
    assert bench.run("rehearse").code == 0
    assert (done := bench.run("rehearse", "--conversations", "5")).code == 2
    assert "has 2 conversations already, not 5" in done.err
    with exclusive_lock(Layout(bench.root / "rehearsal")):
        assert (done := bench.run("rehearse")).code == 0
    assert "Another command is at work" in done.err
    (bench.root / "rehearsal" / "rehearsal.json").write_text("{", "utf-8")
    assert (done := bench.run("rehearse")).code == 2
    assert "not a record of a rehearsal" in done.err
    assert (done := bench.run("doctor")).code == 0
    assert done.out.count("never rehearsed") == 1
    assert "gemini, together: never rehearsed with this run's settings" in done.out


def test_own_instructions_stay_out_of_the_record(bench: Bench) -> None:
    """Also where a provider quotes them."""
    own = "Ask as a pirate would ask, and never mention the harbour of Tortuga."
    bench.configure(f'[question]\ninstructions = "{own}"\n')
    bench.service.faults.rows("error", provider="gemini", code=3, message=f"Invalid text: {own}")
    bench.run("rehearse")
    done = bench.run("rehearse", "--json")
    assert broken(done.json) == {("gemini", "sampling.taken")}
    assert own[:30] not in (bench.root / "rehearsal" / "rehearsal.json").read_text("utf-8")


def test_killed_before_each_write_of_a_file(make_bench: Make, forks: Forks) -> None:
    """Request files, the record before and after each create call: nothing is created twice."""
    bench = make_bench(job_seconds=JOB_SECONDS)
    bench.configure("")
    codes = [forks.run(bench, "rehearse", crash=f"file_before_rename:{at}").code for at in (2, 3, 4) * 3]
    assert codes.count(KILLED) > 5
    assert set(codes) <= {KILLED, 0, 75}
    assert bench.run("rehearse", "--wait").code == 0
    keys = bench.service.world.bought_keys
    assert len(keys) == len(set(keys))
