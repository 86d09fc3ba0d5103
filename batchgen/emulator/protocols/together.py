"""Together's files and batches.

Sources: docs.together.ai/docs/inference/batch (overview, tutorial, manage; read 2026-11), the requests of together
3.1.1, and reports by users of live jobs in 2026: the 302 upload, CANCELING, the error messages.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from batchgen.emulator.engine import cancel_job, poll_scripted_state
from batchgen.emulator.errors import ApiError
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.protocols.chat_rows import custom_ids, first_model, parse_prompt
from batchgen.emulator.protocols.together_rows import completion, not_served_message
from batchgen.emulator.routing import Call, Route, Router
from batchgen.emulator.state import Job, StoredFile, Upload, World, rfc3339

MAX_FILE_BYTES = 100_000_000  # per batch (docs.together.ai/docs/inference/batch/overview)
DEADLINE_SECONDS = 24 * 3600.0
MICROSECONDS = 6
PHASE_STATES = {"pending": "VALIDATING", "running": "IN_PROGRESS", "cancelling": "CANCELING"}
DEFAULT_MODELS = frozenset({"meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B"})


def handle(request: Request, world: World) -> Response:
    """Answer one request of the together SDK."""
    return ROUTER.handle(request, world)


def _api_key(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ").strip()


# Files


def upload_start(call: Call) -> Response:
    """Answer the metadata call. The bytes go to the address in Location, which is secret and needs no key."""
    fields = call.request.form()
    name, checksum = fields.get("file_name", b"").decode(), fields.get("checksum", b"").decode()
    purpose = fields.get("purpose", b"").decode()
    if not name or not purpose:
        raise ApiError(400, "purpose and file_name are required")
    known = _same_content(call, checksum, purpose)
    if known is not None:
        # Without the header the SDK repeats the request twice before it raises the 409.
        return json_response({"file_id": known.id}, 409, {"x-should-retry": "false"})
    identity = f"file-{call.world.new_id(24)}"
    call.world.uploads[identity] = Upload(
        provider="together",
        owner=call.owner,
        name=name,
        purpose=purpose,
        mime_type=fields.get("file_type", b"jsonl").decode(),
        checksum=checksum,
    )
    location = f"{call.request.origin()}/uploads/{identity}?X-Amz-Signature={sha256(identity.encode()).hexdigest()}"
    return Response(302, {"Location": location, "X-Together-File-Id": identity})


def _same_content(call: Call, checksum: str, purpose: str) -> StoredFile | None:
    if not call.world.deduplicate or not checksum:
        return None
    files = call.world.files_of("together", call.owner)
    return next((file for file in files if (file.sha256, file.purpose) == (checksum, purpose)), None)


def upload_data(call: Call) -> Response:
    identity = call.ids["id"]
    upload = call.world.uploads.get(identity)
    if upload is None:
        raise ApiError(403, "Request has expired")
    if "authorization" in call.request.headers:
        raise ApiError(400, "Only one auth mechanism allowed")
    if sha256(call.request.body).hexdigest() != upload.checksum:
        raise ApiError(400, "The checksum you specified did not match what we received.")
    del call.world.uploads[identity]
    _save_upload(call.world, identity, upload, call.request.body, ready=False)
    return Response(200)


def _save_upload(world: World, identity: str, upload: Upload, data: bytes, *, ready: bool) -> StoredFile:
    file = StoredFile(
        id=identity,
        provider="together",
        owner=upload.owner,
        name=upload.name,
        mime_type=upload.mime_type,
        purpose=upload.purpose,
        size=len(data),
        sha256=sha256(data).hexdigest(),
        created=world.now(),
        ready=ready,
    )
    return world.add_file(file, data)


def upload_finish(call: Call) -> Response:
    file = _require_file(call)
    file.ready = True
    call.world.save(file)
    return json_response(_file_json(file))


def upload_whole(call: Call) -> Response:
    """Answer an upload in one request, which the SDK does not use."""
    fields = call.request.form()
    upload = Upload(
        provider="together",
        owner=call.owner,
        name=fields.get("file_name", b"batch.jsonl").decode(),
        purpose=fields.get("purpose", b"").decode(),
        mime_type="jsonl",
    )
    identity = f"file-{call.world.new_id(24)}"
    return json_response(_file_json(_save_upload(call.world, identity, upload, fields.get("file", b""), ready=True)))


def _file_json(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "created_at": int(file.created),
        "filename": file.name,
        "bytes": file.size,
        "purpose": file.purpose,
        "FileType": "jsonl",
        "Processed": file.ready,
        "LineCount": 0,
    }


def _require_file(call: Call) -> StoredFile:
    file = call.world.file("together", call.owner, call.ids["id"])
    if file is None:
        raise ApiError(404, f"File {call.ids['id']} not found", code="not_found")
    return file


def file_get(call: Call) -> Response:
    return json_response(_file_json(_require_file(call)))


def file_list(call: Call) -> Response:
    return json_response({"data": [_file_json(file) for file in call.world.files_of("together", call.owner)]})


def file_delete(call: Call) -> Response:
    file = _require_file(call)
    call.world.remove_file(file)
    return json_response({"id": file.id, "deleted": True})


def download(call: Call) -> Response:
    return call.world.download(_require_file(call), "text/plain; charset=utf-8")


# Batches


def create(call: Call) -> Response:
    """Create a job without any check: an unknown file or model fails the job when it starts."""
    world = call.world
    body = call.request.json()
    identity = str(body.get("input_file_id") or "")
    if not identity or not body.get("endpoint"):
        raise ApiError(400, "input_file_id and endpoint are required")
    active = sum(job.owner == call.owner and job.provider == "together" for job in world.active_jobs())
    if world.max_active_jobs and active >= world.max_active_jobs:
        raise ApiError(429, "You have reached the rate limit: too many batches in progress")
    file = world.file("together", call.owner, identity)
    lines = world.lines(file) if file else []
    job = Job(
        id=_uuid(world),
        provider="together",
        owner=call.owner,
        model=first_model(lines),
        name="",
        endpoint=str(body["endpoint"]),
        input_file=identity,
        sha256=file.sha256 if file else "",
        size=file.size if file else 0,
        serial=world.serial,
        created=world.now() + world.late_seconds,
        keys=custom_ids(lines),
        error=_file_problem(identity, file),
    )
    world.add_job(job, lines)
    return json_response({"job": _job_json(world, job, polled=False)}, 201)


def _uuid(world: World) -> str:
    digits = sha256(world.new_id(24).encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"


def _file_problem(identity: str, file: StoredFile | None) -> str | None:
    if file is None:
        return f"Failed to download input file: {identity}: 404 File not found"
    if file.size > MAX_FILE_BYTES:
        return f"Failed to calculate tokens: input format error: file larger than {MAX_FILE_BYTES} bytes"
    return None


def _require_job(call: Call) -> Job:
    job = call.world.job("together", call.owner, call.ids["id"])
    if job is None:
        raise ApiError(404, "Job not found")
    return job


def get(call: Call) -> Response:
    return json_response(_job_json(call.world, _require_job(call)))


def list_jobs(call: Call) -> Response:
    return json_response([_job_json(call.world, job) for job in call.world.jobs_of("together", call.owner)])


def cancel_batch(call: Call) -> Response:
    job = _require_job(call)
    if job.phase == "ended":
        raise ApiError(409, f"Cannot cancel job - already in terminal state: {job.state}")
    cancel_job(call.world, job)
    return json_response(_job_json(call.world, job, polled=False))


def _job_json(world: World, job: Job, *, polled: bool = True) -> dict[str, Any]:
    """Return the job as JSON for now, without members that have no value yet; it never has counters."""
    scripted, raw = poll_scripted_state(world, job) if polled else (False, None)
    ended = job.phase == "ended" and not scripted
    late = job.phase == "cancelling" and job.plan.cancel == "late"
    status = raw if scripted else job.state if ended else "CANCELLED" if late else PHASE_STATES[job.phase]
    body: dict[str, Any] = {
        "id": job.id,
        "user_id": job.owner,
        "input_file_id": job.input_file,
        "file_size_bytes": job.size,
        "job_deadline": rfc3339(job.created + DEADLINE_SECONDS, MICROSECONDS),
        "created_at": rfc3339(job.created, MICROSECONDS),
        "endpoint": job.endpoint,
        "progress": 100.0 if ended and job.served + job.failed else 0.0,
    }
    if status:
        body["status"] = status
    if job.phase != "pending" and job.model:
        body["model_id"] = job.model
    if ended:
        body |= _end_members(world, job)
    return body


def _end_members(world: World, job: Job) -> dict[str, Any]:
    members: dict[str, Any] = {"completed_at": rfc3339(job.ended_at, MICROSECONDS)}
    if world.now() >= job.ended_at + job.plan.output_after_seconds and job.plan.output != "none":
        members["output_file_id"] = job.output
        members["error_file_id"] = job.errors
    members["error"] = job.error or ("Internal error" if job.state == "FAILED" else "")
    kept = {name: value for name, value in members.items() if value}
    return kept | ({"error_file_id": ""} if job.plan.empty_error_file and not job.errors else {})


# Models


def probe(call: Call) -> Response:
    """Answer a chat completion at once (`stream` is not supported)."""
    body = call.request.json()
    model = str(body.get("model", ""))
    if not call.world.serves(model):
        raise ApiError(400, not_served_message(model), code="model_not_available")
    if not body.get("messages"):
        raise ApiError(400, "messages must be a non-empty array")
    return json_response(completion(call.world.answer(parse_prompt(body)), model, int(call.world.now())))


def models(call: Call) -> Response:
    names = call.world.served_models or DEFAULT_MODELS  # models that are gone are listed too, as at the real provider
    created = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
    listed = [
        {"id": name, "object": "model", "created": created, "type": "chat", "display_name": name, "organization": ""}
        for name in sorted(names)
    ]
    return json_response(listed)


ID = "(?P<id>[^/]+)"
ROUTER = Router(
    provider="together",
    routes=(
        Route("POST", "/v1/files", "upload_start", upload_start),
        Route("PUT", f"/uploads/{ID}", "upload_data", upload_data, keyless=True),
        Route("POST", f"/v1/files/{ID}/preprocess", "upload_finish", upload_finish),
        Route("POST", "/v1/files/upload", "upload_whole", upload_whole),
        Route("GET", "/v1/files", "file_list", file_list),
        Route("GET", f"/v1/files/{ID}", "file_get", file_get),
        Route("DELETE", f"/v1/files/{ID}", "file_delete", file_delete),
        Route("GET", f"/v1/files/{ID}/content", "download", download),
        Route("POST", "/v1/batches", "create", create),
        Route("GET", "/v1/batches", "list", list_jobs),
        Route("GET", f"/v1/batches/{ID}", "get", get),
        Route("POST", f"/v1/batches/{ID}/cancel", "cancel", cancel_batch),
        Route("POST", "/v1/chat/completions", "probe", probe, unlocked=True),
        Route("GET", "/v1/models", "models", models),
    ),
    key_of=_api_key,
    refused=lambda _: ApiError(401, "Invalid API key provided. You can find your API key at https://api.together.ai."),
)
