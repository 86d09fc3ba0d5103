"""Together AI: the codec of its request and result lines and of its jobs. Pure.

Facts come from the provider's documentation and the SDK's source (together 3.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from batchgen.core.jsonl import as_object, as_text, count, load_row, refusal, request_line, said, unwrap
from batchgen.core.outcomes import Reason, Reply, Usage
from batchgen.core.prompts import Prompt
from batchgen.core.text import short
from batchgen.core.tokens import Formula
from batchgen.providers.base import Asked, Job, JobState, Parameters, Provider
from batchgen.providers.quotas import in_few_words

NAME = "together"

STATES: Mapping[str, JobState] = MappingProxyType(
    {
        "VALIDATING": JobState.PENDING,
        "IN_PROGRESS": JobState.RUNNING,
        "CANCELING": JobState.RUNNING,  # undocumented, one L; becomes CANCELLED after some 15 s
        "CANCELLING": JobState.RUNNING,
        "COMPLETED": JobState.SUCCEEDED,
        "FAILED": JobState.FAILED,
        "EXPIRED": JobState.EXPIRED,
        "CANCELLED": JobState.CANCELLED,
    }
)
FINISH: Mapping[str, Reason] = MappingProxyType(
    {
        "stop": Reason.ACCEPTED,
        "eos": Reason.ACCEPTED,
        "length": Reason.TRUNCATED,
        "content_filter": Reason.BLOCKED_OUTPUT,
    }
)
# Models that reason unless told not to: reasoning burns max_tokens and is billed as output.
_REASONING = re.compile(r"^Qwen/Qwen3|gpt-oss|DeepSeek-V4|GLM-5", re.IGNORECASE)
_PERMANENT_STATUS = frozenset({400, 404, 413, 422})


def line(key: str, prompt: Prompt, parameters: Parameters) -> bytes:
    """One request line, without the line feed. `model` stands in every line: the job's own does not fill it in."""
    body: dict[str, Any] = {
        "model": parameters.model,
        "messages": [
            {"role": "system", "content": prompt.system},
            *({"role": message.role, "content": message.text} for message in prompt.messages),
        ],
        "max_tokens": parameters.max_output_tokens,
        "temperature": parameters.temperature,
    }
    if _REASONING.search(parameters.model):
        body["reasoning"] = {"enabled": False}
    if prompt.fields:
        properties = {field: {"type": "string"} for field in prompt.fields}
        schema = {"type": "object", "properties": properties, "required": list(prompt.fields)}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": prompt.fields[0], "schema": schema}}
    return request_line({"custom_id": key, "body": body})


def asked(row: Mapping[str, Any]) -> Asked | None:
    """A request line read back, None for one that is not Together's."""
    if "body" not in row:
        return None
    body = as_object(row["body"])
    schema = as_object(as_object(as_object(body.get("response_format")).get("json_schema")).get("schema"))
    return Asked(
        key=as_text(row.get("custom_id")),
        model=as_text(body.get("model")),
        fields=tuple(schema.get("required", ())),
        texts=tuple(str(message["content"]) for message in body.get("messages", ())),
        max_output_tokens=count(body.get("max_tokens")),
    )


def result_key(row: Mapping[str, Any]) -> str:
    """The key of the request that a row of an output or an error file answers."""
    return as_text(row.get("custom_id"))


def reply(raw: bytes, fields: Sequence[str]) -> Reply:
    """One line of an output or an error file, read by reason. `fields`: the JSON fields asked for, if any."""
    row = load_row(raw)
    if isinstance(row, Reply):
        return row
    key, response = result_key(row), as_object(row.get("response"))
    body = as_object(response.get("body"))
    status = response.get("status_code")
    trouble = row.get("error") or body.get("error")
    failed = isinstance(status, int) and not 200 <= status < 300  # noqa: PLR2004 - HTTP's own classes
    if trouble or failed:
        return _failed_row(key, trouble, status)
    if not body:
        return Reply(key, Reason.UNREADABLE, detail="neither a response nor an error")
    return _completion(key, body, fields)


