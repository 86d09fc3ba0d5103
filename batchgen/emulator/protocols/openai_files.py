"""Files of the services of OpenAI's shape: one upload each, paged listings, downloads."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, TypeVar

from batchgen.emulator.errors import ApiError
from batchgen.emulator.http_values import Response, json_response
from batchgen.emulator.routing import Call
from batchgen.emulator.services import SERVICES, Service
from batchgen.emulator.state import Job, StoredFile

Item = TypeVar("Item", StoredFile, Job)

PURPOSE = "batch"
PAGE_ITEMS, MAX_PAGE_ITEMS = 20, 100


def service(call: Call) -> Service:
    """Return the row of the service that is called."""
    return SERVICES[call.ids["service"]]


def invalid(call: Call, field: str, message: str) -> ApiError:
    """Return the error for a field of a request: 422 where FastAPI checks them, otherwise 400."""
    if service(call).error_form == "detail":
        return ApiError(422, message, details=[{"type": "value_error", "loc": ["body", field], "msg": message}])
    return ApiError(400, f"{field}: {message}")


def page(call: Call, found: Sequence[Item]) -> tuple[list[Item], bool]:
    """Return the page that `after` and `limit` ask for, and whether there are more."""
    asked, after = call.request.query.get("limit", str(PAGE_ITEMS)), call.request.query.get("after", "")
    if not asked.isdecimal() or not 1 <= int(asked) <= MAX_PAGE_ITEMS:
        raise invalid(call, "limit", f"must be from 1 to {MAX_PAGE_ITEMS}")
    start = 0
    if after:
        start = next((number + 1 for number, item in enumerate(found) if item.id == after), -1)
        if start < 0:
            raise ApiError(404, f"No such item: {after}")
    end = start + min(int(asked), call.world.page_size)
    return list(found[start:end]), end < len(found)


def list_body(items: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return one page of a listing; its ends are named, because `after` takes the id of the last item."""
    ends = {"first_id": items[0]["id"] if items else None, "last_id": items[-1]["id"] if items else None}
    return {"object": "list", "data": items, **ends, "has_more": more}


def upload(call: Call) -> Response:
    rules, world, provider = service(call), call.world, call.ids["service"]
    fields = call.request.form()
    for name in ("file", "purpose"):
        if name not in fields:
            raise invalid(call, name, "Field required")
    purpose, data = fields["purpose"].decode(), fields["file"]
    if purpose != PURPOSE:
        raise ApiError(400, f"Invalid purpose {purpose!r}: it must be {PURPOSE!r}.")
    if len(data) > rules.max_bytes:
        raise ApiError(400, f"The file has {len(data)} bytes; at most {rules.max_bytes} are allowed.")
    total = sum(file.size for file in world.files_of(provider, call.owner)) + len(data)
    if rules.max_total_bytes and total > rules.max_total_bytes:
        raise ApiError(400, f"All files together have {total} bytes; at most {rules.max_total_bytes} are allowed.")
    file = StoredFile(
        id=f"file-{world.new_id(24)}",
        provider=provider,
        owner=call.owner,
        name=fields.get("file.filename", b"batch.jsonl").decode(),
        purpose=purpose,
        size=len(data),
        sha256=sha256(data).hexdigest(),
        created=world.now(),
    )
    return json_response(_file_json(world.add_file(file, data)))


def _file_json(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": int(file.expires) or None,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def require_file(call: Call, identity: str) -> StoredFile:
    """Return a file of the caller. Raises ApiError 404."""
    file = call.world.file(call.ids["service"], call.owner, identity)
    if file is None:
        raise ApiError(404, f"No such file: {identity}")
    return file


def file_get(call: Call) -> Response:
    return json_response(_file_json(require_file(call, call.ids["id"])))


def file_list(call: Call) -> Response:
    files, more = page(call, call.world.files_of(call.ids["service"], call.owner))
    return json_response(list_body([_file_json(file) for file in files], more=more))


def file_delete(call: Call) -> Response:
    file = require_file(call, call.ids["id"])
    call.world.remove_file(file)
    return json_response({"id": file.id, "object": "file", "deleted": True})


def download(call: Call) -> Response:
    return call.world.download(require_file(call, call.ids["id"]), "application/octet-stream")
