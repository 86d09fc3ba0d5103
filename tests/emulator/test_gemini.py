"""Test the Gemini API of the service with google-genai, and with plain HTTP where the SDK hides a field."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from google.genai import errors

from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import (
    KEY,
    MODEL,
    by_key,
    gemini_client,
    gemini_job,
    gemini_output,
    gemini_rows,
    gemini_text,
    gemini_upload,
    jsonl,
    operation,
    raw,
)

if TYPE_CHECKING:
    from google import genai

CHUNK = 8 * 1024 * 1024
HOUR = 3600.0


def test_a_batch_from_upload_to_texts(gemini: genai.Client) -> None:
    job = gemini_job(gemini, 3)
    assert gemini.batches.get(name=job).state == "JOB_STATE_SUCCEEDED"
    rows = by_key(gemini_output(gemini, job))
    assert rows.keys() == {"k0", "k1", "k2"}
    texts = [json.loads(gemini_text(row))["question"] for row in rows.values()]
    assert len(set(texts)) == 3
    assert rows["k0"]["response"]["modelVersion"] == MODEL
    usage = rows["k0"]["response"]["usageMetadata"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


def test_the_same_requests_get_the_same_texts_whatever_their_keys(gemini: genai.Client) -> None:
    first = by_key(gemini_output(gemini, gemini_job(gemini, 2)))
    renamed = [{**row, "key": f"other-{row['key']}"} for row in gemini_rows(2)]
    job = gemini.batches.create(model="gemini-3.1-flash-lite", src=gemini_upload(gemini, jsonl(renamed)))
    second = by_key(gemini_output(gemini, str(job.name)))
    assert [gemini_text(first[key]) for key in ("k0", "k1")] == [
        gemini_text(second[f"other-{key}"]) for key in ("k0", "k1")
    ]


def test_a_file_as_the_sdk_sees_it(gemini: genai.Client) -> None:
    data = jsonl(gemini_rows(2))
    name = gemini_upload(gemini, data)
    file = gemini.files.get(name=name)
    assert (file.state, file.size_bytes, file.mime_type) == ("ACTIVE", len(data), "application/jsonl")
    assert base64.b64decode(file.sha256_hash or "").decode() == hashlib.sha256(data).hexdigest()
    assert [listed.name for listed in gemini.files.list()] == [name]
    gemini.files.delete(name=name)
    with pytest.raises(errors.ClientError) as caught:
        gemini.files.get(name=name)
    assert caught.value.code == 403


def test_a_large_upload_comes_in_chunks(service: LocalService, gemini: genai.Client) -> None:
    data = b"x" * (CHUNK + 100)
    name = gemini_upload(gemini, data)
    assert gemini.files.get(name=name).size_bytes == len(data)
    assert len(service.world.seen("gemini", "upload_data")) == 2


def start(service: LocalService, size: int, mime: str = "application/jsonl") -> str:
    headers = {
        "X-Goog-Upload-Protocol": "resumable",
        "X-Goog-Upload-Command": "start",
        "X-Goog-Upload-Header-Content-Length": str(size),
        "X-Goog-Upload-Header-Content-Type": mime,
    }
    with raw(service) as client:
        answer = client.post("/upload/v1/files", json={"file": {"display_name": "x"}}, headers=headers)
    assert answer.status_code == 200
    url = answer.headers["X-Goog-Upload-URL"]
    assert url.startswith(f"{service.gemini_url}/upload/v1/files?upload_id=")
    return str(url).removeprefix(service.gemini_url)


@pytest.mark.parametrize(
    ("command", "offset", "body", "status"),
    [
        ("upload, finalize", "0", b"12345", 200),
        ("upload, finalize", "1", b"12345", 400),
        ("upload, finalize", "0", b"1234", 400),
        ("upload", "0", b"123", 200),
    ],
)
def test_upload_data_is_checked(service: LocalService, command: str, offset: str, body: bytes, status: int) -> None:
    url = start(service, 5)
    with raw(service) as client:
        headers = {"X-Goog-Upload-Command": command, "X-Goog-Upload-Offset": offset}
        answer = client.post(url, content=body, headers=headers)
    assert answer.status_code == status
    assert answer.headers["X-Goog-Upload-Status"] == ("active" if command == "upload" else "final")


def test_an_upload_without_its_headers_is_refused(service: LocalService) -> None:
    with raw(service) as client:
        assert client.post("/upload/v1beta/files", json={}).status_code == 400
        assert client.post("/upload/v1beta/files?upload_id=nobody").status_code == 404


@pytest.mark.parametrize(("refusal", "error"), [("400", errors.ClientError), ("200", KeyError)])
def test_refused_mime_types(service: LocalService, gemini: genai.Client, refusal: str, error: type[Exception]) -> None:
    service.world.refused_mime_types = {"application/jsonl"}
    service.world.mime_refusal = "200" if refusal == "200" else "400"
    with pytest.raises(error):
        gemini_upload(gemini, b"{}")


def test_a_file_may_take_its_time_to_become_active(service: LocalService, gemini: genai.Client) -> None:
    service.world.file_processing_seconds = 60
    name = gemini_upload(gemini, jsonl(gemini_rows(1)))
    assert gemini.files.get(name=name).state == "PROCESSING"
    with pytest.raises(errors.ClientError, match="not in an ACTIVE state"):
        gemini.batches.create(model=MODEL, src=name)
    service.world.advance(60)
    assert gemini.files.get(name=name).state == "ACTIVE"
    assert gemini.batches.create(model=MODEL, src=name).name


def test_uploads_live_for_48_hours(service: LocalService, gemini: genai.Client) -> None:
    name = gemini_upload(gemini, jsonl(gemini_rows(1)))
    service.world.advance(48 * HOUR)
    with pytest.raises(errors.ClientError) as caught:
        gemini.batches.create(model=MODEL, src=name)
    assert caught.value.code == 403


def test_output_files_can_be_downloaded_and_nothing_else(service: LocalService, gemini: genai.Client) -> None:
    job = gemini_job(gemini)
    output = operation(service, job)["response"]["responsesFile"]
    assert output == f"files/batch-{job.removeprefix('batches/')}"
    for call in (gemini.files.get, gemini.files.delete):
        with pytest.raises(errors.ClientError, match="cannot be more than 40 characters"):
            call(name=output)
    with raw(service) as client:
        for prefix in ("/v1beta", "/v1", "/download/v1beta"):
            assert client.get(f"{prefix}/{output}:download?alt=media").content == gemini_output(gemini, job)
    assert output not in [file.name for file in gemini.files.list()]


def test_bad_lines_are_named_and_nothing_is_created(service: LocalService, gemini: genai.Client) -> None:
    rows = gemini_rows(3)
    rows[1]["request"]["thinking_config"] = {}
    name = gemini_upload(gemini, jsonl(rows) + b"{nonsense\n")
    with pytest.raises(errors.ClientError) as caught:
        gemini.batches.create(model=MODEL, src=name)
    message = str(caught.value.message)
    assert "Error on line 2: invalid JSON, near column" in message
    assert "no such field: 'thinking_config'" in message
    assert "\nError on line 4: invalid JSON" in message
    assert service.world.batches_bought == 0
    assert [post.status for post in service.world.posts] == [400]


def test_two_creates_are_two_jobs(service: LocalService, gemini: genai.Client) -> None:
    name = gemini_upload(gemini, jsonl(gemini_rows(2)))
    for _ in range(2):
        gemini.batches.create(model=MODEL, src=name, config={"display_name": "same"})
    assert service.world.batches_bought == 2
    assert service.world.bought_keys == ["k0", "k1", "k0", "k1"]
    assert [post.job for post in service.world.posts] == list(service.world.jobs)


def test_a_model_that_is_gone(service: LocalService, gemini: genai.Client) -> None:
    service.world.gone_models.add(MODEL)
    name = gemini_upload(gemini, jsonl(gemini_rows(1)))
    for call in (
        lambda: gemini.batches.create(model=MODEL, src=name),
        lambda: gemini.models.generate_content(model=MODEL, contents="hi"),
        lambda: gemini.models.get(model=MODEL),
    ):
        with pytest.raises(errors.ClientError, match="is not found"):
            call()
    assert MODEL not in {str(model.name).removeprefix("models/") for model in gemini.models.list()}


def test_probe(gemini: genai.Client) -> None:
    assert gemini.models.generate_content(model=MODEL, contents="hi").text


def test_the_operation_on_the_wire(service: LocalService, gemini: genai.Client) -> None:
    service.world.job_seconds = 100
    job = gemini_job(gemini, 2, name="my job")
    pending = operation(service, job)
    assert "done" not in pending
    assert pending["metadata"]["state"] == "BATCH_STATE_PENDING"
    assert pending["metadata"]["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
    assert pending["metadata"]["displayName"] == "my job"
    service.world.advance(50)
    assert operation(service, job)["metadata"]["state"] == "BATCH_STATE_RUNNING"
    service.world.advance(50)
    done = operation(service, job)
    assert done["done"] is True
    assert done["metadata"]["batchStats"] == {"requestCount": "2", "successfulRequestCount": "2"}
    assert done["metadata"]["output"]["responsesFile"] == done["response"]["responsesFile"]
    assert done["metadata"]["endTime"].endswith("Z")


def test_listing_pages_newest_first(service: LocalService, gemini: genai.Client) -> None:
    service.world.page_size = 2
    created = [gemini_job(gemini, 1, name=f"n{number}") for number in range(5)]
    assert [job.name for job in gemini.batches.list(config={"page_size": 50})] == created[::-1]
    assert len(service.world.seen("gemini", "list")) == 3


def test_an_empty_last_page_breaks_the_sdks_iterator(service: LocalService, gemini: genai.Client) -> None:
    gemini_job(gemini, 1)
    service.world.empty_last_page = True
    with pytest.raises(IndexError):
        list(gemini.batches.list())


def test_nothing_of_another_keys_is_visible(service: LocalService, gemini: genai.Client) -> None:
    job = gemini_job(gemini)
    source = operation(service, job)["metadata"]["inputConfig"]["fileName"]
    output = operation(service, job)["response"]["responsesFile"]
    with gemini_client(service, "another-key") as other:
        assert list(other.batches.list()) == []
        assert list(other.files.list()) == []
        for code, call in (
            (404, lambda: other.batches.get(name=job)),
            (404, lambda: other.batches.delete(name=job)),
            (403, lambda: other.files.get(name=source)),
            (403, lambda: other.files.download(file=output)),
            (403, lambda: other.batches.create(model=MODEL, src=source)),
        ):
            with pytest.raises(errors.ClientError) as caught:
                call()
            assert caught.value.code == code
    assert len({seen.owner for seen in service.world.requests}) == 3  # two keys, and uploads without a key


def test_a_key_that_is_not_valid(service: LocalService, gemini: genai.Client) -> None:
    service.world.valid_keys = {"some-other-key"}
    with pytest.raises(errors.ClientError, match="API key not valid") as caught:
        gemini.batches.list()
    assert caught.value.code == 400
    assert "API_KEY_INVALID" in str(caught.value.details)
    assert KEY not in repr(vars(service.world))


@pytest.mark.parametrize(
    ("after", "state", "errors_of"),
    [(0, "BATCH_STATE_CANCELLED", []), (60, "BATCH_STATE_SUCCEEDED", [{"code": 1}] * 5)],
)
def test_cancel_before_and_after_the_start(
    service: LocalService, gemini: genai.Client, after: int, state: str, errors_of: list[object]
) -> None:
    service.world.job_seconds = 100
    job = gemini_job(gemini, 10)
    service.world.advance(after)
    gemini.batches.cancel(name=job)
    ended = operation(service, job)
    assert ended["metadata"]["state"] == state
    if errors_of:
        rows = by_key(gemini_output(gemini, job))
        assert len(rows) == 10
        assert [row["error"] for row in rows.values() if "error" in row] == errors_of
    else:
        assert ended["error"] == {"code": 13, "message": "Batch was cancelled."}
        assert "response" not in ended


def test_a_deleted_job_is_gone_but_was_bought(service: LocalService, gemini: genai.Client) -> None:
    job = gemini_job(gemini)
    gemini.batches.delete(name=job)
    with pytest.raises(errors.ClientError) as caught:
        gemini.batches.get(name=job)
    assert caught.value.code == 404
    assert service.world.batches_bought == 1


def test_a_job_that_takes_more_than_48_hours_expires_without_results(
    service: LocalService, gemini: genai.Client
) -> None:
    service.world.job_seconds = 100 * HOUR
    job = gemini_job(gemini)
    service.world.advance(49 * HOUR)
    ended = operation(service, job)
    assert ended["metadata"]["state"] == "BATCH_STATE_EXPIRED"
    assert "response" not in ended


def test_too_many_jobs(service: LocalService, gemini: genai.Client) -> None:
    service.world.job_seconds = 100
    service.world.max_active_jobs = 1
    gemini_job(gemini, 1)
    with pytest.raises(errors.ClientError) as caught:
        gemini_job(gemini, 1)
    assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")


def test_results_are_kept_for_six_weeks(service: LocalService, gemini: genai.Client) -> None:
    job = gemini_job(gemini)
    gemini_output(gemini, job)
    service.world.advance(42 * 24 * HOUR)
    with pytest.raises(errors.ClientError):
        gemini_output(gemini, job)


def test_an_unknown_address(service: LocalService) -> None:
    with raw(service) as client:
        assert client.get("/v1beta/v1/batches").status_code == 404
        assert client.post("/v1beta/batches/x:cancel").status_code == 404
