"""OpenAI's batch protocol, as several services speak it: encode request lines, parse jobs. Pure.

Facts come from the documents of OpenAI and DeepInfra, and from a published capture of DeepInfra's live API.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from batchgen.core.jsonl import dict_or_empty, encode_request_line, text_or_empty
from batchgen.core.prompts import Prompt
from batchgen.core.text import one_line
from batchgen.providers import chat_codec
from batchgen.providers.base import Job, JobState, Parameters, ParsedRequest

ENDPOINT = "/v1/chat/completions"
NAME_FIELD = "batch"  # of a job's metadata: the name of its batch, by which it is found again

# In lower case; some services write them in upper case.
JOB_STATES: Mapping[str, JobState] = MappingProxyType(
    {
        "validating": JobState.PENDING,
        "in_progress": JobState.RUNNING,
        "finalizing": JobState.RUNNING,
        "cancelling": JobState.RUNNING,
        "completed": JobState.SUCCEEDED,
        "failed": JobState.FAILED,
        "expired": JobState.EXPIRED,
        "cancelled": JobState.CANCELLED,
    }
)


def encode_request(key: str, prompt: Prompt, parameters: Parameters, *, limit_field: str) -> bytes:
    """Return one request line, without the line feed."""
    body = chat_codec.encode_body(prompt, parameters, limit_field)
    return encode_request_line({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body})


def parse_request(row: Mapping[str, Any]) -> ParsedRequest | None:
    """Parse a request line; None if it is a line of another protocol."""
    return chat_codec.parse_request(row) if "url" in row else None


def parse_job(raw: Any) -> Job:
    """Parse a job object. Any member may be absent or null."""
    raw = dict_or_empty(raw)
    status = text_or_empty(raw.get("status"))
    labels = text_or_empty(dict_or_empty(raw.get("metadata")).get(NAME_FIELD)), text_or_empty(raw.get("input_file_id"))
    problems = _problems(raw.get("errors"))
    return Job(
        remote_id=text_or_empty(raw.get("id")),
        state=JOB_STATES.get(status.lower(), JobState.UNKNOWN),
        raw_state=status,
        labels=tuple(filter(None, labels)),
        output=text_or_empty(raw.get("output_file_id")),
        errors=text_or_empty(raw.get("error_file_id")),
        rows=_answered_rows(raw.get("request_counts")),
        error=next((_problem_text(one) for one in problems), ""),
        created_at=one_line(raw.get("created_at") or ""),
        line_errors={
            line + 1: _problem_text(one)
            for one in problems
            if type(line := one.get("line")) is int and line >= 0 and one.get("code") != "unknown_model"
        },
    )


def _answered_rows(counts: Any) -> int | None:
    """Return how many rows the result files must have; None if the job does not say it."""
    done = [count for name in ("completed", "failed") if type(count := dict_or_empty(counts).get(name)) is int]
    return sum(done) or None


def _problems(errors: Any) -> list[dict[str, Any]]:
    """Return the reasons why a job was refused: {code, line, message, param}."""
    listed = dict_or_empty(errors).get("data") if isinstance(errors, dict) else errors
    if isinstance(listed, list):
        return [dict_or_empty(one) for one in listed if one]
    return [{"message": text_or_empty(listed)}] if listed else []


def _problem_text(problem: Mapping[str, Any]) -> str:
    code = text_or_empty(problem.get("code"))
    return ": ".join(filter(None, [code, chat_codec.error_text(problem.get("message"))]))
