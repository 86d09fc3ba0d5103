"""Rehearse with the local service: all assumptions held, then one of them broken at a time."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from batchgen.emulator.faults import AnyFault, Body, CallFault, Drop, JobFault, Merge, RowFault, Status, Strip
from batchgen.emulator.state import RETIRED_MODELS
from batchgen.providers.assumptions import gemini, openai, rehearsed, together
from batchgen.providers.assumptions.probes import UNKNOWN_END
from tests.support.bench import Bench
from tests.support.invariants import Make, no_key_anywhere
from tests.support.provider_facts import ANSWERERS, PROVIDERS

JOB_SECONDS = 30.0
DEAD = {"gemini": gemini.DEAD_MODEL, "together": together.DEAD_MODEL, "deepinfra": openai.DEAD_MODEL}


def broken(record: Any) -> set[tuple[str, str]]:
    return {(row["provider"], row["name"]) for row in record["checks"] if row["state"] == "broken"}


def unseen(record: Any) -> set[str]:
    return {row["name"] for row in record["checks"] if row["state"] == "not seen yet"}


@pytest.mark.parametrize("provider", ANSWERERS)
def test_all_is_held(provider: str, make_bench: Make) -> None:
    """Also: what only the rehearsal made is deleted, and its record has no key."""
    bench = make_bench(job_seconds=JOB_SECONDS)
    done = bench.run("rehearse", "--wait", "--json")
    assert (done.code, done.json["finished"], broken(done.json)) == (0, True, set())
    assert unseen(done.json) == {"job.expired", "quota.refusal"}
    world = bench.service.world
    jobs = world.jobs_created()
    assert len([job for job in jobs if "rehearsal-" in job.keys[0]]) == 3  # Gemini refuses to create the dead one
    assert {job.provider for job in jobs} == {"gemini", provider}
    assert not [file for file in world.files.values() if "rehearsal-" in file.name and file.provider != "gemini"]
    record = json.loads((bench.root / "rehearsal" / "rehearsal.json").read_text("utf-8"))
    assert record["providers"]["gemini"]["jobs"]
    rehearsal = Bench(bench.root / "rehearsal", bench.service, bench._capture, provider)
    no_key_anywhere(rehearsal, [done.out, done.err])
    assert rehearsal.run("verify").code == 0
    again = bench.run("rehearse")
    assert (again.code, len(world.jobs_created())) == (0, len(jobs))
    assert "All 6" in again.out
    assert "rehearsed on" in bench.run("doctor").out


class Case(NamedTuple):
    """What breaks one assumption, and after how many calls of the command it is seen."""

    provider: str
    name: str
    fault: AnyFault
    calls: int = 1
    toml: str = ""


def call(provider: str, endpoint: str, action: Any, **fields: Any) -> CallFault:
    return CallFault(provider=provider, endpoint=endpoint, action=action, **{"times": 0, **fields})


def merged(provider: str, patch: dict[str, Any]) -> RowFault:
    return RowFault(provider=provider, outcome="merge", text=json.dumps(patch))


LIST = {"gemini": {"operations": []}, "together": [], "deepinfra": {"data": [], "has_more": False}}
USAGE = {"gemini": "usageMetadata", "together": "usage", "deepinfra": "usage"}
COUNTS = {
    "gemini": ("promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
    "together": ("prompt_tokens", "completion_tokens", "total_tokens"),
}
COUNTS["deepinfra"] = COUNTS["together"]
UPLOAD = {"gemini": "upload_start", "together": "upload_start", "deepinfra": "upload_whole"}
LABEL = {"gemini": "displayName", "together": "input_file_id", "deepinfra": "input_file_id"}
NEW_STATE = {"gemini": "BATCH_STATE_NEW", "together": "NEW", "deepinfra": "new"}
RUNNING = {"gemini": "BATCH_STATE_RUNNING", "together": "IN_PROGRESS", "deepinfra": "in_progress"}
PENDING = {"gemini": "BATCH_STATE_PENDING", "together": "VALIDATING", "deepinfra": "validating"}


def cases_of_each(provider: str) -> list[Case]:
    """Return what every provider assumes. Answers are created in the second call and collected in the third."""
    first, read = (1, 2) if provider == "gemini" else (2, 3)
    asked, written, total = COUNTS[provider]
    back = ((RUNNING[provider], 1.0), (PENDING[provider], 10.0))
    return [
        Case(provider, "create.answered", call(provider, "create", Drop(), after_effect=True, times=1), first + 1),
        Case(
            provider,
            "upload.again",
            call(provider, UPLOAD[provider], Status(400, "No."), contains="cancel", nth=2),
            first,
        ),
        Case(provider, "listing.label", call(provider, "list", Strip(LABEL[provider])), first),
        Case(provider, "states.known", JobFault(provider=provider, states=(NEW_STATE[provider],)), first),
        Case(provider, "states.forward", JobFault(provider=provider, key="r2", states=back), read),
        Case(provider, "results.named", JobFault(provider=provider, key="r2", output="none"), read + 20),
        Case(provider, "rows.keys", RowFault(provider=provider, outcome="duplicate_same"), read),
        Case(provider, "rows.fields", RowFault(provider=provider, outcome="neither", times=1), read),
        Case(provider, "rows.finish", RowFault(provider=provider, outcome="finish", times=1), read),
        Case(provider, "rows.model", RowFault(provider=provider, outcome="merge"), read),
        Case(provider, "usage.told", merged(provider, {USAGE[provider]: {written: None}}), read),
        Case(provider, "usage.sum", merged(provider, {USAGE[provider]: {total: 1}}), read),
        Case(provider, "usage.thoughts", RowFault(provider=provider, outcome="thoughts_and_cache"), read),
        Case(
            provider,
            "sampling.limit",
            merged(provider, {USAGE[provider]: {asked: 10, written: 5000, total: 5010}}),
            read,
        ),
        Case(provider, "sampling.taken", RowFault(provider=provider, outcome="http_status", code=400), read),
        Case(provider, "dead.probe", call(provider, "probe", Status(400, "No."), contains=DEAD[provider]), first),
        Case(provider, "job.unknown", call(provider, "get", Status(400, "No."), contains=UNKNOWN_END), first),
        Case(provider, "cancel.taken", call(provider, "cancel", Status(400, "No.")), first),
        Case(provider, "delete.file", call(provider, "file_delete", Body(json={"id": "x", "deleted": True})), read),
    ]


CASES = [
    *(case for provider in PROVIDERS for case in cases_of_each(provider)),
    Case(
        "gemini",
        "upload.kept",
        call("gemini", "upload_data", Merge({"file": {"expirationTime": "2020-01-01T00:00:00Z"}})),
    ),
    Case("deepinfra", "upload.kept", call("deepinfra", "upload_whole", Merge({"expires_at": 1})), 2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.provider}-{case.name}")
def test_one_broken_assumption(case: Case, make_bench: Make) -> None:
    bench = make_bench(job_seconds=JOB_SECONDS, answerer=case.provider if case.provider in ANSWERERS else "together")
    bench.configure(case.toml)
    bench.service.faults.add(case.fault)
    done = None
    for _ in range(case.calls):
        done = bench.run("rehearse", "--json")
        bench.service.world.advance(JOB_SECONDS + 10)
    assert done is not None
    assert broken(done.json) == {(case.provider, case.name)}
    needed = next(row.needed for row in rehearsed(case.provider).rows if row.name == case.name)
    assert done.code == 1 if needed else done.code in (0, 75)
