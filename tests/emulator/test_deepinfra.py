"""Test over plain HTTP what the documents of DeepInfra say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.emulator.backends.builtin import Answer, BackendError, Prompt, Scripted
from batchgen.emulator.protocols import openai_rows
from batchgen.emulator.server import LocalService
from batchgen.emulator.services import DAY_SECONDS, SERVICES
from tests.support.openai_calls import ENDPOINT, Wire, chat_lines
from tests.support.sdk_calls import LLAMA, by_key, jsonl, parsed, together_text


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
