"""Gemini Developer API: encode request lines, parse result lines and jobs. Pure.

Facts come from the documentation of the provider and the source of the SDK (google-genai 3.4.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from batchgen.core.dialogue import ECHO_FIELD
from batchgen.core.jsonl import (
    decode_row,
    dict_or_empty,
    encode_request_line,
    parse_reply_fields,
    text_or_empty,
    token_count,
)
from batchgen.core.outcomes import Reason, Reply, Usage
from batchgen.core.prompts import Prompt
from batchgen.core.text import one_line
from batchgen.core.tokens import TokenFormula
from batchgen.providers.base import Job, JobState, Parameters, ParsedRequest, Provider
from batchgen.providers.quotas import quota_sentence

NAME = "gemini"

JOB_STATES: Mapping[str, JobState] = MappingProxyType(
    {
        "PENDING": JobState.PENDING,
        "QUEUED": JobState.PENDING,
        "RUNNING": JobState.RUNNING,
        "UPDATING": JobState.RUNNING,
        "PAUSED": JobState.PENDING,
        "CANCELLING": JobState.RUNNING,
        "SUCCEEDED": JobState.SUCCEEDED,
        "PARTIALLY_SUCCEEDED": JobState.SUCCEEDED,
        "FAILED": JobState.FAILED,
        "CANCELLED": JobState.CANCELLED,
        "EXPIRED": JobState.EXPIRED,
        "UNSPECIFIED": JobState.UNKNOWN,
    }
)
_PREFIX = re.compile("^(BATCH|JOB)_STATE_")

# Finish reasons of a candidate; not in the table = UNKNOWN_FINISH. Only STOP may be accepted.
FINISH_REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "STOP": Reason.ACCEPTED,
        "MAX_TOKENS": Reason.TRUNCATED,
        "SAFETY": Reason.BLOCKED_OUTPUT,
        "RECITATION": Reason.BLOCKED_OUTPUT,
        "LANGUAGE": Reason.BLOCKED_OUTPUT,
        "BLOCKLIST": Reason.BLOCKED_OUTPUT,
        "PROHIBITED_CONTENT": Reason.BLOCKED_OUTPUT,
        "SPII": Reason.BLOCKED_OUTPUT,
        "MODEL_ARMOR": Reason.BLOCKED_OUTPUT,
        "MALFORMED_RESPONSE": Reason.MALFORMED,
    }
)
# google.rpc codes of a failed row: 1 CANCELLED, 3 INVALID_ARGUMENT, the rest an error of the provider
_ROW_CODES: Mapping[int, Reason] = MappingProxyType(
    {1: Reason.CANCELLED, 3: Reason.INVALID_REQUEST, 400: Reason.INVALID_REQUEST}
)


NO_TEMPERATURE = (3, 5)  # from this generation on it is ignored, and later ones answer 400 to it


def thinking_off(model: str) -> dict[str, Any]:
    """Return the setting that makes `model` think as little as possible, because thoughts are billed as output.

    2.5: thinkingBudget 0. From 3 on thinking cannot be switched off. The lowest level is "minimal" for the models named
    flash-lite, and for the flash models before 3.6; later ones (3.7-flash, 3.8-flash, Gemini 4) answer 400 to it, and
    "low" is their lowest. Models before 2.5 have neither setting.
    """
    version = _generation(model)
    if version < (2, 5):
        return {}
    if version < (3, 0):
        return {"thinkingConfig": {"thinkingBudget": 0}}
    minimal = ("flash-lite" in model and version < (4, 0)) or ("flash" in model and version < (3, 6))
    return {"thinkingConfig": {"thinkingLevel": "minimal" if minimal else "low"}}


def _generation(model: str) -> tuple[int, int]:
    """Return (3, 5) for gemini-3.5-flash-lite, (0, 0) for a name without such a number."""
    found = re.search(r"gemini-(\d+)(?:\.(\d+))?", model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def encode_request(key: str, prompt: Prompt, parameters: Parameters) -> bytes:
    """Return one request line, without the line feed: a REST GenerateContentRequest with its key.

    Uses `responseSchema`: `responseJsonSchema` was reported to fail in batch (0 of 502 rows right).
    """
    generation: dict[str, Any] = {"temperature": parameters.temperature}
    if _generation(parameters.model) >= NO_TEMPERATURE:
        del generation["temperature"]
    generation |= {"maxOutputTokens": parameters.max_output_tokens, **thinking_off(parameters.model)}
    if prompt.fields:
        generation["responseMimeType"] = "application/json"
        generation["responseSchema"] = _response_schema(prompt)
    request = {
        "systemInstruction": {"parts": [{"text": prompt.system}]},
        "contents": [
            {"role": "user" if message.role == "user" else "model", "parts": [{"text": message.text}]}
            for message in prompt.messages
        ],
        "generationConfig": generation,
    }
    return encode_request_line({"key": key, "request": request})


def _response_schema(prompt: Prompt) -> dict[str, Any]:
    """Return the schema of the reply: the echo first, which an enum of one value fixes, then the texts."""
    properties: dict[str, Any] = {field: {"type": "STRING"} for field in prompt.fields}
    if prompt.choices:
        properties[prompt.fields[-1]]["enum"] = list(prompt.choices)
    if prompt.echo:
        properties = {ECHO_FIELD: {"type": "STRING", "enum": [prompt.echo]}, **properties}
    schema = {"type": "OBJECT", "properties": properties, "required": list(properties)}
    if len(properties) > 1:  # otherwise written in alphabetical order
        schema["propertyOrdering"] = list(properties)
    return schema


def parse_request(row: Mapping[str, Any]) -> ParsedRequest | None:
    """Parse a request line; None if it is not a Gemini line. It does not name its model."""
    if "request" not in row:
        return None
    request = dict_or_empty(row["request"])
    generation = dict_or_empty(request.get("generationConfig"))
    contents = [dict_or_empty(request.get("systemInstruction")), *request.get("contents", ())]
    fields = dict_or_empty(generation.get("responseSchema")).get("required", ())
    return ParsedRequest(
        key=text_or_empty(row.get("key")),
        model="",
        fields=tuple(field for field in fields if field != ECHO_FIELD),
        texts=tuple(str(part["text"]) for content in contents for part in content.get("parts", ())),
        max_output_tokens=token_count(generation.get("maxOutputTokens")),
        echoes=ECHO_FIELD in fields,
    )


def result_key(row: Mapping[str, Any]) -> str:
    """Return the key of the request that a result row answers; inline rows have it in their metadata."""
    return text_or_empty(row.get("key")) or text_or_empty(dict_or_empty(row.get("metadata")).get("key"))


def parse_result(raw: bytes, fields: Sequence[str]) -> Reply:
    """Parse one result line: error, blocked prompt, finish reason, then the text.

    `fields` are the JSON fields that were requested, none for plain text.
    """
    row = decode_row(raw)
    if isinstance(row, Reply):
        return row
    if _SNAKE_CASE.search(raw):
        row = _in_camel_case(row)
    key, response = result_key(row), row.get("response")
    trouble = row.get("error") or (row.get("status") if not response else None)
    if trouble:
        return _failed_row(key, trouble)
    if not isinstance(response, dict):
        return Reply(key, Reason.UNREADABLE, detail="neither a response nor an error")
    return _parse_response(key, response, fields)


def _failed_row(key: str, error: Any) -> Reply:
    code = dict_or_empty(error).get("code")
    reason = _ROW_CODES.get(code, Reason.PROVIDER_ERROR) if isinstance(code, int) else Reason.PROVIDER_ERROR
    return Reply(key, reason, detail=_error_text(error))


def _error_text(error: Any) -> str:
    """Return a google.rpc.Status, or what was sent instead, as one line."""
    code, message = dict_or_empty(error).get("code"), dict_or_empty(error).get("message")
    words = quota_sentence(message or error)
    return one_line(f"code {code}: {words if message else 'no message'}") if code else words


# The JSON may come in the other spelling of its fields: finish_reason for finishReason.
_SNAKE_CASE = re.compile(rb'_(?:count|feedback|metadata|reason|version)"')


_NAMED_LEVELS = 4  # of a row, down to the fields of a candidate


def _in_camel_case(value: Any, levels: int = _NAMED_LEVELS) -> Any:
    """Return JSON with its fields in the usual spelling, so many levels deep.

    If a field is there in both spellings, the one with a value counts.
    """
    if isinstance(value, list) and levels:
        return [_in_camel_case(item, levels - 1) for item in value]
    if not isinstance(value, dict) or not levels:
        return value
    there = {name: _in_camel_case(field, levels - 1) for name, field in value.items() if field is not None}
    return {re.sub("_([a-z])", lambda found: found[1].upper(), name): there[name] for name in there} | there


def _parse_response(key: str, response: dict[str, Any], fields: Sequence[str]) -> Reply:
    usage = _parse_usage(dict_or_empty(response.get("usageMetadata")))
    model = text_or_empty(response.get("modelVersion"))
    candidates = response.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        block = dict_or_empty(response.get("promptFeedback")).get("blockReason")
        reason = Reason.BLOCKED_PROMPT if block else Reason.EMPTY
        return Reply(key, reason, detail=one_line(block or "no candidates"), usage=usage, model=model)
    candidate = dict_or_empty(candidates[0])
    finish = text_or_empty(candidate.get("finishReason"))
    reason = FINISH_REASONS.get(finish, Reason.UNKNOWN_FINISH)
    if reason is not Reason.ACCEPTED:
        return Reply(key, reason, detail=one_line(f"finish reason {finish or 'missing'}"), usage=usage, model=model)
    text = _candidate_text(candidate)
    if text is None or not text.strip():
        return Reply(key, Reason.EMPTY, detail="no text", usage=usage, model=model)
    if fields:
        return parse_reply_fields(text, fields, Reply(key, reason, "", "", usage, model))
    return Reply(key, Reason.ACCEPTED, text, usage=usage, model=model)


def _candidate_text(candidate: dict[str, Any]) -> str | None:
    parts = dict_or_empty(candidate.get("content")).get("parts")
    if not isinstance(parts, list):
        return None
    said = [part.get("text") for part in parts if isinstance(part, dict) and not part.get("thought")]
    return "".join([text for text in said if isinstance(text, str)])


def _parse_usage(usage: dict[str, Any]) -> Usage:
    """Parse token counts: promptTokenCount includes cachedContentTokenCount; thoughts are billed as output."""
    prompt = token_count(usage.get("promptTokenCount")) + token_count(usage.get("toolUsePromptTokenCount"))
    thoughts = token_count(usage.get("thoughtsTokenCount"))
    output = token_count(usage.get("candidatesTokenCount")) + thoughts
    return Usage(prompt, token_count(usage.get("cachedContentTokenCount")), output, thoughts)


def parse_job(operation: Any) -> Job:
    """Parse a raw operation. The SDK shows only `metadata`, and drops `error`, counts and `response`.

    The batch object alone, which an operation has as its metadata, is accepted too.
    """
    operation = dict_or_empty(operation)
    metadata = dict_or_empty(operation.get("metadata")) or operation
    raw_state = (text_or_empty(metadata.get("state")) or text_or_empty(operation.get("state"))).upper()
    outputs = [
        dict_or_empty(operation.get("response")),
        dict_or_empty(metadata.get("output")),
        dict_or_empty(metadata.get("dest")),
    ]
    stats = dict_or_empty(metadata.get("batchStats"))
    rows = token_count(stats.get("successfulRequestCount")) + token_count(stats.get("failedRequestCount"))
    error = operation.get("error")
    return Job(
        remote_id=text_or_empty(operation.get("name")) or text_or_empty(metadata.get("name")),
        state=JOB_STATES.get(_PREFIX.sub("", raw_state), JobState.UNKNOWN),
        raw_state=_PREFIX.sub("JOB_STATE_", raw_state),
        labels=tuple(filter(None, [text_or_empty(metadata.get("displayName"))])),
        output=next(
            (
                name
                for output in outputs
                if (name := text_or_empty(output.get("responsesFile") or output.get("fileName")))
            ),
            "",
        ),
        inline_rows=next((found for output in outputs if (found := tuple(_inline_rows(output)))), ()),
        rows=rows or None,
        error=_error_text(error) if error else "",
        created_at=text_or_empty(metadata.get("createTime")),
    )


def _inline_rows(output: dict[str, Any]) -> Iterator[bytes]:
    """Return inline results, which small file jobs may have; the list is nested twice in the JSON."""
    found = output.get("inlinedResponses")
    rows = found.get("inlinedResponses") if isinstance(found, dict) else found
    for row in rows if isinstance(rows, list) else []:
        yield json.dumps(row).encode()  # not orjson, which refuses a lone surrogate and an integer beyond 64 bits


PROVIDER = Provider(
    name=NAME,
    key_variable="GEMINI_API_KEY",
    url_variable="GOOGLE_GEMINI_BASE_URL",
    sdk_variables=("GOOGLE_", "GEMINI_"),
    max_file_bytes=2_000_000_000,
    max_line_bytes=20_000_000,  # not documented for files; the limit of an inline request body
    max_file_requests=200_000,  # not documented; the file's size is what counts
    upload_lifetime_seconds=47 * 3600,  # 48 h documented
    names_come_back=True,
    sdk="google-genai",
    tokens=TokenFormula(0.631, 0.816, 0.051, 1.336, 0.598, 1.977),  # Gemma 3 and 4
    line=encode_request,
    asked=parse_request,
    key=result_key,
    result_row_markers=(b'"key"', b'"response"'),
    reply=parse_result,
    echoes=True,
)
