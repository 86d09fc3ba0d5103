"""Lines of Together batch files (docs.together.ai/docs/inference/batch/tutorial and /manage, read 2026-11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from batchgen.emulator.backends.builtin import Answer, Message, Prompt
from batchgen.emulator.faults import RowFault
from batchgen.emulator.faults.text_edits import TEXT_EDITS, edit_text
from batchgen.emulator.protocols.row_format import Row, RowFormat

CLIENT_ERROR = "batch_client_error"  # the only code observed so far, also for errors of the provider
MAX_STOPS = 4


def not_served_message(model: str) -> str:
    """Return Together's message for a model that it does not serve (any more)."""
    return (
        f"Unable to access non-serverless model {model}. Please visit https://api.together.ai/models/{model} "
        "to create and start a new dedicated endpoint for the model."
    )


def parse_prompt(body: Row) -> Prompt:
    """Parse a chat-completions body."""
    messages = tuple(Message(str(m.get("role", "user")), _content(m.get("content"))) for m in body.get("messages", []))
    wanted = body.get("response_format") or {}
    schema = wanted.get("schema") or (wanted.get("json_schema") or {}).get("schema")
    if schema is None and wanted.get("type") == "json_object":
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    return Prompt(messages, schema, limit, body.get("temperature"), str(body.get("model", "")))


def _content(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(part.get("text", "")) for part in value)
    return str(value or "")


MAX_REQUESTS = 50_000  # per batch (docs.together.ai/docs/inference/batch/overview)
MAX_LINE_BYTES = 10_000_000


def job_problem(lines: Sequence[bytes], serves: Callable[[str], bool]) -> str:
    """Return why the whole job fails in validation, "" if it does not."""
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
    """Return a chat.completion object."""
    asked, written = answer.prompt_tokens, answer.completion_tokens
    refused = answer.finish == "refusal"
    said = {"content": None, "refusal": answer.text} if refused else {"content": answer.text}
    return {
        "id": blake2b(answer.text.encode(), digest_size=8).hexdigest(),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "prompt": [],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop" if refused else answer.finish,
                "logprobs": None,
                "seed": None,
                "message": {"role": "assistant", **said, "tool_calls": []},
            }
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written},
    }


def _identity(key: str) -> str:
    return f"br_{blake2b(key.encode(), digest_size=9).hexdigest()}"


def answered_row(key: str, model: str, answer: Answer) -> Row:
    """Return the line of an answered row, for the output file: status_code 200."""
    response = {"status_code": 200, "body": completion(answer, model, 0)}
    return {"id": _identity(key), "custom_id": key, "response": response}


def failed_row(key: str, message: str) -> Row:
    """Return the line of a failed row, for the error file."""
    return {"id": _identity(key), "custom_id": key, "error": {"code": CLIENT_ERROR, "message": message}}


# Row faults


def _error(old: Row, fault: RowFault) -> Row:
    return failed_row(old["custom_id"], "Internal Server Error" if fault.message is None else fault.message)


def _http_status(old: Row, fault: RowFault) -> Row:
    message = fault.message or "Input validation error"
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return {**old, "response": {"status_code": fault.code or 400, "body": body}, "error": None}


def _choice(old: Row, finish: str, **message: Any) -> Row:
    body = old["response"]["body"]
    choice = body["choices"][0]
    changed = choice | {"finish_reason": finish, "message": choice["message"] | message}
    return {**old, "response": {**old["response"], "body": {**body, "choices": [changed]}}}


def text_of(line: Row) -> str:
    """Return the text of an answered row."""
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def _finish(old: Row, fault: RowFault) -> Row:
    reason = fault.reason or ("brand_new_reason" if fault.outcome == "finish" else "content_filter")
    return _choice(old, reason, content=fault.text or "")


def _truncated(old: Row, fault: RowFault) -> Row:
    text = text_of(old)
    return _choice(old, "length", content=text[: len(text) // 2] if fault.text is None else fault.text)


def _no_parts(old: Row, fault: RowFault) -> Row:
    _ = fault
    return _choice(old, "stop", content=None)


def _thought_only(old: Row, fault: RowFault) -> Row:
    return _choice(old, "stop", content="", reasoning=fault.text or "The user wants something.")


def _edited_text(old: Row, fault: RowFault) -> Row:
    return _choice(old, "stop", content=edit_text(text_of(old), fault))


def _extra_fields(old: Row, fault: RowFault) -> Row:
    _ = fault
    body = old["response"]["body"] | {"system_fingerprint": "local", "metadata": {"weight_version": "default"}}
    return {**old, "response": {**old["response"], "body": body}, "novelty": {"a": [1]}}


def _thoughts_and_cache(old: Row, fault: RowFault) -> Row:
    """Add to the usage: half of the prompt is cached; seven reasoning tokens are part of the completion."""
    _ = fault
    body = old["response"]["body"]
    usage = dict(body["usage"])
    usage |= {"cached_tokens": usage["prompt_tokens"] // 2, "reasoning_tokens": 7}
    usage["completion_tokens"] += 7
    usage["total_tokens"] += 7
    return {**old, "response": {**old["response"], "body": {**body, "usage": usage}}}


FORMAT = RowFormat(
    key_field="custom_id",
    body_field="body",
    prompt=parse_prompt,
    job_problem=job_problem,
    refusal=row_problem,
    row=answered_row,
    failed_row=failed_row,
    cancelled=lambda _: None,  # after a cancel only the finished rows are in the result file
    failed=lambda line: "response" not in line and "error" in line,
    edits={
        "error": _error,
        "status": _error,
        "http_status": _http_status,
        "neither": lambda old, _: {"id": old["id"], "custom_id": old["custom_id"]},
        "blocked_prompt": _finish,
        "safety": _finish,
        "recitation": _finish,
        "finish": _finish,
        "truncated": _truncated,
        "no_parts": _no_parts,
        "thought_only": _thought_only,
        "extra_fields": _extra_fields,
        "thoughts_and_cache": _thoughts_and_cache,
        **dict.fromkeys(TEXT_EDITS, _edited_text),
    },
)