def _failed_row(key: str, error: Any, status: Any) -> Reply:
    """The code in an error file is always batch_client_error, also for provider faults: only a status tells more."""
    message = _words(error) or "no message"
    if not isinstance(status, int):
        return Reply(key, Reason.PROVIDER_ERROR, detail=message)
    reason = Reason.INVALID_REQUEST if status in _PERMANENT_STATUS else Reason.PROVIDER_ERROR
    return Reply(key, reason, detail=short(f"HTTP {status}: {message}"))


def _words(error: Any) -> str:
    """An error of a row or a job, text or object, in one line."""
    return in_few_words(as_object(error).get("message") or error or "")


def _completion(key: str, body: dict[str, Any], fields: Sequence[str]) -> Reply:
    usage = _usage(as_object(body.get("usage")))
    read = Reply(key, Reason.ACCEPTED, usage=usage, model=as_text(body.get("model")))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        return read._replace(reason=Reason.EMPTY, detail="no choices")
    choice = as_object(choices[0])
    if choice.get("error"):
        return read._replace(reason=Reason.PROVIDER_ERROR, detail=_words(choice["error"]))
    finish = as_text(choice.get("finish_reason"))
    reason = FINISH.get(finish, Reason.UNKNOWN_FINISH)
    if reason is not Reason.ACCEPTED:
        return read._replace(reason=reason, detail=short(f"finish reason {finish or 'missing'}"))
    return _message(as_object(choice.get("message")), read, fields)


def _message(message: dict[str, Any], read: Reply, fields: Sequence[str]) -> Reply:
    """The text of a message that ended as it should."""
    if words := refusal(message):
        return read._replace(reason=Reason.REFUSED, detail=words)
    try:
        text = said(message)
    except ValueError as error:
        return read._replace(reason=Reason.MALFORMED, detail=short(error))
    if not text.strip():
        return read._replace(reason=Reason.EMPTY, detail="no text")
    return unwrap(text, fields, read) if fields else read._replace(text=text)


def _usage(usage: dict[str, Any]) -> Usage:
    """completion_tokens include reasoning_tokens, prompt_tokens include cached ones."""
    details = as_object(usage.get("completion_tokens_details"))
    return Usage(
        input=count(usage.get("prompt_tokens")),
        cached=count(usage.get("cached_tokens") or as_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
        output=count(usage.get("completion_tokens")),
        thoughts=count(usage.get("reasoning_tokens") or details.get("reasoning_tokens")),
    )


def job(raw: Any) -> Job:
    """A job object of the wire as a Job; ids may be absent, null or the empty string."""
    raw = as_object(raw)
    status = as_text(raw.get("status"))
    return Job(
        remote_id=as_text(raw.get("id")),
        state=STATES.get(status.upper(), JobState.UNKNOWN),
        raw_state=status,
        label=as_text(raw.get("input_file_id")),
        output=as_text(raw.get("output_file_id")),
        errors=as_text(raw.get("error_file_id")),
        error=_words(raw.get("error")),
        created_at=short(raw.get("created_at") or ""),
    )


PROVIDER = Provider(
    name=NAME,
    key_variable="TOGETHER_API_KEY",
    url_variable="TOGETHER_BASE_URL",
    sdk_variables=("TOGETHER_",),
    max_file_bytes=100_000_000,
    max_line_bytes=10_000_000,
    max_file_requests=50_000,
    upload_lives_seconds=float("inf"),
    found_by_name=False,
    sdk="together",
    tokens=Formula(0.804, 0.761, 0.065, 0.975, 0.514, 1.633),  # Llama 3.1
    line=line,
    asked=asked,
    key=result_key,
    row_marks=(b'"custom_id"', b'"response"'),
    reply=reply,
)
