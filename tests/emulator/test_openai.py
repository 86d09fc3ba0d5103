"""Test the services of OpenAI's shape over plain HTTP: what they share, and what documents say of DeepInfra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.emulator.backends.builtin import Answer, BackendError, Prompt, Scripted
from batchgen.emulator.faults import CallFault, Drop, LateCommit, RowOutcome, Status
from batchgen.emulator.protocols import openai_rows
from batchgen.emulator.result_files import LINE_OUTCOMES, ROW_SET_OUTCOMES
from batchgen.emulator.server import LocalService
from batchgen.emulator.services import DAY_SECONDS, SERVICES
from tests.support.openai_calls import ENDPOINT, Wire, chat_lines
from tests.support.sdk_calls import KEY, LLAMA, by_key, jsonl, parsed, together_text

EVERY_SERVICE = pytest.mark.parametrize("name", sorted(SERVICES))
HOUR = 3600.0
OUTCOMES = sorted(frozenset(get_args(RowOutcome)) - ROW_SET_OUTCOMES - LINE_OUTCOMES)


@pytest.fixture
def wire(service: LocalService) -> Iterator[Callable[..., Wire]]:
    opened: list[Wire] = []

    def open_wire(name: str = "deepinfra", path: str = "", key: str = KEY) -> Wire:
        opened.append(Wire(service, name, path, key))
        return opened[-1]

    yield open_wire
    for one in opened:
        one.client.close()


@pytest.fixture
def deepinfra(wire: Callable[..., Wire]) -> Wire:
    return wire()


# What all services share


@EVERY_SERVICE
@pytest.mark.parametrize("path", ["", "/v1", "/v1/openai", "/openai/v1"])
def test_a_batch_from_upload_to_texts(wire: Callable[..., Wire], name: str, path: str) -> None:
    calls = wire(name, path)
    job = calls.job(3)
    assert calls.get(job)["status"] == "completed"
    rows = calls.rows(job)
    assert rows.keys() == {"k0", "k1", "k2"}
    assert len({together_text(row) for row in rows.values()}) == 3
    for row in rows.values():
        assert row.keys() == {"id", "custom_id", "response", "error"}
        assert row["response"].keys() == {"status_code", "request_id", "body"}
        assert (row["response"]["status_code"], row["error"]) == (200, None)


@EVERY_SERVICE
def test_states_follow_the_clock(service: LocalService, wire: Callable[..., Wire], name: str) -> None:
    service.world.job_seconds = 100
    calls = wire(name)
    job, seen = calls.job(10), []
    for _ in range(5):
        seen.append(calls.get(job))
        service.world.advance(31)
    states = ["validating", "in_progress", "in_progress", "finalizing", "completed"]
    assert [batch["status"] for batch in seen] == states
    at_first = {"total": 0, "completed": 0, "failed": 0} if name != "deepinfra" else None
    assert seen[0]["request_counts"] == at_first
    assert [batch["request_counts"]["completed"] for batch in seen[1:]] == [1, 5, 10, 10]
    batch = seen[-1]
    assert (batch["finalizing_at"], batch["completed_at"]) == (batch["created_at"] + 100,) * 2
    assert batch["in_progress_at"] == batch["created_at"] + 20


@EVERY_SERVICE
def test_listings_have_pages(wire: Callable[..., Wire], name: str) -> None:
    calls = wire(name)
    jobs = [calls.job(1) for _ in range(5)][::-1]
    assert [batch["id"] for batch in calls.client.get("/batches").json()["data"]] == jobs
    first = calls.client.get("/batches", params={"limit": 3}).json()
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (jobs[0], jobs[2])
    rest = calls.client.get("/batches", params={"limit": 3, "after": first["last_id"]}).json()
    assert [batch["id"] for batch in first["data"] + rest["data"]] == jobs
    assert rest["has_more"] is False
    assert calls.client.get("/batches", params={"after": "nobody"}).status_code == 404
    for limit in ("0", "101", "many"):
        assert calls.client.get("/batches", params={"limit": limit}).status_code in {400, 422}
    files = calls.client.get("/files", params={"limit": 2}).json()
    assert (len(files["data"]), files["has_more"]) == (2, True)


def test_an_empty_listing(deepinfra: Wire) -> None:
    ends = {"first_id": None, "last_id": None, "has_more": False}
    assert deepinfra.client.get("/batches").json() == {"object": "list", "data": [], **ends}


@EVERY_SERVICE
def test_files_are_kept_until_they_are_deleted(wire: Callable[..., Wire], name: str) -> None:
    calls, data = wire(name), jsonl(chat_lines(1))
    file = calls.upload(data).json()
    assert (file["object"], file["bytes"], file["filename"], file["purpose"]) == ("file", len(data), "r.jsonl", "batch")
    assert calls.client.get(f"/files/{file['id']}").json() == file
    assert calls.content(file["id"]) == data
    assert calls.upload(data).json()["id"] != file["id"]
    gone = {"id": file["id"], "object": "file", "deleted": True}
    assert calls.client.delete(f"/files/{file['id']}").json() == gone
    for path in (f"/files/{file['id']}", f"/files/{file['id']}/content"):
        assert calls.client.get(path).status_code == 404
    assert calls.client.delete(f"/files/{file['id']}").status_code == 404
    assert calls.create(file["id"]).status_code == 404


@EVERY_SERVICE
def test_keys_see_only_their_own_and_services_know_nothing_of_each_other(wire: Callable[..., Wire], name: str) -> None:
    job = wire(name).job(1)
    output = wire(name).get(job)["output_file_id"]
    other = next(one for one in SERVICES if one != name)
    for calls in (wire(name, key="another-key"), wire(other)):
        assert calls.client.get("/batches").json()["data"] == calls.client.get("/files").json()["data"] == []
        for call in (calls.client.get(f"/batches/{job}"), calls.cancel(job), calls.client.get(f"/files/{output}")):
            assert call.status_code == 404


@EVERY_SERVICE
def test_errors_have_the_form_of_the_service(service: LocalService, wire: Callable[..., Wire], name: str) -> None:
    calls = wire(name)
    missing = calls.client.get("/batches/batch_nobody")
    unfinished = calls.client.post("/batches", json={"input_file_id": "x"})
    service.world.valid_keys = set()
    refused = calls.client.get("/batches")
    assert (missing.status_code, refused.status_code) == (404, 401)
    if name == "deepinfra":
        assert refused.json() == {"detail": "Invalid API key."}
        assert missing.json() == {"detail": {"error": "No such batch: batch_nobody"}}
        assert unfinished.status_code == 422
        assert unfinished.json()["detail"][0]["loc"] == ["body", "endpoint"]
    else:
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert missing.json()["error"].keys() == {"message", "type", "param", "code"}
        assert (unfinished.status_code, unfinished.json()["error"]["message"]) == (400, "endpoint: Field required")


def test_a_service_that_does_not_exist(service: LocalService) -> None:
    answer = httpx2.get(f"{service.openai_url}/novita/batches", timeout=5)
    assert answer.status_code == 404
    assert "deepinfra" in answer.json()["error"]["message"]


@EVERY_SERVICE
def test_chat_and_models(service: LocalService, wire: Callable[..., Wire], name: str) -> None:
    calls, body = wire(name), {"model": LLAMA, "messages": [{"role": "user", "content": "hi"}]}
    said = calls.client.post("/chat/completions", json=body).raise_for_status().json()
    assert said["choices"][0]["message"]["content"]
    assert LLAMA in {model["id"] for model in calls.client.get("/models").json()["data"]}
    assert calls.client.post("/chat/completions", json={"model": LLAMA}).status_code in {400, 422}
    service.world.gone_models = {LLAMA}
    assert calls.client.post("/chat/completions", json=body).status_code == 404
    assert LLAMA not in {model["id"] for model in calls.client.get("/models").json()["data"]}


@EVERY_SERVICE
def test_a_batch_that_takes_longer_than_its_window_expires(
    service: LocalService, wire: Callable[..., Wire], name: str
) -> None:
    service.world.job_seconds = 40 * HOUR
    calls = wire(name)
    job = calls.job(8)
    service.world.advance(25 * HOUR)
    batch = calls.get(job)
    assert batch["status"] == "expired"
    assert batch["expired_at"] == batch["expires_at"] == batch["created_at"] + 86_400
    assert batch["request_counts"]["completed"] == len(calls.rows(job)) == 4


def test_the_limits_of_single_services(wire: Callable[..., Wire]) -> None:
    assert SERVICES["nebius"].max_lines == 5_000_000
    long = chat_lines(1)
    long[0]["custom_id"] = "k" * 65
    doubleword = wire("doubleword")
    assert "64" in doubleword.get(doubleword.job(long))["errors"]["data"][0]["message"]
    deepinfra = wire("deepinfra")
    assert deepinfra.get(deepinfra.job(long))["status"] == "completed"
    source = deepinfra.upload(jsonl(long)).json()["id"]
    assert deepinfra.create(source, completion_window="1h").status_code == 422
    hourly = doubleword.get(doubleword.job(1, completion_window="1h"))
    assert hourly["expires_at"] == hourly["created_at"] + 3600


# What documents say of DeepInfra


def test_what_a_create_answers(service: LocalService, deepinfra: Wire) -> None:
    service.world.job_seconds = 100
    source = deepinfra.upload(jsonl(chat_lines(2))).json()["id"]
    batch = deepinfra.create(source, metadata={"name": "ours"}).json()
    assert (batch["object"], batch["status"], batch["request_counts"]) == ("batch", "validating", None)
    assert (batch["input_file_id"], batch["endpoint"], batch["completion_window"]) == (source, ENDPOINT, "24h")
    assert batch["expires_at"] == batch["created_at"] + 86_400
    assert batch["metadata"] == {"name": "ours"}
    empty = ("errors", "output_file_id", "error_file_id", "in_progress_at", "completed_at", "cancelling_at")
    assert [batch[name] for name in empty] == [None] * len(empty)


def test_an_unknown_file_is_refused_at_once(service: LocalService, deepinfra: Wire) -> None:
    assert deepinfra.create("file-nobody").status_code == 404
    assert service.world.batches_bought == 0


WRONG_CREATES = [
    ({"completion_window": "48h"}, 422),
    ({"endpoint": "/v1/completions"}, 422),
    ({"metadata": {str(number): "v" for number in range(17)}}, 422),
    ({"metadata": {"n" * 65: "v"}}, 422),
    ({"metadata": {"n": "v" * 513}}, 422),
    ({"metadata": {"n": 1}}, 422),
    ({"metadata": {"n" * 64: "v" * 512}}, 200),
    ({"metadata": {str(number): "v" for number in range(16)}}, 200),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, 422),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, 422),
    ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, 422),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 200),
]


@pytest.mark.parametrize(("fields", "status"), WRONG_CREATES)
def test_fields_of_a_create(deepinfra: Wire, fields: dict[str, Any], status: int) -> None:
    source = deepinfra.upload(jsonl(chat_lines(1))).json()["id"]
    answer = deepinfra.create(source, **fields)
    assert answer.status_code == status
    assert status == 200 or answer.json()["detail"][0]["loc"] == ["body", next(iter(fields))]


def test_the_purpose_of_a_file(deepinfra: Wire) -> None:
    assert deepinfra.upload(b"{}\n", purpose="batch-api").status_code == 400
    assert deepinfra.client.post("/files", data={"purpose": "batch"}, files={"other": b""}).status_code == 422
    assert deepinfra.client.post("/files", json={}).status_code == 400
    output = deepinfra.get(deepinfra.job(1))["output_file_id"]
    assert deepinfra.client.get(f"/files/{output}").json()["purpose"] == "batch_output"
    assert deepinfra.create(output).status_code == 400


def test_how_large_files_may_be(deepinfra: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = SERVICES["deepinfra"]
    assert (rules.max_lines, rules.max_bytes, rules.max_total_bytes) == (50_000, 200_000_000, 2_000_000_000)
    data = jsonl(chat_lines(4))
    monkeypatch.setitem(SERVICES, "deepinfra", replace(rules, max_bytes=len(data) - 1))
    assert deepinfra.upload(data).status_code == 400
    monkeypatch.setitem(SERVICES, "deepinfra", replace(rules, max_lines=3))
    assert "at most 3" in deepinfra.get(deepinfra.job(4))["errors"]["data"][0]["message"]
    assert deepinfra.get(deepinfra.job(3))["status"] == "completed"
    monkeypatch.setitem(SERVICES, "deepinfra", replace(rules, max_total_bytes=len(data) - 1))
    assert deepinfra.upload(data).status_code == 400


def test_how_many_batches_may_be_open(
    service: LocalService, deepinfra: Wire, wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SERVICES["deepinfra"].max_open == 100
    monkeypatch.setitem(SERVICES, "deepinfra", replace(SERVICES["deepinfra"], max_open=2))
    service.world.job_seconds = 100
    source = deepinfra.upload(jsonl(chat_lines(1))).json()["id"]
    assert [deepinfra.create(source).status_code for _ in range(3)] == [200, 200, 429]
    assert wire(key="another-key").job(1)
    service.world.advance(100)
    assert deepinfra.create(source).status_code == 200


def broken(index: int, **fields: Any) -> list[dict[str, Any]]:
    """Three lines, of which one has other fields."""
    lines = chat_lines(3)
    lines[index] |= fields
    return lines


BAD_FILES = [
    (jsonl(chat_lines(2)) + b"{torn\n", "invalid_json", 2, None),
    (broken(2, custom_id="k0"), "duplicate_custom_id", 2, "custom_id"),
    (broken(1, body={"model": "other/model", "messages": [{}]}), "model_mismatch", 1, "body.model"),
    (chat_lines(2, "gone/model"), "unknown_model", 0, "body.model"),
    (broken(0, custom_id=""), "invalid_line", 0, "custom_id"),
    (broken(0, custom_id=7), "invalid_line", 0, "custom_id"),
    (broken(1, method="GET"), "invalid_line", 1, "method"),
    (broken(1, url="/v1/completions"), "invalid_line", 1, "url"),
    (broken(1, body={"messages": []}), "invalid_line", 1, "body"),
    (broken(1, body="text"), "invalid_line", 1, "body"),
    (broken(1, body={"model": LLAMA, "messages": [{}], "stream": True}), "invalid_line", 1, "body.stream"),
    (b'["no object"]\n', "invalid_line", 0, "custom_id"),
    (b"\n", "invalid_line", None, None),
]


@pytest.mark.parametrize(("lines", "code", "line", "param"), BAD_FILES)
def test_one_bad_line_fails_the_whole_batch(
    service: LocalService, deepinfra: Wire, lines: list[Any] | bytes, code: str, line: int | None, param: str | None
) -> None:
    service.world.gone_models.add("gone/model")
    batch = deepinfra.get(deepinfra.job(lines))
    assert batch["status"] == "failed"
    assert batch["failed_at"]
    [error] = batch["errors"]["data"]
    assert (error["code"], error["line"], error["param"]) == (code, line, param)
    assert error["message"]
    assert (batch["output_file_id"], batch["error_file_id"], batch["request_counts"]) == (None, None, None)


@given(bad=st.sets(st.integers(0, 19)))
def test_every_bad_line_is_named(bad: set[int]) -> None:
    lines = [line | ({"method": "GET"} if number in bad else {}) for number, line in enumerate(chat_lines(20))]
    encoded = jsonl(lines).splitlines()
    found = openai_rows.job_problem(SERVICES["deepinfra"], encoded, lambda _: True, ENDPOINT)
    assert [item["line"] for item in found["data"]] == sorted(bad) if bad else found == ""


def test_result_files_are_named_after_the_batch_and_both_even_when_empty(
    wire: Callable[..., Wire], service: LocalService
) -> None:
    deepinfra, groq = wire("deepinfra"), wire("groq")
    batch = deepinfra.get(job := deepinfra.job(2))
    assert (batch["output_file_id"], batch["error_file_id"]) == (f"{job}_output", f"{job}_error")
    assert deepinfra.content(f"{job}_error") == b""
    assert groq.get(groq.job(2))["error_file_id"] is None
    service.faults.rows("error")
    batch = deepinfra.get(job := deepinfra.job(2))
    assert (deepinfra.content(f"{job}_output"), batch["request_counts"]["failed"]) == (b"", 2)
    assert groq.get(groq.job(2))["output_file_id"] is None


def test_rows_come_in_any_order(deepinfra: Wire) -> None:
    rows = parsed(deepinfra.content(f"{deepinfra.job(40)}_output"))
    assert sorted(row["custom_id"] for row in rows) == sorted(f"k{number}" for number in range(40))
    assert [row["custom_id"] for row in rows] != [f"k{number}" for number in range(40)]


def test_error_rows_have_a_code_that_is_a_text() -> None:
    def script(prompt: Prompt) -> str | Answer:
        if "boat 1" in prompt.messages[-1].content:
            raise BackendError("the worker died")
        return "fine"

    lines = chat_lines(4)
    lines[2]["body"]["messages"] = []
    lines[3]["body"]["messages"] = ["no object"]
    with LocalService(Scripted(script)) as service, Wire(service, "deepinfra") as calls:
        rows = calls.rows(job := calls.job(lines))
        failed = by_key(calls.content(f"{job}_error"), "custom_id")
    assert failed.keys() == {"k1", "k2", "k3"}
    assert all(row["response"] is None for row in failed.values())
    assert failed["k3"]["error"]["code"] == "400"
    assert failed["k1"]["error"] == {"code": "500", "message": "the worker died"}
    assert failed["k2"]["error"]["code"] == "400"
    assert together_text(rows["k0"]) == "fine"


def test_a_batch_in_progress_finishes_though_it_is_cancelled(service: LocalService, deepinfra: Wire) -> None:
    service.world.job_seconds = 100
    job = deepinfra.job(60)
    service.world.advance(40)
    assert deepinfra.cancel(job).json()["status"] == "cancelling"
    assert deepinfra.cancel(job).json()["cancelling_at"]
    service.world.advance(30)
    batch = deepinfra.get(job)
    assert (batch["status"], batch["in_progress_at"]) == ("cancelling", batch["created_at"] + 20)
    assert batch["request_counts"] == {"total": 60, "completed": 37, "failed": 0}
    service.world.advance(30)
    batch = deepinfra.get(job)
    assert (batch["status"], len(deepinfra.rows(job))) == ("completed", 60)
    assert 40 <= batch["cancelling_at"] - batch["created_at"] <= 45  # the clock runs while calls are made
    assert deepinfra.cancel(job).status_code == 400


def test_a_batch_that_is_cancelled_in_validation(service: LocalService, deepinfra: Wire) -> None:
    service.world.job_seconds = 100
    job = deepinfra.job(5)
    assert deepinfra.cancel(job).json()["status"] == "cancelling"
    service.world.advance(20)
    batch = deepinfra.get(job)
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("cancelled", None, None)
    assert batch["cancelled_at"] == batch["created_at"] + 15
    refused = deepinfra.cancel(job)
    assert (refused.status_code, refused.json()) == (400, {"detail": "A batch that is cancelled cannot be cancelled."})


def test_other_services_stop_when_they_are_cancelled(service: LocalService, wire: Callable[..., Wire]) -> None:
    service.world.job_seconds = 100
    groq = wire("groq")
    job = groq.job(10)
    service.world.advance(60)
    groq.cancel(job)
    service.world.advance(20)
    assert (groq.get(job)["status"], len(groq.rows(job))) == ("cancelled", 5)


def test_batches_cannot_be_deleted(deepinfra: Wire) -> None:
    job = deepinfra.job(1)
    assert deepinfra.client.delete(f"/batches/{job}").status_code == 405
    assert deepinfra.get(job)["status"] == "completed"


def test_a_page_has_twenty_batches(deepinfra: Wire) -> None:
    source = deepinfra.upload(jsonl(chat_lines(1))).json()["id"]
    for _ in range(21):
        deepinfra.create(source)
    page = deepinfra.client.get("/batches").json()
    assert (len(page["data"]), page["has_more"]) == (20, True)


def test_the_metadata_of_a_batch_in_listings(wire: Callable[..., Wire]) -> None:
    deepinfra, groq = wire("deepinfra"), wire("groq")
    for calls in (deepinfra, groq):
        assert calls.get(calls.job(1, metadata={"name": "ours"}))["metadata"] == {"name": "ours"}
    assert groq.client.get("/batches").json()["data"][0]["metadata"] == {"name": "ours"}
    assert deepinfra.client.get("/batches").json()["data"][0]["metadata"] is None
    assert deepinfra.client.get("/batches").json()["data"][0]["input_file_id"].startswith("file-")


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [({}, 30 * DAY_SECONDS), ({"output_expires_after": {"anchor": "created_at", "seconds": 7200}}, 7200)],
)
def test_how_long_results_are_kept(
    service: LocalService, deepinfra: Wire, fields: dict[str, Any], seconds: float
) -> None:
    job = deepinfra.job(1, **fields)
    file = deepinfra.client.get(f"/files/{deepinfra.get(job)['output_file_id']}").json()
    assert abs(file["expires_at"] - file["created_at"] - seconds) <= 1
    service.world.advance(seconds - 60)
    assert deepinfra.content(file["id"])
    service.world.advance(60)
    assert deepinfra.client.get(f"/files/{file['id']}/content").status_code == 404


# Faults


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


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    with LocalService(data_dir=tmp_path) as service, Wire(service, "deepinfra") as calls:
        done = calls.job(3, metadata={"name": "ours"})
        output = calls.content(f"{done}_output")
        service.world.job_seconds = 1000
        pending, cancelled = calls.job(4), calls.job(2)
        service.world.advance(400)
        assert calls.cancel(cancelled).json()["status"] == "cancelling"
    with LocalService(data_dir=tmp_path) as service, Wire(service, "deepinfra") as calls:
        assert calls.content(f"{done}_output") == output
        assert calls.get(done)["metadata"] == {"name": "ours"}
        listed = [batch["id"] for batch in calls.client.get("/batches").json()["data"]]
        assert listed == [cancelled, pending, done]
        service.world.advance(400)  # the clock of a new service is that of the machine
        assert [len(calls.rows(job)) for job in (pending, cancelled)] == [4, 2]


def test_control_counts_and_faults_for_the_new_port(service: LocalService, deepinfra: Wire) -> None:
    fault = {"type": "call", "provider": "deepinfra", "endpoint": "list", "action": {"type": "status", "code": 503}}
    job = deepinfra.job(2)
    with httpx2.Client(base_url=service.openai_url, timeout=5) as control:
        assert control.post("/_control/faults", json=fault).json() == {"added": 1}
        listed = control.get("/_control/world").json()["jobs"]
    assert deepinfra.client.get("/batches").status_code == 503
    assert [(one["id"], one["provider"], one["served"]) for one in listed] == [(job, "deepinfra", 2)]
