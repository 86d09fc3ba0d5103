"""Lines of the batch files of OpenAI's shape, and what the check of an input file finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from batchgen.emulator.backends.builtin import Answer
from batchgen.emulator.faults import RowFault
from batchgen.emulator.protocols import chat_rows
from batchgen.emulator.protocols.row_format import Row, RowFormat
from batchgen.emulator.services import SERVICES, Service

BAD_REQUEST, INTERNAL = 400, 500
MAX_ERRORS = 100  # of one batch; no document names a number


def error_item(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    """Return one item of errors.data of a failed batch; lines are counted from 0."""
    return {"code": code, "message": message, "line": line, "param": param}


def error_list(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(items)}


def job_problem(service: Service, lines: Sequence[bytes], serves: Callable[[str], bool], endpoint: str) -> Any:
    """Return the errors of an input file, "" if it has none. One bad line fails the whole batch."""
    if not lines:
        return error_list([error_item("invalid_line", "The input file is empty.")])
    if len(lines) > service.max_lines:
        return error_list([error_item("invalid_line", f"{len(lines)} lines; at most {service.max_lines} are allowed.")])
    found = [
        problem for _, problem in zip(range(MAX_ERRORS), _problems(service, lines, serves, endpoint), strict=False)
    ]
    return error_list(found) if found else ""


def _problems(
    service: Service, lines: Sequence[bytes], serves: Callable[[str], bool], endpoint: str
) -> Iterator[dict[str, Any]]:
    keys: set[str] = set()
    model: str | None = None
    for number, line in enumerate(lines):
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield error_item("invalid_json", f"This line is not valid JSON: {error}.", number)
            continue
        if problem := _line_problem(service, value, endpoint):
            param, message = problem
            yield error_item("invalid_line", message, number, param)
            continue
        key, asked = value["custom_id"], value["body"]["model"]
        if key in keys:
            yield error_item("duplicate_custom_id", f"The custom_id {key!r} is used twice.", number, "custom_id")
        keys.add(key)
        if model is None:
            model = asked
            if not serves(asked):
                yield error_item("unknown_model", f"The model {asked!r} does not exist.", number, "body.model")
        elif asked != model:
            yield error_item("model_mismatch", f"The file has {model!r} and {asked!r}.", number, "body.model")


def _line_problem(service: Service, value: Any, endpoint: str) -> tuple[str, str] | None:
    """Return (the member that is wrong, the message) of a parsed line; None if all is well."""
    line = value if isinstance(value, dict) else {}
    key, body = line.get("custom_id"), line.get("body")
    if not isinstance(key, str) or not key:
        return "custom_id", "custom_id is missing or not a text."
    if service.max_custom_id and len(key) > service.max_custom_id:
        return "custom_id", f"custom_id is longer than {service.max_custom_id} characters."
    if line.get("method") != "POST":
        return "method", "method must be POST."
    if line.get("url") != endpoint:
        return "url", f"url must be the endpoint of the batch, {endpoint}."
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return "body", "body must be an object with a model."
    return ("body.stream", "stream is not supported in a batch.") if body.get("stream") else None


def _row_problem(body: Row, serves: Callable[[str], bool]) -> str:
    if not serves(body["model"]):
        return f"The model {body['model']!r} does not exist."
    return "" if body.get("messages") else "messages must be a non-empty array"


def _identity(key: str) -> str:
    return f"batch_req_{blake2b(key.encode(), digest_size=9).hexdigest()}"


def answered_row(key: str, model: str, answer: Answer) -> Row:
    """Return the line of an answered row: output file."""
    response = {
        "status_code": 200,
        "request_id": blake2b(key.encode(), digest_size=12).hexdigest(),
        "body": chat_rows.completion(answer, model, 0),
    }
    return {"id": _identity(key), "custom_id": key, "response": response, "error": None}


def failed_row(key: str, message: str, status: int) -> Row:
    """Return the line of a row that was not answered: error file. The code is a text."""
    return {
        "id": _identity(key),
        "custom_id": key,
        "response": None,
        "error": {"code": str(status), "message": message},
    }


def has_failed(line: Row) -> bool:
    """Return whether a line belongs in the error file."""
    status = (line.get("response") or {}).get("status_code", 200)
    return line.get("error") is not None or status >= BAD_REQUEST


def _error(old: Row, fault: RowFault) -> Row:
    message = "Internal Server Error" if fault.message is None else fault.message
    return failed_row(old["custom_id"], message, fault.code or INTERNAL)


def _thoughts_and_cache(old: Row, fault: RowFault) -> Row:
    """Add usage: half of the prompt came from a cache; seven reasoning tokens are part of the completion."""
    _ = fault
    body = old["response"]["body"]
    usage: Row = dict(chat_rows.usage_with_thoughts(body["usage"]))
    usage["prompt_tokens_details"] = {"cached_tokens": usage["prompt_tokens"] // 2}
    usage["completion_tokens_details"] = {"reasoning_tokens": 7}
    return chat_rows.with_body(old, {**body, "usage": usage})


def row_format(name: str) -> RowFormat:
    """Return the line format of one service."""
    return RowFormat(
        key_field="custom_id",
        body_field="body",
        prompt=chat_rows.parse_prompt,
        job_problem=lambda lines, serves, endpoint: job_problem(SERVICES[name], lines, serves, endpoint),
        refusal=_row_problem,
        row=answered_row,
        failed_row=failed_row,
        cancelled=lambda _: None,  # finished rows are returned, the others appear nowhere
        failed=has_failed,
        errors_apart=True,
        edits={**chat_rows.EDITS, "error": _error, "status": _error, "thoughts_and_cache": _thoughts_and_cache},
    )
