"""Encode and parse the lines of batch files with chat completions: the form of OpenAI, which Together and others use.

Pure. Facts come from the documentation of the providers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from batchgen.core.jsonl import (
    decode_row,
    dict_or_empty,
    message_refusal,
    message_text,
    parse_reply_fields,
    text_or_empty,
    token_count,
)
from batchgen.core.outcomes import Reason, Reply, Usage
from batchgen.core.prompts import Prompt
from batchgen.core.text import one_line
from batchgen.core.tokens import TokenFormula
from batchgen.providers.base import Parameters, ParsedRequest
from batchgen.providers.quotas import quota_sentence

FINISH_REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "stop": Reason.ACCEPTED,
        "eos": Reason.ACCEPTED,
        "length": Reason.TRUNCATED,
        "content_filter": Reason.BLOCKED_OUTPUT,
    }
)
# A row whose request was not answered before the batch expired or was cancelled has one of these codes (OpenAI).
_UNANSWERED: Mapping[str, Reason] = MappingProxyType(
    {"batch_expired": Reason.MISSING, "batch_cancelled": Reason.CANCELLED}
)
_PERMANENT_STATUS = frozenset({400, 404, 413, 422})
LLAMA_TOKENS = TokenFormula(0.804, 0.761, 0.065, 0.975, 0.514, 1.633)  # Llama 3.1
RESULT_ROW_MARKERS = (b'"custom_id"', b'"response"')


def encode_body(prompt: Prompt, parameters: Parameters, limit_field: str = "max_tokens") -> dict[str, Any]:
    """Return the body of a chat completion request. `limit_field` is the name of the limit of output tokens."""
    body: dict[str, Any] = {
        "model": parameters.model,
        "messages": [
            {"role": "system", "content": prompt.system},
            *({"role": message.role, "content": message.text} for message in prompt.messages),
        ],
        limit_field: parameters.max_output_tokens,
        "temperature": parameters.temperature,
    }
    if prompt.fields:
        properties: dict[str, Any] = {field: {"type": "string"} for field in prompt.fields}
        if prompt.choices:
            properties[prompt.fields[-1]]["enum"] = list(prompt.choices)
        schema = {"type": "object", "properties": properties, "required": list(prompt.fields)}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": prompt.fields[0], "schema": schema}}
    return body


def parse_request(row: Mapping[str, Any]) -> ParsedRequest | None:
    """Parse a request line; None if it is not a line of this form."""
    if "body" not in row:
        return None
    body = dict_or_empty(row["body"])
    schema = dict_or_empty(dict_or_empty(dict_or_empty(body.get("response_format")).get("json_schema")).get("schema"))
    return ParsedRequest(
        key=text_or_empty(row.get("custom_id")),
        model=text_or_empty(body.get("model")),
        fields=tuple(schema.get("required", ())),
        texts=tuple(str(message["content"]) for message in body.get("messages", ())),
        max_output_tokens=token_count(body.get("max_completion_tokens") or body.get("max_tokens")),
    )


def result_key(row: Mapping[str, Any]) -> str:
    """Return the key of the request that a row of an output or error file answers."""
    return text_or_empty(row.get("custom_id"))


def parse_result(raw: bytes, fields: Sequence[str]) -> Reply:
    """Parse one line of an output or error file. `fields` are the JSON fields that were requested, if any."""
    row = decode_row(raw)
    if isinstance(row, Reply):
        return row
    key, response = result_key(row), dict_or_empty(row.get("response"))
    body = dict_or_empty(response.get("body"))
    status = response.get("status_code")
    trouble = row.get("error") or body.get("error")
    failed = isinstance(status, int) and not 200 <= status < 300  # noqa: PLR2004 - HTTP's own classes
    if trouble or failed:
        return _failed_row(key, trouble, status)
    if not body:
        return Reply(key, Reason.UNREADABLE, detail="neither a response nor an error")
    return _parse_completion(key, body, fields)


def _failed_row(key: str, error: Any, status: Any) -> Reply:
    """Return the reply for a row of an error file. DeepInfra writes an HTTP status into the error's code, as text."""
    message = error_text(error) or "no message"
    code = text_or_empty(dict_or_empty(error).get("code"))
    if code in _UNANSWERED:
        return Reply(key, _UNANSWERED[code], detail=message)
    if not isinstance(status, int):
        status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else None
    if status is None:
        return Reply(key, Reason.PROVIDER_ERROR, detail=message)
    reason = Reason.INVALID_REQUEST if status in _PERMANENT_STATUS else Reason.PROVIDER_ERROR
    return Reply(key, reason, detail=one_line(f"HTTP {status}: {message}"))


def error_text(error: Any) -> str:
    """Return an error of a row or a job, text or object, as one line."""
    return quota_sentence(dict_or_empty(error).get("message") or error or "")


def _parse_completion(key: str, body: dict[str, Any], fields: Sequence[str]) -> Reply:
    usage = _parse_usage(dict_or_empty(body.get("usage")))
    read = Reply(key, Reason.ACCEPTED, usage=usage, model=text_or_empty(body.get("model")))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        return read._replace(reason=Reason.EMPTY, detail="no choices")
    choice = dict_or_empty(choices[0])
    if choice.get("error"):
        return read._replace(reason=Reason.PROVIDER_ERROR, detail=error_text(choice["error"]))
    finish = text_or_empty(choice.get("finish_reason"))
    reason = FINISH_REASONS.get(finish, Reason.UNKNOWN_FINISH)
    if reason is not Reason.ACCEPTED:
        return read._replace(reason=reason, detail=one_line(f"finish reason {finish or 'missing'}"))
    return _message(dict_or_empty(choice.get("message")), read, fields)


def _message(message: dict[str, Any], read: Reply, fields: Sequence[str]) -> Reply:
    """Return the text of a message that ended normally."""
    if words := message_refusal(message):
        return read._replace(reason=Reason.REFUSED, detail=words)
    try:
        text = message_text(message)
    except ValueError as error:
        return read._replace(reason=Reason.MALFORMED, detail=one_line(error))
    if not text.strip():
        return read._replace(reason=Reason.EMPTY, detail="no text")
    return parse_reply_fields(text, fields, read) if fields else read._replace(text=text)


def _parse_usage(usage: dict[str, Any]) -> Usage:
    """Parse token counts: completion_tokens include reasoning_tokens, prompt_tokens include cached ones."""
    details = dict_or_empty(usage.get("completion_tokens_details"))
    return Usage(
        input=token_count(usage.get("prompt_tokens")),
        cached=token_count(
            usage.get("cached_tokens") or dict_or_empty(usage.get("prompt_tokens_details")).get("cached_tokens")
        ),
        output=token_count(usage.get("completion_tokens")),
        thoughts=token_count(usage.get("reasoning_tokens") or details.get("reasoning_tokens")),
    )
