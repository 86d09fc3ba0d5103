"""Test each fault of a single HTTP call, before and after the call has taken effect."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest
import together as sdk
from google.genai import errors
from together import Together

from batchgen.emulator import faults as fault_kinds
from batchgen.emulator.faults import (
    ALWAYS,
    Body,
    CallFault,
    Delay,
    Drip,
    Drop,
    Empty,
    Hang,
    Html,
    LateCommit,
    Merge,
    Status,
    Truncate,
    parse_faults,
)
from batchgen.emulator.faults.actions import merge_patch
from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import (
    KEY,
    MODEL,
    gemini_job,
    gemini_output,
    gemini_rows,
    gemini_upload,
    jsonl,
    raw,
    together_job,
    together_output,
    together_rows,
    together_upload,
)

if TYPE_CHECKING:
    from google import genai


def test_a_status_before_the_effect_buys_nothing(service: LocalService, gemini: genai.Client) -> None:
    service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(503), times=3))
    for _ in range(3):
        with pytest.raises(errors.ServerError) as caught:
            gemini_job(gemini)
        assert (caught.value.code, caught.value.status) == (503, "UNAVAILABLE")
    assert gemini_job(gemini)
    assert service.world.batches_bought == 1
    assert [post.status for post in service.world.posts] == [503, 503, 503, 200]


def test_a_status_after_the_effect_has_bought(service: LocalService, gemini: genai.Client) -> None:
    service.faults.add(CallFault(endpoint="create", action=Status(503), after_effect=True))
    with pytest.raises(errors.ServerError):
        gemini_job(gemini)
    assert service.world.batches_bought == 1
    assert [str(job.name) for job in gemini.batches.list()] == [f"batches/{service.world.posts[0].job}"]


def test_a_status_with_headers_and_the_providers_own_body(service: LocalService, together: Together) -> None:
    service.faults.add(CallFault(endpoint="list", action=Status(429, "Slow down.", headers={"Retry-After": "61"})))
    with pytest.raises(sdk.RateLimitError) as caught:
        together.batches.list()
    assert caught.value.response.headers["retry-after"] == "61"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"] == "Slow down."


@pytest.mark.parametrize("action", [Drop(), Drop(reset=True)])
@pytest.mark.parametrize(("after", "bought"), [(False, 0), (True, 1)])
def test_a_dropped_create(service: LocalService, gemini: genai.Client, action: Drop, after: bool, bought: int) -> None:  # noqa: FBT001 - pytest passes parameters by name
    service.faults.add(CallFault(endpoint="create", action=action, after_effect=after))
    with pytest.raises(httpx2.TransportError):
        gemini_job(gemini)
    assert service.world.batches_bought == bought
    assert service.world.posts[0].status == 0


@pytest.mark.parametrize("endpoint", ["upload_start", "upload_data", "upload_finish"])
def test_dropped_uploads(service: LocalService, together: Together, endpoint: str) -> None:
    service.faults.add(CallFault(provider="together", endpoint=endpoint, action=Drop()))
    with pytest.raises((sdk.APIConnectionError, httpx.TransportError)):
        together_job(together)
    assert together_job(together)


def test_an_answer_that_comes_too_late(service: LocalService, together: Together) -> None:
    service.faults.add(CallFault(endpoint="create", action=Delay(30)))
    source = together_upload(together, jsonl(together_rows(1)))
    with Together(api_key=KEY, base_url=service.together_url, max_retries=0, timeout=0.2) as client:
        started = time.monotonic()
        with pytest.raises(sdk.APITimeoutError):
            client.batches.create(input_file_id=source, endpoint="/v1/chat/completions")
    assert time.monotonic() - started < 15
    assert service.world.batches_bought == 1


def test_a_delay_can_be_released(service: LocalService, gemini: genai.Client) -> None:
    service.faults.add(CallFault(endpoint="list", action=Delay(30)))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: list(gemini.batches.list()))
        while not answer.done():
            service.faults.release()
    assert answer.result() == []


def test_a_hang_before_the_effect(service: LocalService, together: Together) -> None:
    service.faults.add(CallFault(endpoint="create", action=Hang()))
    source = together_upload(together, jsonl(together_rows(1)))
    with (
        Together(api_key=KEY, base_url=service.together_url, max_retries=0, timeout=0.2) as client,
        pytest.raises(sdk.APITimeoutError),
    ):
        client.batches.create(input_file_id=source, endpoint="/v1/chat/completions")
    assert service.world.batches_bought == 0


def test_a_job_that_comes_into_being_later(service: LocalService, gemini: genai.Client) -> None:
    service.faults.add(CallFault(endpoint="create", action=LateCommit(180)))
    with pytest.raises(httpx2.TransportError):
        gemini_job(gemini, name="late")
    assert list(gemini.batches.list()) == []
    service.world.advance(180)
    assert [job.display_name for job in gemini.batches.list()] == ["late"]
    assert service.world.batches_bought == 1


def test_a_page_of_somebody_in_between(service: LocalService, gemini: genai.Client, together: Together) -> None:
    job = gemini_job(gemini)
    service.faults.add(CallFault(endpoint="list", action=Html(), times=2))
    with pytest.raises(ValueError, match="Expecting value"):
        list(gemini.batches.list())
    assert isinstance(together.batches.list(), str)
    output = gemini.batches.get(name=job).dest
    service.faults.add(CallFault(endpoint="download", action=Html()))
    assert output is not None
    assert gemini.files.download(file=str(output.file_name)).startswith(b"<!DOCTYPE html>")


def test_an_empty_answer(service: LocalService, gemini: genai.Client) -> None:
    service.faults.add(CallFault(endpoint="create", action=Empty(), after_effect=True))
    created = gemini.batches.create(model=MODEL, src=gemini_upload(gemini, jsonl(gemini_rows(1))))
    assert created.name is None
    assert service.world.batches_bought == 1


def test_any_answer(service: LocalService, gemini: genai.Client, together: Together) -> None:
    service.faults.add(
        CallFault(provider="together", endpoint="create", action=Body(json={"job": None, "warning": "x"})),
        CallFault(provider="gemini", endpoint="list", action=Body(text="nonsense", content_type="application/json")),
    )
    source = together_upload(together, jsonl(together_rows(1)))
    assert together.batches.create(input_file_id=source, endpoint="/v1/chat/completions").job is None
    with pytest.raises(ValueError, match="Expecting value"):
        list(gemini.batches.list())


def test_a_changed_answer(service: LocalService, gemini: genai.Client) -> None:
    job = gemini_job(gemini)
    service.faults.add(
        CallFault(endpoint="get", action=Merge({"metadata": {"output": None, "state": "BATCH_STATE_FOO"}}))
    )
    with pytest.warns(UserWarning, match="BATCH_STATE_FOO"):
        changed = gemini.batches.get(name=job)
    assert (str(changed.state), changed.dest) == ("JobState.BATCH_STATE_FOO", None)


def test_the_examples_of_the_fault_module_run() -> None:
    lines = [line.strip() for line in (fault_kinds.__doc__ or "").splitlines() if line.startswith("    ")]
    faults = fault_kinds.Faults()
    for line in lines:
        exec(line, {**vars(fault_kinds), "faults": faults})  # noqa: S102
    assert len(faults._armed) == len(lines) > 0


def test_merging() -> None:
    assert merge_patch({"a": {"b": 1, "c": 2}}, {"a": {"b": None}, "d": [1]}) == {"a": {"c": 2}, "d": [1]}
    assert merge_patch(1, {"a": 2}) == {"a": 2}


def test_truncated_with_a_length_is_noticed(service: LocalService, gemini: genai.Client, together: Together) -> None:
    jobs = gemini_job(gemini), together_job(together)
    service.faults.add(CallFault(endpoint="download", action=Truncate(0.3), times=2))
    with pytest.raises(httpx2.RemoteProtocolError):
        gemini_output(gemini, jobs[0])
    with pytest.raises(sdk.APIConnectionError):
        together_output(together, jobs[1])


@pytest.mark.parametrize("on_line", [False, True])
def test_truncated_without_a_length_is_not(service: LocalService, gemini: genai.Client, on_line: bool) -> None:  # noqa: FBT001 - pytest passes parameters by name
    job = gemini_job(gemini)
    whole = gemini_output(gemini, job)
    service.faults.add(CallFault(endpoint="download", action=Truncate(0.9, content_length=False, on_line=on_line)))
    cut = gemini_output(gemini, job)
    assert len(cut) < len(whole)
    assert whole.startswith(cut)
    assert cut.endswith(b"\n") == on_line


def test_a_body_that_drips(service: LocalService, gemini: genai.Client) -> None:
    job = gemini_job(gemini)
    service.faults.add(CallFault(endpoint="download", action=Drip(0.2)))
    started = time.monotonic()
    assert gemini_output(gemini, job).endswith(b"\n")
    assert time.monotonic() - started > 0.1


def test_faults_are_taken_in_order_and_counted(service: LocalService, gemini: genai.Client) -> None:
    service.faults.add(
        CallFault(endpoint="list", action=Status(503), times=2),
        CallFault(endpoint="list", action=Status(404), nth=2),
    )
    with raw(service) as client:
        codes = [client.get("/v1beta/batches").status_code for _ in range(5)]
    assert codes == [503, 503, 200, 404, 200]
    assert service.faults.struck() == 3


def test_faults_of_some_requests_only(service: LocalService, gemini: genai.Client) -> None:
    first, second = gemini_job(gemini), gemini_job(gemini)
    service.faults.add(CallFault(endpoint="get", action=Status(404), times=ALWAYS, contains=first))
    with pytest.raises(errors.ClientError):
        gemini.batches.get(name=first)
    assert gemini.batches.get(name=second).done
    service.faults.clear()
    assert gemini.batches.get(name=first).done


def test_a_fault_of_the_other_provider(service: LocalService, together: Together) -> None:
    service.faults.add(CallFault(provider="gemini", action=Status(500), times=ALWAYS))
    assert together.batches.list() == []


def every_action() -> list[dict[str, Any]]:
    return [
        {"type": "status", "code": 429, "headers": {"Retry-After": "1"}},
        {"type": "body", "json": {"a": 1}},
        {"type": "html"},
        {"type": "empty"},
        {"type": "drop", "reset": True},
        {"type": "hang", "seconds": 1},
        {"type": "delay", "seconds": 1},
        {"type": "drip", "seconds": 1},
        {"type": "truncate", "keep": 0.5, "on_line": True},
        {"type": "merge", "patch": {"a": None}},
        {"type": "strip", "member": "a"},
        {"type": "latecommit", "seconds": 60, "then": {"type": "status", "code": 504}},
    ]


@pytest.mark.parametrize("action", every_action(), ids=lambda action: str(action["type"]))
def test_every_action_can_be_written_as_json(action: dict[str, Any]) -> None:
    (fault,) = parse_faults({"type": "call", "endpoint": "get", "action": action, "times": 2})
    assert isinstance(fault, CallFault)
    assert type(fault.action).__name__.lower() == action["type"]


def test_faults_of_jobs_and_rows_can_be_written_as_json() -> None:
    faults = parse_faults([{"type": "job", "states": ["A", None, ["B", 60]]}, {"type": "rows", "outcome": "missing"}])
    assert len(faults) == 2


def test_a_client_that_dies_in_mid_body_has_asked_nothing(service: LocalService) -> None:
    port = int(service.together_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert not service.world.requests
