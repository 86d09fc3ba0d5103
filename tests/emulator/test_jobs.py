"""Test the faults of whole jobs: their states, their results, their cancellation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import (
    MODEL,
    by_key,
    gemini_job,
    gemini_output,
    gemini_text,
    operation,
    parsed,
    together_job,
    together_output,
)

if TYPE_CHECKING:
    from google import genai
    from together import Together

HOUR = 3600.0


def states(service: LocalService, job: str, count: int) -> list[str | None]:
    return [operation(service, job)["metadata"].get("state") for _ in range(count)]


def test_a_script_of_one_state_per_poll(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(provider="gemini", states=["BATCH_STATE_FOO", None])
    job = gemini_job(gemini)
    assert states(service, job, 3) == ["BATCH_STATE_FOO", None, "BATCH_STATE_SUCCEEDED"]


def test_a_script_of_states_that_last(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(states=[("BATCH_STATE_PENDING", 60 * HOUR), ("BATCH_STATE_RUNNING", HOUR)])
    job = gemini_job(gemini)
    seen = []
    for _ in range(4):
        seen += states(service, job, 2)
        service.world.advance(30.5 * HOUR)
    assert seen == ["BATCH_STATE_PENDING"] * 4 + ["BATCH_STATE_SUCCEEDED"] * 4


def test_the_sdk_warns_of_a_state_it_does_not_know(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(states=["BATCH_STATE_FOO", None])
    job = gemini_job(gemini)
    with pytest.warns(UserWarning, match="BATCH_STATE_FOO"):
        assert gemini.batches.get(name=job).done is False
    assert gemini.batches.get(name=job).state is None


def test_expired_with_a_part_of_the_rows(service: LocalService, gemini: genai.Client, together: Together) -> None:
    service.faults.job(provider="gemini", end="BATCH_STATE_EXPIRED", share=0.4)
    service.faults.job(provider="together", end="EXPIRED", share=0.4)
    first, second = gemini_job(gemini, 10), together_job(together, 10)
    assert gemini.batches.get(name=first).state == "JOB_STATE_EXPIRED"
    assert len(parsed(gemini_output(gemini, first))) == 4
    assert together.batches.retrieve(second).status == "EXPIRED"
    assert len(parsed(together_output(together, second))) == 4


def test_expired_without_results(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(end="BATCH_STATE_EXPIRED")
    ended = operation(service, gemini_job(gemini))
    assert ended["done"] is True
    assert "response" not in ended
    assert "output" not in ended["metadata"]


def test_failed_with_an_error_the_sdk_drops(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(end="BATCH_STATE_FAILED", error={"code": 8, "message": "Quota of enqueued tokens."})
    job = gemini_job(gemini)
    assert operation(service, job)["error"] == {"code": 8, "message": "Quota of enqueued tokens."}
    assert gemini.batches.get(name=job).state == "JOB_STATE_FAILED"
    assert gemini.batches.get(name=job).error is None


def test_together_failed(service: LocalService, together: Together) -> None:
    service.faults.job(end="FAILED", error="Something broke", times=1)
    job = together.batches.retrieve(together_job(together))
    assert (job.status, job.error, job.output_file_id) == ("FAILED", "Something broke", None)
    assert together.batches.retrieve(together_job(together, 2)).status == "COMPLETED"


def test_partially_succeeded(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(end="JOB_STATE_PARTIALLY_SUCCEEDED", share=0.5)
    job = gemini_job(gemini, 10)
    assert gemini.batches.get(name=job).done is False
    assert len(parsed(gemini_output(gemini, job))) == 5


@pytest.mark.parametrize(
    ("output", "members"),
    [("both", (True, True)), ("metadata", (True, False)), ("response", (False, True)), ("none", (False, False))],
)
def test_where_results_are_named(
    service: LocalService, gemini: genai.Client, output: str, members: tuple[bool, bool]
) -> None:
    service.faults.job(output=output)
    job = gemini_job(gemini)
    ended = operation(service, job)
    assert ("output" in ended["metadata"], "response" in ended) == members
    assert (gemini.batches.get(name=job).dest is not None) == members[0]


def test_inline_results_of_a_file_job(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(output="inline")
    service.faults.rows("error", indexes=[1])
    job = gemini_job(gemini, 3)
    rows = operation(service, job)["response"]["inlinedResponses"]["inlinedResponses"]
    assert {row["metadata"]["key"] for row in rows} == {"k0", "k1", "k2"}
    dest = gemini.batches.get(name=job).dest
    assert dest is not None
    assert len(dest.inlined_responses or []) == 3


def test_results_that_are_not_ready_for_a_while(
    service: LocalService, gemini: genai.Client, together: Together
) -> None:
    service.faults.job(output_after_seconds=600)
    first, second = gemini_job(gemini), together_job(together)
    assert gemini.batches.get(name=first).dest is None
    assert together.batches.retrieve(second).output_file_id is None
    service.world.advance(600)
    assert gemini_output(gemini, first)
    assert together_output(together, second)


def test_an_error_file_with_an_empty_name(service: LocalService, together: Together) -> None:
    service.faults.job(provider="together", empty_error_file=True)
    assert together.batches.retrieve(together_job(together)).error_file_id == ""


def test_a_job_that_is_missing_from_the_listing_for_a_while(service: LocalService, gemini: genai.Client) -> None:
    service.faults.job(unlisted_seconds=300)
    job = gemini_job(gemini)
    assert list(gemini.batches.list()) == []
    assert gemini.batches.get(name=job).name == job
    service.world.advance(300)
    assert len(list(gemini.batches.list())) == 1


@pytest.mark.parametrize(
    ("cancel", "ended", "later"),
    [
        ("cancelled", "BATCH_STATE_CANCELLED", "BATCH_STATE_CANCELLED"),
        ("succeeded", "BATCH_STATE_SUCCEEDED", "BATCH_STATE_SUCCEEDED"),
        ("ignored", "BATCH_STATE_RUNNING", "BATCH_STATE_SUCCEEDED"),
        ("late", "BATCH_STATE_CANCELLED", "BATCH_STATE_SUCCEEDED"),
    ],
)
def test_what_a_gemini_cancel_leads_to(
    service: LocalService, gemini: genai.Client, cancel: str, ended: str, later: str
) -> None:
    service.world.job_seconds = 100
    service.faults.job(cancel=cancel)
    job = gemini_job(gemini, 4)
    service.world.advance(60)
    gemini.batches.cancel(name=job)
    assert states(service, job, 1) == [ended]
    service.world.advance(100)
    assert states(service, job, 1) == [later]
    if cancel in {"ignored", "late"}:
        assert all("response" in row for row in parsed(gemini_output(gemini, job)))


def test_a_cancelled_together_job_that_delivers_all_the_same(service: LocalService, together: Together) -> None:
    service.world.job_seconds = 100
    service.faults.job(cancel="late", late_seconds=10)
    job = together_job(together, 4)
    assert together.batches.cancel(job).status == "CANCELLED"
    service.world.advance(10)
    assert together.batches.retrieve(job).status == "COMPLETED"
    assert len(parsed(together_output(together, job))) == 4


def test_a_cancelled_job_with_rows(service: LocalService, gemini: genai.Client) -> None:
    service.world.job_seconds = 100
    service.faults.job(cancel="cancelled", share=0.5)
    job = gemini_job(gemini, 4)
    service.world.advance(60)
    gemini.batches.cancel(name=job)
    assert states(service, job, 1) == ["BATCH_STATE_CANCELLED"]
    assert len(parsed(gemini_output(gemini, job))) == 2


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ({"model": MODEL}, True),
        ({"model": "x"}, False),
        ({"key": "k2"}, True),
        ({"key": "k9"}, False),
        ({"nth": 2}, False),
    ],
)
def test_which_jobs_are_meant(
    service: LocalService,
    gemini: genai.Client,
    match: dict[str, Any],
    hit: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    service.faults.job(end="BATCH_STATE_FAILED", **match)
    assert (states(service, gemini_job(gemini), 1) == ["BATCH_STATE_FAILED"]) == hit


def test_every_row_an_error_and_the_job_a_success(service: LocalService, gemini: genai.Client) -> None:
    service.faults.rows("error")
    job = gemini_job(gemini, 3)
    assert states(service, job, 1) == ["BATCH_STATE_SUCCEEDED"]
    assert {row["error"]["code"] for row in parsed(gemini_output(gemini, job))} == {13}
    assert operation(service, job)["metadata"]["batchStats"] == {"requestCount": "3", "failedRequestCount": "3"}


def test_a_faulty_schedule_changes_no_text(service: LocalService, gemini: genai.Client) -> None:
    clean = by_key(gemini_output(gemini, gemini_job(gemini, 3)))
    service.faults.job(states=["BATCH_STATE_RUNNING"], output="metadata")
    job = gemini_job(gemini, 3)
    states(service, job, 1)
    again = by_key(gemini_output(gemini, job))
    assert {key: gemini_text(row) for key, row in again.items()} == {
        key: gemini_text(row) for key, row in clean.items()
    }
