"""Test the Together API of the service with its SDK, and with plain HTTP where the SDK hides a field."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import together as sdk
from together import Together
from together.lib.resources.files import FileAlreadyExistsError

from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import (
    KEY,
    LLAMA,
    NO_TLS,
    by_key,
    jsonl,
    parsed,
    together_client,
    together_create,
    together_job,
    together_output,
    together_rows,
    together_text,
    together_upload,
)


def wire(service: LocalService, key: str = KEY) -> httpx.Client:
    return httpx.Client(
        base_url=service.together_url, headers={"Authorization": f"Bearer {key}"}, timeout=5, verify=NO_TLS
    )


def test_a_batch_from_upload_to_texts(together: Together) -> None:
    job = together_job(together, 3)
    done = together.batches.retrieve(job)
    assert (done.status, done.x_model_id, done.error_file_id) == ("COMPLETED", LLAMA, None)
    rows = by_key(together_output(together, job), "custom_id")
    assert rows.keys() == {"k0", "k1", "k2"}
    assert len({together_text(row) for row in rows.values()}) == 3
    assert all(row["id"].startswith("br_") and "error" not in row for row in rows.values())


def test_states_follow_the_clock(service: LocalService, together: Together) -> None:
    service.world.job_seconds = 100
    job = together_job(together)
    seen = []
    for _ in range(3):
        seen.append(together.batches.retrieve(job).status)
        service.world.advance(50)
    assert seen == ["VALIDATING", "IN_PROGRESS", "COMPLETED"]


def test_members_that_do_not_exist_yet_are_left_out(service: LocalService, together: Together) -> None:
    service.world.job_seconds = 100
    job = together_job(together)
    with wire(service) as client:
        fresh = client.get(f"/v1/batches/{job}").json()
    absent = {"output_file_id", "error_file_id", "completed_at", "error", "model_id", "request_counts"}
    assert not absent & fresh.keys()
    assert fresh["job_deadline"] > fresh["created_at"]


def test_create_answers_201_with_a_wrapper_and_list_a_bare_array(service: LocalService, together: Together) -> None:
    source = together_upload(together, jsonl(together_rows(1)))
    with wire(service) as client:
        created = client.post("/v1/batches", json={"endpoint": "/v1/chat/completions", "input_file_id": source})
        assert created.status_code == 201
        identity = created.json()["job"]["id"]
        assert [job["id"] for job in client.get("/v1/batches").json()] == [identity]
    assert [job.input_file_id for job in together.batches.list() or []] == [source]


def test_an_upload_is_three_requests(service: LocalService, together: Together) -> None:
    identity = together_upload(together, jsonl(together_rows(1)), "mine.jsonl")
    assert [seen.endpoint for seen in service.world.requests] == ["upload_start", "upload_data", "upload_finish"]
    file = together.files.retrieve(identity)
    assert (file.filename, file.purpose, file.file_type) == ("mine.jsonl", "batch-api", "jsonl")
    assert [listed.id for listed in together.files.list().data or []] == [identity]
    assert together.files.content(identity).read() == jsonl(together_rows(1))


def test_the_put_checks_what_it_gets(service: LocalService) -> None:
    fields = {"purpose": "batch-api", "file_name": "x.jsonl", "file_type": "jsonl", "checksum": "0" * 64}
    with wire(service) as client, httpx.Client(timeout=5, verify=NO_TLS) as bare:
        parts = {name: (None, value) for name, value in fields.items()}
        started = client.post("/v1/files", files=parts)
        assert started.status_code == 302
        location = started.headers["Location"]
        assert location.startswith(f"{service.together_url}/uploads/{started.headers['X-Together-File-Id']}?")
        assert client.put(location, content=b"data").text.count("auth mechanism") == 1
        assert "checksum" in bare.put(location, content=b"data").text
        assert bare.put(f"{service.together_url}/uploads/nobody", content=b"data").status_code == 403
        assert client.post("/v1/files/nobody/preprocess").status_code == 404
        assert client.post("/v1/files", files={"purpose": (None, "batch-api")}).status_code == 400
        assert client.post("/v1/files", json={}).status_code == 400


def test_one_shot_upload(service: LocalService, together: Together) -> None:
    data = b'{"custom_id": "a\r\n--b"}\n'
    with wire(service) as client:
        fields = {"purpose": "batch-api", "file_name": "x.jsonl"}
        answer = client.post("/v1/files/upload", data=fields, files={"file": ("x.jsonl", data)}).json()
    assert together.files.content(answer["id"]).read() == data


def test_the_same_content_is_the_same_file(service: LocalService, together: Together, tmp_path: Path) -> None:
    data = jsonl(together_rows(1))
    first = together_upload(together, data)
    assert together_upload(together, data, "another-name.jsonl") == first
    path = tmp_path / "third.jsonl"
    path.write_bytes(data)
    with pytest.raises(FileAlreadyExistsError):
        together.files.upload(path, purpose="batch-api", raise_if_already_exists=True)
    with together_client(service, "another-key") as other:
        assert together_upload(other, data) != first
    service.world.deduplicate = False
    assert together_upload(together, data) != first
    together.files.delete(first)
    with pytest.raises(sdk.NotFoundError):
        together.files.retrieve(first)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (jsonl(together_rows(1)) + b"{torn", "Failed to calculate tokens: input format error: Line 2 (within chunk):"),
        (b'{"body": {}}\n', "missing 'custom_id'"),
        (b'{"custom_id": "a"}\n', "missing 'body'"),
        (jsonl(together_rows(2, "gone/model")), "Invalid model ID: Unable to access non-serverless model gone/model"),
        (b"\n", "0 requests"),
    ],
)
def test_validation_fails_the_whole_job(service: LocalService, together: Together, data: bytes, error: str) -> None:
    service.world.gone_models.add("gone/model")
    job = together.batches.retrieve(together_create(together, together_upload(together, data)))
    assert job.status == "FAILED"
    assert error in str(job.error)
    assert not job.output_file_id
    assert not job.error_file_id


def test_an_unknown_input_file_fails_the_job_and_not_the_create(together: Together) -> None:
    job = together.batches.retrieve(together_create(together, "file-nobody"))
    assert job.status == "FAILED"
    assert "404" in str(job.error)


def test_single_bad_rows_go_to_the_error_file(service: LocalService, together: Together) -> None:
    service.world.gone_models.add("gone/model")
    rows = together_rows(4)
    rows[1]["body"]["model"] = "gone/model"
    del rows[2]["body"]["model"]
    rows[3]["body"]["stop"] = ["a", "b", "c", "d", "e"]
    job = together.batches.retrieve(together_create(together, together_upload(together, jsonl(rows))))
    assert job.status == "COMPLETED"
    assert job.output_file_id
    assert job.error_file_id
    assert by_key(together.files.content(job.output_file_id).read(), "custom_id").keys() == {"k0"}
    failed = by_key(together.files.content(job.error_file_id).read(), "custom_id")
    assert {row["error"]["code"] for row in failed.values()} == {"batch_client_error"}
    assert "non-serverless" in failed["k1"]["error"]["message"]
    assert "missing 'model'" in failed["k2"]["error"]["message"]
    assert "four stop" in failed["k3"]["error"]["message"]
    assert all("response" not in row for row in failed.values())


def test_cancel_keeps_what_is_finished(service: LocalService, together: Together) -> None:
    service.world.job_seconds = 100
    job = together_job(together, 10)
    service.world.advance(60)
    assert str(together.batches.cancel(job).status) == "CANCELING"  # a value that the SDK's types do not have
    assert str(together.batches.retrieve(job).status) == "CANCELING"
    service.world.advance(15)
    assert together.batches.retrieve(job).status == "CANCELLED"
    assert len(parsed(together_output(together, job))) == 5
    with pytest.raises(sdk.ConflictError, match="already in terminal state: CANCELLED"):
        together.batches.cancel(job)


def test_cancelled_in_validation_there_is_no_file(service: LocalService, together: Together) -> None:
    service.world.job_seconds = 100
    job = together_job(together, 10)
    together.batches.cancel(job)
    service.world.advance(15)
    assert together.batches.retrieve(job).output_file_id is None


def test_nothing_of_another_keys_is_visible(service: LocalService, together: Together) -> None:
    job = together_job(together)
    output = str(together.batches.retrieve(job).output_file_id)
    with together_client(service, "another-key") as other:
        assert other.batches.list() == []
        assert other.files.list().data == []
        for call in (
            lambda: other.batches.retrieve(job),
            lambda: other.batches.cancel(job),
            lambda: other.files.content(output),
        ):
            with pytest.raises(sdk.NotFoundError):
                call()


def test_a_key_that_is_not_valid(service: LocalService, together: Together) -> None:
    service.world.valid_keys = {"some-other-key"}
    with pytest.raises(sdk.AuthenticationError):
        together.batches.list()


def test_too_many_jobs(service: LocalService, together: Together) -> None:
    service.world.job_seconds = 100
    service.world.max_active_jobs = 1
    together_job(together, 1)
    with pytest.raises(sdk.RateLimitError):
        together_job(together, 2)


def test_chat_and_models(service: LocalService, together: Together) -> None:
    service.world.gone_models.add("gone/model")
    messages = [{"role": "user", "content": "hi"}]
    answer = together.chat.completions.create(model=LLAMA, messages=messages, max_tokens=1)  # type: ignore[arg-type]
    assert answer.choices[0].message
    with pytest.raises(sdk.BadRequestError, match="non-serverless"):
        together.chat.completions.create(model="gone/model", messages=messages, max_tokens=1)  # type: ignore[arg-type]
    with pytest.raises(sdk.BadRequestError):
        together.chat.completions.create(model=LLAMA, messages=[], max_tokens=1)
    with wire(service) as client:
        assert LLAMA in [model["id"] for model in client.get("/v1/models").json()]


def test_the_default_sdk_creates_three_jobs_where_ours_creates_one(service: LocalService) -> None:
    # What the pipeline must avoid: the SDK retries a create call whose response was lost, and buys again.
    from batchgen.emulator.faults import CallFault, Drop

    service.faults.add(CallFault(endpoint="create", action=Drop(), after_effect=True, times=2))
    with Together(api_key=KEY, base_url=service.together_url, max_retries=2, timeout=5) as client:
        source = together_upload(client, jsonl(together_rows(1)))
        client._calculate_retry_timeout = lambda *_a, **_k: 0.0  # type: ignore[method-assign]
        together_create(client, source)
    assert service.world.batches_bought == 3
    assert [post.retry for post in service.world.posts] == ["0", "1", "2"]
