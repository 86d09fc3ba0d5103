"""The part of the Gemini Developer API that batches need, under /v1 and /v1beta.

Sources: ai.google.dev/gemini-api/docs/batch-api, /files and /rate-limits (read 2026-11), the requests of google-genai
3.4.0, and operations that users recorded in 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from batchgen.emulator.engine import cancel_job, poll_scripted_state
from batchgen.emulator.errors import ApiError
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.protocols.gemini_files import (
    download,
    file_delete,
    file_get,
    file_list,
    get_page,
    list_body,
    require_file,
    upload_data,
    upload_start,
)
from batchgen.emulator.protocols.gemini_rows import generate_content_response, line_problem, parse_prompt
from batchgen.emulator.routing import Call, Route, Router
from batchgen.emulator.state import Job, World, rfc3339

TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
JOB_ID_LENGTH = 36
PHASE_STATES = {
    "pending": "BATCH_STATE_PENDING",
    "running": "BATCH_STATE_RUNNING",
    "cancelling": "BATCH_STATE_CANCELLED",
}
END_ERRORS = {
    "FAILED": {"code": 13, "message": "An internal error has occurred."},
    "CANCELLED": {"code": 13, "message": "Batch was cancelled."},
    "EXPIRED": {"code": 4, "message": "The batch has expired."},
}


def handle(request: Request, world: World) -> Response:
    """Answer one request of the google-genai SDK."""
    return ROUTER.handle(request, world)


def _invalid_key_error(key: str) -> ApiError:
    if not key:
        return ApiError(403, "Method doesn't allow unregistered callers (callers without established identity).")
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    return ApiError(400, "API key not valid. Please pass a valid API key.", details=[info])


def create(call: Call) -> Response:
    world = call.world
    batch = call.request.json().get("batch", {})
    model = call.ids["model"]
    _require_served(call)
    name = str(_input_config(batch).get("fileName") or _input_config(batch).get("file_name") or "")
    if not name.startswith("files/"):
        raise ApiError(400, "* BatchGenerateContentRequest.batch.input_config: a file name is required.")
    file = require_file(call._replace(ids={"id": name.removeprefix("files/")}))
    if world.now() < file.active_at:
        raise ApiError(400, f"The File {file.id} is not in an ACTIVE state and usage is not allowed.")
    lines, keys = _check_lines(world.lines(file))
    active = sum(job.owner == call.owner and job.provider == "gemini" for job in world.active_jobs())
    if world.max_active_jobs and active >= world.max_active_jobs:
        raise ApiError(429, "You exceeded your current quota, please check your plan and billing details.")
    job = Job(
        id=world.new_id(JOB_ID_LENGTH),
        provider="gemini",
        owner=call.owner,
        model=model,
        name=str(batch.get("displayName") or batch.get("display_name") or ""),
        input_file=file.id,
        sha256=file.sha256,
        size=file.size,
        serial=world.serial,
        created=world.now() + world.late_seconds,
        keys=keys,
    )
    world.add_job(job, lines)
    return json_response(_operation(world, job, polled=False))


def _input_config(batch: dict[str, Any]) -> dict[str, Any]:
    return batch.get("inputConfig") or batch.get("input_config") or {}


def _check_lines(lines: Sequence[bytes]) -> tuple[Sequence[bytes], list[str]]:
    """Return the request lines and their keys. Raises ApiError 400 that names every bad line."""
    checked = [(number, line_problem(line)) for number, line in enumerate(lines, 1)]
    problems = [f"Error on line {number}: {problem}" for number, problem in checked if problem]
    if problems or not lines:
        raise ApiError(400, "\n".join(problems) or "The input file is empty.")
    return lines, [str(orjson.loads(line).get("key", "")) for line in lines]


def _require_job(call: Call) -> Job:
    job = call.world.job("gemini", call.owner, call.ids["id"])
    if job is None:
        raise ApiError(404, "Requested entity was not found.")
    return job


def get(call: Call) -> Response:
    return json_response(_operation(call.world, _require_job(call)))


def list_jobs(call: Call) -> Response:
    page, token = get_page(call, call.world.jobs_of("gemini", call.owner))
    return json_response(list_body("operations", [_operation(call.world, job, listed=True) for job in page], token))


def cancel_batch(call: Call) -> Response:
    job = _require_job(call)
    if job.phase == "ended":
        raise ApiError(400, "The batch has already ended.", code="FAILED_PRECONDITION")
    cancel_job(call.world, job)
    return json_response({})


def delete(call: Call) -> Response:
    job = _require_job(call)
    if job.phase != "ended":
        cancel_job(call.world, job)
    job.deleted = True
    call.world.save(job)
    return json_response({})


def _operation(world: World, job: Job, *, polled: bool = True, listed: bool = False) -> dict[str, Any]:
    """Return the operation as JSON for now; while scripted states are left it shows only the scripted state."""
    scripted, raw = poll_scripted_state(world, job) if polled else (False, None)
    ended = job.phase == "ended" and not scripted
    state = raw if scripted else job.state if ended else PHASE_STATES[job.phase]
    metadata = _metadata(world, job, ended=ended) | ({"state": state} if state else {})
    operation: dict[str, Any] = {"name": f"batches/{job.id}", "metadata": metadata}
    if scripted:
        return operation
    if ended:
        operation["done"] = True
        metadata["endTime"] = rfc3339(job.ended_at)
        _add_results(world, job, operation, listed=listed)
    late = not ended and job.phase == "cancelling"
    failed = next((end for end in END_ERRORS if (state or "").endswith(end)), "")
    if (ended or late) and (failed or job.error):
        operation |= {"done": True, "error": job.error or END_ERRORS[failed]}
    return operation


def _metadata(world: World, job: Job, *, ended: bool) -> dict[str, Any]:
    counts = {"requestCount": len(job.keys)}
    if ended:
        counts |= {"successfulRequestCount": job.served, "failedRequestCount": job.failed}
    else:
        counts |= {"pendingRequestCount": len(job.keys) - job.served}
    return {
        "@type": TYPE,
        "model": f"models/{job.model}",
        "displayName": job.name,
        "inputConfig": {"fileName": f"files/{job.input_file}"},
        "createTime": rfc3339(job.created),
        "updateTime": rfc3339(max(job.created, min(world.now(), job.ended_at or world.now()))),
        "batchStats": {name: str(count) for name, count in counts.items() if count},  # int64: strings, zeros omitted
        "name": f"batches/{job.id}",
    }


def _add_results(world: World, job: Job, operation: dict[str, Any], *, listed: bool) -> None:
    if not job.output or job.plan.output == "none" or world.now() < job.ended_at + job.plan.output_after_seconds:
        return
    where: dict[str, Any] = {"responsesFile": f"files/{job.output}"}
    if job.plan.output == "inline":
        where = {"inlinedResponses": {"inlinedResponses": [] if listed else _inline(world, job)}}
    if job.plan.output != "response":
        operation["metadata"]["output"] = where
    if job.plan.output != "metadata":
        operation["response"] = {"@type": f"{TYPE}Output", **where}


def _inline(world: World, job: Job) -> list[dict[str, Any]]:
    """Return the rows of an inline job: the key is in metadata."""
    rows = [orjson.loads(line) for line in world.lines(world.files["gemini", job.output])]
    return [{**row, "metadata": {"key": row.pop("key", "")}} for row in rows]


# Models


def _require_served(call: Call) -> None:
    model = call.ids["model"]
    if not call.world.serves(model):
        what = f"models/{model} is not found for API version v1beta, or is not supported for batchGenerateContent."
        raise ApiError(404, f"{what} Call ModelService.ListModels to see the list of available models.")


def probe(call: Call) -> Response:
    _require_served(call)
    return json_response(
        generate_content_response(call.world.answer(parse_prompt(call.request.json())), call.ids["model"])
    )


def _model(name: str) -> dict[str, Any]:
    methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}


def models(call: Call) -> Response:
    names = call.world.served_models or {f"gemini-{version}-flash-lite" for version in ("2.5", "3.1", "3.5")}
    return json_response({"models": [_model(name) for name in sorted(names - call.world.gone_models)]})


def model(call: Call) -> Response:
    _require_served(call)
    return json_response(_model(call.ids["model"]))


V = "/(?:v1|v1beta)"
ROUTER = Router(
    provider="gemini",
    routes=(
        Route("POST", f"/upload{V}/files", "upload_data", upload_data, query="upload_id", keyless=True),
        Route("POST", f"/upload{V}/files", "upload_start", upload_start),
        Route("GET", f"{V}/files", "file_list", file_list),
        Route("GET", f"(?:/download)?{V}/files/(?P<id>[^/:]+):download", "download", download),
        Route("GET", f"{V}/files/(?P<id>[^/:]+)", "file_get", file_get),
        Route("DELETE", f"{V}/files/(?P<id>[^/:]+)", "file_delete", file_delete),
        Route("POST", f"{V}/models/(?P<model>[^/:]+):batchGenerateContent", "create", create),
        Route("GET", f"{V}/batches", "list", list_jobs),
        Route("GET", f"{V}/batches/(?P<id>[^/:]+)", "get", get),
        Route("POST", f"{V}/batches/(?P<id>[^/:]+):cancel", "cancel", cancel_batch),
        Route("DELETE", f"{V}/batches/(?P<id>[^/:]+)", "delete", delete),
        Route("POST", f"{V}/models/(?P<model>[^/:]+):generateContent", "probe", probe, unlocked=True),
        Route("GET", f"{V}/models", "models", models),
        Route("GET", f"{V}/models/(?P<model>[^/:]+)", "models", model),
    ),
    key_of=lambda request: request.headers.get("x-goog-api-key", "") or request.query.get("key", ""),
    refused=_invalid_key_error,
)
