"""Test what all services of OpenAI's shape share, over plain HTTP, and the limits of single ones."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from batchgen.emulator.server import LocalService
from batchgen.emulator.services import SERVICES
from tests.support.openai_calls import Wire, chat_lines
from tests.support.sdk_calls import LLAMA, jsonl, together_text

EVERY_SERVICE = pytest.mark.parametrize("name", sorted(SERVICES))
HOUR = 3600.0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((name, "") for name in sorted(SERVICES)),
        *(("deepinfra", path) for path in ("/v1", "/v1/openai", "/openai/v1")),
    ],
)
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
