"""Test faults of the services of OpenAI's shape, over plain HTTP: of rows, files, batches and calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import httpx2
import pytest

from batchgen.emulator.faults import CallFault, Drop, LateCommit, RowOutcome, Status
from batchgen.emulator.protocols import openai_rows
from batchgen.emulator.result_files import LINE_OUTCOMES, ROW_SET_OUTCOMES
from batchgen.emulator.server import LocalService
from tests.support.openai_calls import Wire, chat_lines
from tests.support.sdk_calls import by_key, jsonl, together_text

HOUR = 3600.0
OUTCOMES = sorted(frozenset(get_args(RowOutcome)) - ROW_SET_OUTCOMES - LINE_OUTCOMES)


def test_every_outcome_has_a_meaning() -> None:
    assert openai_rows.row_format("deepinfra").edits.keys() == set(OUTCOMES) | {"duplicate_different"}


FAILING = {"error": "500", "status": "500", "http_status": 400}
FINISHES = {"finish": "brand_new_reason", "truncated": "length"} | dict.fromkeys(
    ("blocked_prompt", "safety", "recitation"), "content_filter"
)


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "lone_surrogate"])
def test_what_a_fault_makes_of_a_row(service: LocalService, deepinfra: Wire, outcome: Any) -> None:
    clean = deepinfra.rows(deepinfra.job(2))
    service.faults.rows(outcome, provider="deepinfra", key="k0")
    job = deepinfra.job(2)
    failed = by_key(deepinfra.content(f"{job}_error"), "custom_id")
    rows = deepinfra.rows(job)
    assert together_text(rows["k1"]) == together_text(clean["k1"])
    assert rows["k0"] != clean["k0"]
    assert failed.keys() == ({"k0"} if outcome in FAILING else set())
    if outcome == "http_status":
        assert (rows["k0"]["response"]["status_code"], rows["k0"]["error"]) == (400, None)
    elif outcome in FAILING:
        assert rows["k0"]["error"]["code"] == FAILING[outcome]
    elif outcome == "neither":
        assert rows["k0"].keys() == {"id", "custom_id"}
    else:
        choice = rows["k0"]["response"]["body"]["choices"][0]
        assert choice["finish_reason"] == FINISHES.get(outcome, "stop")


def test_half_a_surrogate_pair(service: LocalService, deepinfra: Wire) -> None:
    service.faults.rows("lone_surrogate")
    assert deepinfra.content(f"{deepinfra.job(1)}_output").count(b"\\ud83d") == 1


def test_usage_with_thoughts_and_a_cache(service: LocalService, deepinfra: Wire) -> None:
    service.faults.rows("thoughts_and_cache")
    usage = deepinfra.rows(deepinfra.job(1))["k0"]["response"]["body"]["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] // 2
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 7
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("outcome", sorted(ROW_SET_OUTCOMES | LINE_OUTCOMES))
def test_a_fault_of_rows_and_lines_changes_the_file(service: LocalService, deepinfra: Wire, outcome: Any) -> None:
    service.faults.rows(outcome, indexes=[0, 1])
    data = deepinfra.content(f"{deepinfra.job(3)}_output")
    service.faults.clear()
    clean = deepinfra.content(f"{deepinfra.job(3)}_output")
    assert sorted(data.split(b"\n")) != sorted(clean.split(b"\n"))


JOB_FAULTS: list[tuple[dict[str, Any], str, int, Any]] = [
    ({"end": "failed"}, "failed", 0, "Internal error"),
    ({"end": "failed", "error": "No capacity."}, "failed", 0, "No capacity."),
    ({"end": "failed", "error": [{"code": "c", "message": "m", "line": 3, "param": None}]}, "failed", 0, "m"),
    ({"end": "expired", "share": 0.5}, "expired", 2, None),
    ({"end": "expired"}, "expired", 0, None),
    ({"end": "cancelled", "share": 0.5}, "cancelled", 2, None),
    ({"end": "COMPLETED"}, "COMPLETED", 4, None),
    ({"share": 0.5}, "completed", 2, None),
]


@pytest.mark.parametrize(("fault", "state", "rows", "error"), JOB_FAULTS)
def test_how_a_fault_ends_a_batch(
    service: LocalService, deepinfra: Wire, fault: dict[str, Any], state: str, rows: int, error: str | None
) -> None:
    service.faults.job(provider="deepinfra", **fault)
    job = deepinfra.job(4)
    batch = deepinfra.get(job)
    assert (batch["status"], len(deepinfra.rows(job))) == (state, rows)
    assert (batch["errors"] or {"data": [{"message": None}]})["data"][0]["message"] == error


def test_a_script_of_states(service: LocalService, deepinfra: Wire) -> None:
    service.faults.job(states=["brand_new", None])
    job = deepinfra.job(1)
    seen = [deepinfra.get(job) for _ in range(3)]
    assert [batch.get("status") for batch in seen] == ["brand_new", None, "completed"]
    assert [batch["output_file_id"] is None for batch in seen] == [True, True, False]


@pytest.mark.parametrize(
    ("cancel", "at_once", "later", "rows"),
    [
        ("cancelled", "cancelling", "cancelled", 2),
        ("succeeded", "completed", "completed", 2),
        ("ignored", "in_progress", "completed", 4),
        ("late", "cancelled", "completed", 4),
    ],
)
def test_what_a_cancel_leads_to(
    service: LocalService, deepinfra: Wire, cancel: str, at_once: str, later: str, rows: int
) -> None:
    service.world.job_seconds = 100
    service.faults.job(cancel=cancel)
    job = deepinfra.job(4)
    service.world.advance(60)
    deepinfra.cancel(job)
    assert deepinfra.get(job)["status"] == at_once
    service.world.advance(100)
    assert (deepinfra.get(job)["status"], len(deepinfra.rows(job))) == (later, rows)


def test_results_that_are_named_late_or_oddly(service: LocalService, wire: Callable[..., Wire]) -> None:
    service.faults.job(output_after_seconds=600, empty_error_file=True)
    groq = wire("groq")
    job = groq.job(1)
    assert (groq.get(job)["output_file_id"], groq.get(job)["error_file_id"]) == (None, None)
    service.world.advance(600)
    assert groq.get(job)["error_file_id"] == ""
    assert groq.rows(job)


def test_faults_of_calls(service: LocalService, wire: Callable[..., Wire]) -> None:
    deepinfra, groq = wire("deepinfra"), wire("groq")
    service.faults.add(CallFault(provider="deepinfra", endpoint="get", action=Status(429, "Slow down.")))
    job = deepinfra.job(1)
    assert groq.get(groq.job(1))["status"] == "completed"
    refused = deepinfra.client.get(f"/batches/{job}")
    assert (refused.status_code, refused.json()) == (429, {"detail": "Slow down."})
    source = deepinfra.upload(jsonl(chat_lines(1))).json()["id"]
    for action in (Drop(), LateCommit(180)):
        service.faults.add(CallFault(provider="deepinfra", endpoint="create", action=action, after_effect=True))
        with pytest.raises(httpx2.RemoteProtocolError):
            deepinfra.create(source)
    assert len(deepinfra.client.get("/batches").json()["data"]) == 2
    service.world.advance(180)
    assert [batch["input_file_id"] for batch in deepinfra.client.get("/batches").json()["data"]][:2] == [source] * 2
    assert [post.status for post in service.world.posts if post.provider == "deepinfra"] == [200, 0, 0]


def test_control_counts_and_faults_for_the_new_port(service: LocalService, deepinfra: Wire) -> None:
    fault = {"type": "call", "provider": "deepinfra", "endpoint": "list", "action": {"type": "status", "code": 503}}
    job = deepinfra.job(2)
    with httpx2.Client(base_url=service.openai_url, timeout=5) as control:
        assert control.post("/_control/faults", json=fault).json() == {"added": 1}
        listed = control.get("/_control/world").json()["jobs"]
    assert deepinfra.client.get("/batches").status_code == 503
    assert [(one["id"], one["provider"], one["served"]) for one in listed] == [(job, "deepinfra", 2)]
