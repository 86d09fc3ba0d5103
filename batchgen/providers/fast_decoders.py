"""The result lines that nearly all are: a normal finish with a text. Read at once by a compiled decoder. Pure.

A line that does not look exactly so gives None, and is read by the codec, which knows every other case; for one that
does, both give the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from batchgen.core.jsonl import MOST_TOKENS, texts_in
from batchgen.core.outcomes import Reason, Reply, Usage

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
Named = Annotated[str, msgspec.Meta(min_length=1)]


class _Part(msgspec.Struct):
    text: str
    thought: bool = False


class _Content(msgspec.Struct):
    parts: list[_Part]


class _Candidate(msgspec.Struct):
    content: _Content
    finish: str = msgspec.field(name="finishReason")


class _GeminiUsage(msgspec.Struct, rename="camel"):
    prompt_token_count: Count = 0
    tool_use_prompt_token_count: Count = 0
    cached_content_token_count: Count = 0
    candidates_token_count: Count = 0
    thoughts_token_count: Count = 0


class _GeminiResponse(msgspec.Struct, rename="camel"):
    candidates: Annotated[list[_Candidate], msgspec.Meta(min_length=1)]
    usage_metadata: _GeminiUsage
    model_version: str = ""


class _GeminiRow(msgspec.Struct):
    key: Named
    response: _GeminiResponse
    error: UnsetType | None = UNSET


class _Message(msgspec.Struct):
    content: str
    refusal: UnsetType | None = UNSET
    tool_calls: UnsetType | Annotated[list[msgspec.Raw], msgspec.Meta(max_length=0)] | None = UNSET
    function_call: UnsetType | None = UNSET


class _Choice(msgspec.Struct):
    message: _Message
    finish: str = msgspec.field(name="finish_reason")
    error: UnsetType | None = UNSET


class _TogetherUsage(msgspec.Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0
    prompt_tokens_details: UnsetType | None = UNSET
    completion_tokens_details: UnsetType | None = UNSET


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: _TogetherUsage
    model: str = ""
    error: UnsetType | None = UNSET


class _TogetherResponse(msgspec.Struct):
    status: Annotated[int, msgspec.Meta(ge=200, le=299)] = msgspec.field(name="status_code")
    body: _Completion


class _TogetherRow(msgspec.Struct):
    key: Named = msgspec.field(name="custom_id")
    response: _TogetherResponse
    error: UnsetType | None = UNSET


_GEMINI = msgspec.json.Decoder(_GeminiRow)
_TOGETHER = msgspec.json.Decoder(_TogetherRow)


def gemini(raw: bytes, fields: Sequence[str]) -> Reply | None:
    """A plain line of a Gemini result file."""
    try:
        row = _GEMINI.decode(raw.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    response = row.response
    candidate, usage = response.candidates[0], response.usage_metadata
    if candidate.finish != "STOP" or not usage.prompt_token_count:  # no count: perhaps in the other spelling
        return None
    used = Usage(
        usage.prompt_token_count + usage.tool_use_prompt_token_count,
        usage.cached_content_token_count,
        usage.candidates_token_count + usage.thoughts_token_count,
        usage.thoughts_token_count,
    )
    text = "".join([part.text for part in candidate.content.parts if not part.thought])
    return _reply(row.key, text, used, response.model_version, fields)


def together(raw: bytes, fields: Sequence[str]) -> Reply | None:
    """A plain line of a Together output file."""
    try:
        row = _TOGETHER.decode(raw.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    body = row.response.body
    choice, usage = body.choices[0], body.usage
    if choice.finish != "stop":
        return None
    used = Usage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens)
    return _reply(row.key, choice.message.content, used, body.model, fields)


def _reply(key: str, text: str, used: Usage, model: str, fields: Sequence[str]) -> Reply | None:
    if not text or text.isspace():
        return None
    if not fields:
        return Reply(key, Reason.ACCEPTED, text, "", used, model)
    try:
        found = texts_in(text, fields)
    except ValueError:
        return None
    return Reply(key, Reason.ACCEPTED, found[0], "", used, model, found[1] if len(found) > 1 else "")
