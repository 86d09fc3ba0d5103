"""Files and batches of the services of OpenAI's shape; each has a path of its own on the third port.

Below /deepinfra, /groq, ... the calls are found with and without a version in their path: /deepinfra/files,
/deepinfra/v1/files and /deepinfra/v1/openai/files are the same. What differs between the services is in `services`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from batchgen.core.jsonl import dict_or_empty
from batchgen.emulator.engine import cancel_job, has_enough_answers, poll_scripted_state, rows_to_answer, served_so_far
from batchgen.emulator.errors import ApiError
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.protocols.chat_rows import completion, custom_ids, first_model, has_messages, parse_prompt
from batchgen.emulator.protocols.openai_files import (
    PURPOSE,
    download,
    file_delete,
    file_get,
    file_list,
    invalid,
    list_body,
    page,
    require_file,
    service,
    upload,
)
from batchgen.emulator.protocols.openai_rows import error_item, error_list
from batchgen.emulator.routing import Call, Route, Router
from batchgen.emulator.services import SERVICES
from batchgen.emulator.state import PENDING_SHARE, Job, World

ENDPOINT = "/v1/chat/completions"
MAX_PAIRS, MAX_NAME, MAX_VALUE = 16, 64, 512  # of metadata
LEAST_KEPT_SECONDS, MOST_KEPT_SECONDS = 3600, 2_592_000  # output_expires_after
FINALIZING_SHARE = 0.9  # of job_seconds; what is left of them a batch is finalizing
PHASE_STATES = {"pending": "validating", "running": "in_progress", "cancelling": "cancelling"}
END_TIMES = {name: f"{name}_at" for name in ("completed", "failed", "expired", "cancelled")}
DEFAULT_MODELS = frozenset({"meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B"})


def handle(request: Request, world: World) -> Response:
    """Answer one request to any of the services."""
    name = request.path.removeprefix("/").partition("/")[0]
    if name not in ROUTERS:
        message = f"No such service: {name!r}. There are {', '.join(ROUTERS)}."
        return json_response({"error": {"message": message, "type": "not_found", "param": None, "code": None}}, 404)
    return ROUTERS[name].handle(request, world)


# Batches


def create(call: Call) -> Response:
    """Create a batch; its lines are checked later. Raises ApiError 404 for an unknown file."""
    world, provider = call.world, call.ids["service"]
    body = _create_body(call)
    file = require_file(call, body["input_file_id"])
    if file.purpose != PURPOSE:
        raise ApiError(400, f"The file {file.id} has the purpose {file.purpose!r}, not {PURPOSE!r}.")
    most = world.max_active_jobs or service(call).max_open
    if most and sum(job.owner == call.owner and job.provider == provider for job in world.active_jobs()) >= most:
        raise ApiError(429, f"Too many batches: {most} may be open at once.")
    lines = world.lines(file)
    job = Job(
        id=f"batch_{world.new_id(24)}",
        provider=provider,
        owner=call.owner,
        model=first_model(lines),
        name="",
        endpoint=body["endpoint"],
        input_file=file.id,
        sha256=file.sha256,
        size=file.size,
        serial=world.serial,
        created=world.now() + world.late_seconds,
        keys=custom_ids(lines),
        window=body["completion_window"],
        metadata=body.get("metadata"),
        result_seconds=float((body.get("output_expires_after") or {}).get("seconds", 0)),
    )
    world.add_job(job, lines)
    return json_response(_batch_json(world, job, polled=False))


def _create_body(call: Call) -> dict[str, Any]:
    """Return the body of a create call with its fields checked."""
    body = dict_or_empty(call.request.json())
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str):
            raise invalid(call, name, "Field required")
    if body["endpoint"] != ENDPOINT:
        raise invalid(call, "endpoint", f"must be {ENDPOINT}")
    windows = dict(service(call).windows)
    if body["completion_window"] not in windows:
        raise invalid(call, "completion_window", f"must be {' or '.join(windows)}")
    if problem := _metadata_problem(body.get("metadata")):
        raise invalid(call, "metadata", problem)
    if problem := _expiry_problem(body.get("output_expires_after")):
        raise invalid(call, "output_expires_after", problem)
    return body


def _metadata_problem(metadata: Any) -> str:
    if metadata is None:
        return ""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return "must be an object of texts"
    if len(metadata) > MAX_PAIRS:
        return f"has more than {MAX_PAIRS} pairs"
    too_long = any(len(name) > MAX_NAME or len(value) > MAX_VALUE for name, value in metadata.items())
    return f"a name is longer than {MAX_NAME} or a value than {MAX_VALUE} characters" if too_long else ""


def _expiry_problem(expiry: Any) -> str:
    if expiry is None:
        return ""
    seconds = dict_or_empty(expiry).get("seconds")
    if dict_or_empty(expiry).get("anchor") != "created_at" or not isinstance(seconds, int):
        return "must have the anchor created_at and a number of seconds"
    allowed = LEAST_KEPT_SECONDS <= seconds <= MOST_KEPT_SECONDS
    return "" if allowed else f"seconds must be from {LEAST_KEPT_SECONDS} to {MOST_KEPT_SECONDS}"


def _require_job(call: Call) -> Job:
    job = call.world.job(call.ids["service"], call.owner, call.ids["id"])
    if job is None:
        raise ApiError(404, f"No such batch: {call.ids['id']}")
    return job


def get(call: Call) -> Response:
    return json_response(_batch_json(call.world, _require_job(call)))


def list_batches(call: Call) -> Response:
    jobs, more = page(call, call.world.jobs_of(call.ids["service"], call.owner))
    listed = [_batch_json(call.world, job) for job in jobs]
    if not service(call).lists_metadata:
        listed = [{**batch, "metadata": None} for batch in listed]
    return json_response(list_body(listed, more=more))


def cancel_batch(call: Call) -> Response:
    job = _require_job(call)
    if job.phase == "ended":
        raise ApiError(400, f"A batch that is {job.state} cannot be cancelled.")
    cancel_job(call.world, job)
    return json_response(_batch_json(call.world, job, polled=False))


def delete(call: Call) -> Response:
    """Refuse to delete a batch: no service can."""
    _ = call
    raise ApiError(405, "Method Not Allowed")


def _batch_json(world: World, job: Job, *, polled: bool = True) -> dict[str, Any]:
    """Return the batch as shown now: every member is there, null as long as it has no value."""
    scripted, raw = poll_scripted_state(world, job) if polled else (False, None)
    ended = job.phase == "ended" and not scripted
    status = raw if scripted else job.state if ended else _phase_state(world, job)
    window = dict(SERVICES[job.provider].windows).get(job.window, 0.0)
    body: dict[str, Any] = {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model or None,
        "errors": _errors(job) if ended else None,
        "input_file_id": job.input_file,
        "completion_window": job.window,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(job.created),
        "expires_at": int(job.created + window),
        **_times(world, job, status, ended=ended),
        "request_counts": _counts(world, job, ended=ended),
        "metadata": job.metadata,
    }
    if status:
        body["status"] = status
    if ended:
        body |= _result_members(world, job)
    return body


def _phase_state(world: World, job: Job) -> str:
    if job.phase == "cancelling" and job.cancel == "late":
        return "cancelled"
    if job.phase == "running" and _is_finalizing(world, job):
        return "finalizing"
    return PHASE_STATES[job.phase]


def _is_finalizing(world: World, job: Job) -> bool:
    return world.now() >= job.created + world.job_seconds * FINALIZING_SHARE and has_enough_answers(world, job)


def _times(world: World, job: Job, status: str | None, *, ended: bool) -> dict[str, int | None]:
    """Return when a batch reached each of its states."""
    times: dict[str, int | None] = dict.fromkeys(("in_progress_at", "finalizing_at", *END_TIMES.values()))
    times["cancelling_at"] = int(job.cancelled_at) or None
    start, now = job.created + world.job_seconds * PENDING_SHARE, world.now()
    if job.phase != "pending" and job.state != "failed" and min(job.cancelled_at or now, job.ended_at or now) >= start:
        times["in_progress_at"] = int(start)
    if ended and job.state == "completed":
        times["finalizing_at"] = int(job.ended_at)
    elif status == "finalizing":
        times["finalizing_at"] = int(job.created + world.job_seconds * FINALIZING_SHARE)
    if ended and job.state in END_TIMES:
        times[END_TIMES[job.state]] = int(job.ended_at)
    return times


def _counts(world: World, job: Job, *, ended: bool) -> dict[str, int] | None:
    """Return request_counts: null or zeros until the input file is checked, and after a check that failed."""
    if job.phase == "pending" or (ended and job.state == "failed"):
        return {"total": 0, "completed": 0, "failed": 0} if SERVICES[job.provider].counts_at_first else None
    if ended:
        return {"total": len(job.keys), "completed": job.served, "failed": job.failed}
    if job.phase == "ended":  # a state script is still shown
        done = 0
    elif _phase_state(world, job) == "finalizing":
        done = rows_to_answer(job)
    else:
        done = served_so_far(world, job, world.now())
    return {"total": len(job.keys), "completed": done, "failed": 0}


def _errors(job: Job) -> Any:
    """Return `errors` of an ended batch: what the check found, or what a fault says."""
    if isinstance(job.error, Mapping) and "data" in job.error:
        return job.error
    if isinstance(job.error, list):
        return error_list(job.error)
    if job.error is None and job.state != "failed":
        return None
    return error_list([error_item("server_error", str(job.error or "Internal error"))])


def _result_members(world: World, job: Job) -> dict[str, Any]:
    if world.now() < job.ended_at + job.plan.output_after_seconds or job.plan.output == "none":
        return {}
    errors = job.errors or ("" if job.plan.empty_error_file else None)
    return {"output_file_id": job.output or None, "error_file_id": errors}


# Models


def _require_served(call: Call, model: str) -> None:
    if not call.world.serves(model):
        raise ApiError(404, f"The model {model!r} does not exist.", code="model_not_found")


def probe(call: Call) -> Response:
    """Answer a chat completion at once (`stream` is not supported)."""
    body = dict_or_empty(call.request.json())
    model = str(body.get("model", ""))
    _require_served(call, model)
    if not has_messages(body):
        raise invalid(call, "messages", "must be a non-empty array of objects")
    return json_response(completion(call.world.answer(parse_prompt(body)), model, int(call.world.now())))


def models(call: Call) -> Response:
    names = (call.world.served_models or DEFAULT_MODELS) - call.world.gone_models
    created = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())
    listed = [{"id": name, "object": "model", "created": created, "owned_by": ""} for name in sorted(names)]
    return json_response({"object": "list", "data": listed})


ID = "(?P<id>[^/]+)"


def _router(name: str) -> Router:
    base = rf"/(?P<service>{name})(?:/v\d+)?(?:/openai)?(?:/v\d+)?"
    return Router(
        provider=name,
        routes=(
            Route("POST", f"{base}/files", "upload_whole", upload),
            Route("GET", f"{base}/files", "file_list", file_list),
            Route("GET", f"{base}/files/{ID}", "file_get", file_get),
            Route("DELETE", f"{base}/files/{ID}", "file_delete", file_delete),
            Route("GET", f"{base}/files/{ID}/content", "download", download),
            Route("POST", f"{base}/batches", "create", create),
            Route("GET", f"{base}/batches", "list", list_batches),
            Route("GET", f"{base}/batches/{ID}", "get", get),
            Route("DELETE", f"{base}/batches/{ID}", "delete", delete),
            Route("POST", f"{base}/batches/{ID}/cancel", "cancel", cancel_batch),
            Route("POST", f"{base}/chat/completions", "probe", probe, unlocked=True),
            Route("GET", f"{base}/models", "models", models),
        ),
        key_of=lambda request: request.headers.get("authorization", "").removeprefix("Bearer ").strip(),
        refused=lambda _: ApiError(401, "Invalid API key.", code="invalid_api_key"),
    )


ROUTERS: Mapping[str, Router] = {name: _router(name) for name in SERVICES}
