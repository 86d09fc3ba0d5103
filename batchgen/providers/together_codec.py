"""Together AI: encode request lines, parse result lines and jobs. Pure.

Facts come from the documentation of the provider and the source of the SDK (together 3.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from batchgen.core.jsonl import dict_or_empty, encode_request_line, text_or_empty
from batchgen.core.prompts import Prompt
from batchgen.core.text import one_line
from batchgen.providers import chat_codec
from batchgen.providers.base import Job, JobState, Parameters, ParsedRequest, Provider

NAME = "together"

JOB_STATES: Mapping[str, JobState] = MappingProxyType(
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
# Models that reason unless told not to: reasoning counts against max_tokens and is billed as output.
_REASONING = re.compile(r"^Qwen/Qwen3|gpt-oss|DeepSeek-V4|GLM-5", re.IGNORECASE)


def encode_request(key: str, prompt: Prompt, parameters: Parameters) -> bytes:
    """Return one request line, without the line feed. Every line needs `model`: the job's does not replace it."""
    body = chat_codec.encode_body(prompt, parameters)
    if _REASONING.search(parameters.model):
        body["reasoning"] = {"enabled": False}
    return encode_request_line({"custom_id": key, "body": body})


def parse_request(row: Mapping[str, Any]) -> ParsedRequest | None:
    """Parse a request line; None if it is not a Together line, which has no address."""
    return None if "url" in row else chat_codec.parse_request(row)


def parse_job(raw: Any) -> Job:
    """Parse a job object; ids may be absent, null or the empty string."""
    raw = dict_or_empty(raw)
    status = text_or_empty(raw.get("status"))
    return Job(
        remote_id=text_or_empty(raw.get("id")),
        state=JOB_STATES.get(status.upper(), JobState.UNKNOWN),
        raw_state=status,
        labels=tuple(filter(None, [text_or_empty(raw.get("input_file_id"))])),
        output=text_or_empty(raw.get("output_file_id")),
        errors=text_or_empty(raw.get("error_file_id")),
        error=chat_codec.error_text(raw.get("error")),
        created_at=one_line(raw.get("created_at") or ""),
    )


PROVIDER = Provider(
    name=NAME,
    key_variable="TOGETHER_API_KEY",
    url_variable="TOGETHER_BASE_URL",
    sdk_variables=("TOGETHER_",),
    max_file_bytes=100_000_000,
    max_line_bytes=10_000_000,
    max_file_requests=50_000,
    upload_lifetime_seconds=float("inf"),
    names_come_back=False,
    sdk="together",
    tokens=chat_codec.LLAMA_TOKENS,
    line=encode_request,
    asked=parse_request,
    key=chat_codec.result_key,
    result_row_markers=chat_codec.RESULT_ROW_MARKERS,
    reply=chat_codec.parse_result,
)
