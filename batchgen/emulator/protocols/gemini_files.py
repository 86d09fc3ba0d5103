"""The part of the Gemini Files API that batches need: resumable uploads, files, downloads, and paged lists.

Sources: ai.google.dev/gemini-api/docs/files (read 2026-11), and the requests of google-genai 3.4.0.
"""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Any, TypeVar

from batchgen.emulator.errors import ApiError
from batchgen.emulator.http_values import Response, json_response
from batchgen.emulator.routing import Call
from batchgen.emulator.state import Job, StoredFile, Upload, World, rfc3339

Item = TypeVar("Item", StoredFile, Job)

FILE_SECONDS = 48 * 3600.0  # after this time the provider deletes an upload
FILE_ID_LENGTH = 12
MAX_FILE_ID = 40
CHUNK = "8388608"
UPLOAD_STATUS = "X-Goog-Upload-Status"


def upload_start(call: Call) -> Response:
    headers = call.request.headers
    if headers.get("x-goog-upload-protocol") != "resumable" or "start" not in headers.get("x-goog-upload-command", ""):
        raise ApiError(400, "X-Goog-Upload-Protocol: resumable and X-Goog-Upload-Command: start are required.")
    declared = headers.get("x-goog-upload-header-content-length", "")
    if not declared.isdigit():
        raise ApiError(400, "X-Goog-Upload-Header-Content-Length is required.")
    file = call.request.json().get("file", {})
    name = str(file.get("name", "")).removeprefix("files/")
    if name and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise ApiError(400, f"* CreateFileRequest.file.name: invalid name {name}.")
    if name and call.world.file("gemini", call.owner, name):
        raise ApiError(409, f"Requested entity already exists: files/{name}")
    identity = call.world.new_id(24)
    call.world.uploads[identity] = Upload(
        provider="gemini",
        owner=call.owner,
        name=file.get("display_name") or file.get("displayName") or "",
        identity=name or call.world.new_id(FILE_ID_LENGTH),
        mime_type=headers.get("x-goog-upload-header-content-type") or file.get("mime_type", ""),
        declared=int(declared),
    )
    url = f"{call.request.origin()}{call.request.path}?upload_id={identity}&upload_protocol=resumable"
    answer = {"X-Goog-Upload-URL": url, UPLOAD_STATUS: "active", "X-Goog-Upload-Chunk-Granularity": CHUNK}
    return json_response({}, headers=answer)


def upload_data(call: Call) -> Response:
    headers = call.request.headers
    identity = call.request.query["upload_id"]
    upload = call.world.uploads.get(identity)
    final = {UPLOAD_STATUS: "final"}  # without it the SDK repeats the chunk, for any HTTP status
    if upload is None:
        raise ApiError(404, "Upload not found.", headers=final)
    commands = [part.strip() for part in headers.get("x-goog-upload-command", "").split(",")]
    if "query" in commands:
        return json_response(
            {}, headers={UPLOAD_STATUS: "active", "X-Goog-Upload-Size-Received": str(len(upload.data))}
        )
    if "upload" in commands:
        if headers.get("x-goog-upload-offset") != str(len(upload.data)):
            raise ApiError(400, f"Offset does not match the {len(upload.data)} bytes received.", headers=final)
        upload.data += call.request.body
    if "finalize" not in commands:
        return json_response({}, headers={UPLOAD_STATUS: "active"})
    del call.world.uploads[identity]
    if len(upload.data) != upload.declared:
        raise ApiError(400, f"{len(upload.data)} bytes received, {upload.declared} declared.", headers=final)
    return _finalise(call.world, upload, final)


def _finalise(world: World, upload: Upload, headers: dict[str, str]) -> Response:
    if upload.mime_type in world.refused_mime_types:
        message = f"Unsupported MIME type: {upload.mime_type}"
        if world.mime_refusal == "400":
            raise ApiError(400, message, headers=headers)
        return json_response(
            {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}, headers=headers
        )
    data = bytes(upload.data)
    now = world.now()
    file = StoredFile(
        id=upload.identity,
        provider="gemini",
        owner=upload.owner,
        name=upload.name,
        mime_type=upload.mime_type,
        size=len(data),
        sha256=sha256(data).hexdigest(),
        created=now,
        active_at=now + world.file_processing_seconds,
        expires=now + FILE_SECONDS,
    )
    return json_response({"file": _file_json(world, world.add_file(file, data))}, headers=headers)


def _file_json(world: World, file: StoredFile) -> dict[str, Any]:
    body = {
        "name": f"files/{file.id}",
        "mimeType": file.mime_type,
        "sizeBytes": str(file.size),
        "createTime": rfc3339(file.created),
        "updateTime": rfc3339(file.created),
        "expirationTime": rfc3339(file.expires),
        "sha256Hash": base64.b64encode(file.sha256.encode()).decode(),  # Base64 of the hex digest
        "uri": f"https://generativelanguage.googleapis.com/v1beta/files/{file.id}",
        "state": "ACTIVE" if world.now() >= file.active_at else "PROCESSING",
        "source": "UPLOADED",
    }
    return {**body, "displayName": file.name} if file.name else body


def require_file(call: Call, request_name: str = "") -> StoredFile:
    identity = call.ids["id"]
    if request_name and len(identity) > MAX_FILE_ID:
        where = f"* {request_name}.name: File ID (name excluding 'files/') "
        raise ApiError(400, f"{where}cannot be more than {MAX_FILE_ID} characters.\n")
    file = call.world.file("gemini", call.owner, identity)
    if file is None:
        what = f"access the File {identity} or it may not exist."
        raise ApiError(403, f"You do not have permission to {what}")
    return file


def file_get(call: Call) -> Response:
    return json_response(_file_json(call.world, require_file(call, "GetFileRequest")))


def file_delete(call: Call) -> Response:
    call.world.remove_file(require_file(call, "DeleteFileRequest"))
    return json_response({})


def file_list(call: Call) -> Response:
    files = [file for file in call.world.files_of("gemini", call.owner) if len(file.id) <= MAX_FILE_ID]
    page, token = get_page(call, files)
    return json_response(list_body("files", [_file_json(call.world, file) for file in page], token))


def download(call: Call) -> Response:
    file = require_file(call)
    if not file.id.startswith("batch-"):
        raise ApiError(400, f"File {file.id} is not a generated file: only those can be downloaded.")
    return call.world.download(file, "application/octet-stream")


def get_page(call: Call, found: list[Item]) -> tuple[list[Item], str]:
    """Return one page and the token of the next. The token is the id of the last row: new rows do not move it."""
    world, query = call.world, call.request.query
    asked = query.get("pageSize", "")
    size = min(int(asked), world.page_size) if asked.isdigit() and int(asked) else world.page_size
    token = query.get("pageToken", "")
    start = 0
    if token:
        start = next((number + 1 for number, item in enumerate(found) if item.id == token), len(found))
    page = found[start : start + size]
    more = start + size < len(found) or (world.empty_last_page and page)
    return page, page[-1].id if page and more else ""


def list_body(name: str, items: list[dict[str, Any]], token: str) -> dict[str, Any]:
    body: dict[str, Any] = {name: items} if items else {}
    return {**body, "nextPageToken": token} if token else body
