"""Lines of Together batch files (docs.together.ai/docs/inference/batch/tutorial and /manage, read 2026-11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

import orjson

from batchgen.emulator.backends.builtin import Answer
from batchgen.emulator.faults import RowFault
from batchgen.emulator.protocols import chat_rows
from batchgen.emulator.protocols.row_format import Row, RowFormat

CLIENT_ERROR = "batch_client_error"  # the only code observed so far, also for errors of the provider
MAX_STOPS = 4


def not_served_message(model: str) -> str:
    """Return Together's message for a model that it does not serve (any more)."""
    return (
        f"Unable to access non-serverless model {model}. Please visit https://api.together.ai/models/{model} "
        "to create and start a new dedicated endpoint for the model."
    )


MAX_REQUESTS = 50_000  # per batch (docs.together.ai/docs/inference/batch/overview)
MAX_LINE_BYTES = 10_000_000


def job_problem(lines: Sequence[bytes], serves: Callable[[str], bool], endpoint: str) -> str:
    """Return why the whole job fails in validation, "" if it does not."""
    _ = endpoint
    if not lines or len(lines) > MAX_REQUESTS:
        return f"Failed to calculate tokens: input format error: {len(lines)} requests, 1 to {MAX_REQUESTS} allowed"
    models: set[str] = set()
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_BYTES:
            return "error reading input file"
        problem, model = _line_problem(line)
        if problem:
            return f"Failed to calculate tokens: input format error: Line {number} (within chunk): {problem}"
        models.add(model)
    if not any(serves(model) for model in models if model) and any(models):
        return f"Invalid model ID: {not_served_message(min(model for model in models if model))}"
    return ""


def _line_problem(line: bytes) -> tuple[str, str]:
    """Return (what is wrong with a line, its model)."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"Invalid JSON format - {error}", ""
    if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
        return "missing 'custom_id' field or not a string", ""
    body = value.get("body")
    if not isinstance(body, dict):
        return "missing 'body' field or not an object", ""
    model = body.get("model")
    return "", model if isinstance(model, str) else ""


def row_problem(body: Row, serves: Callable[[str], bool]) -> str:
    """Return why a row goes to the error file, "" if it is answered."""
    model = body.get("model")
    if not isinstance(model, str):
        return "missing 'model' field in body or not a string"
    if not serves(model):
        return not_served_message(model)
    stops = body.get("stop")
    if isinstance(stops, list) and len(stops) > MAX_STOPS:
        return "Maximum four stop sequences allowed"
    return "" if body.get("messages") else "messages must be a non-empty array"


def completion(answer: Answer, model: str, created: int) -> Row:
    """Return a chat.completion object with the members that Together adds."""
    body = chat_rows.completion(answer, model, created)
    choice = body["choices"][0] | {"seed": None}
    return body | {"prompt": [], "choices": [choice]}


def _identity(key: str) -> str:
    return f"br_{blake2b(key.encode(), digest_size=9).hexdigest()}"


def answered_row(key: str, model: str, answer: Answer) -> Row:
    """Return the line of an answered row, for the output file: status_code 200."""
    response = {"status_code": 200, "body": completion(answer, model, 0)}
    return {"id": _identity(key), "custom_id": key, "response": response}


def failed_row(key: str, message: str, status: int = 500) -> Row:
    """Return the line of a row that was not answered: error file. The code is the same whatever the status."""
    _ = status
    return {"id": _identity(key), "custom_id": key, "error": {"code": CLIENT_ERROR, "message": message}}


# Row faults


def _error(old: Row, fault: RowFault) -> Row:
    return failed_row(old["custom_id"], "Internal Server Error" if fault.message is None else fault.message)


def _thoughts_and_cache(old: Row, fault: RowFault) -> Row:
    """Add to the usage: half of the prompt is cached; seven reasoning tokens are part of the completion."""
    _ = fault
    body = old["response"]["body"]
    usage = chat_rows.usage_with_thoughts(body["usage"])
    usage |= {"cached_tokens": usage["prompt_tokens"] // 2, "reasoning_tokens": 7}
    return chat_rows.with_body(old, {**body, "usage": usage})


FORMAT = RowFormat(
    key_field="custom_id",
    body_field="body",
    prompt=chat_rows.parse_prompt,
    job_problem=job_problem,
    refusal=row_problem,
    row=answered_row,
    failed_row=failed_row,
    cancelled=lambda _: None,  # after a cancel only the finished rows are in the result file
    failed=lambda line: "response" not in line and "error" in line,
    errors_apart=True,
    edits={**chat_rows.EDITS, "error": _error, "status": _error, "thoughts_and_cache": _thoughts_and_cache},
)
