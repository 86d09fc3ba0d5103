"""Lines of Gemini batch files (ai.google.dev/gemini-api/docs/batch-api, read 2026-11)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from batchgen.emulator.backends.builtin import Answer, Message, Prompt
from batchgen.emulator.faults import RowFault
from batchgen.emulator.faults.actions import merge_patch
from batchgen.emulator.faults.text_edits import TEXT_EDITS, edit_text
from batchgen.emulator.protocols.row_format import Row, RowFormat

INTERNAL = 13  # google.rpc codes
CANCELLED = 1
INTERNAL_MESSAGE = "An internal error has occurred. Please retry or report in https://developers.generativeai.google"

# Proto JSON accepts camelCase and snake_case, so names are compared in lower case without underscores.
REQUEST_FIELDS = frozenset(
    {"contents", "systeminstruction", "generationconfig", "safetysettings", "tools", "toolconfig", "cachedcontent"}
    | {"model"}
)
CONFIG_FIELDS = frozenset(
    {"stopsequences", "responsemimetype", "responseschema", "responsejsonschema", "responsemodalities", "temperature"}
    | {"candidatecount", "maxoutputtokens", "topp", "topk", "seed", "presencepenalty", "frequencypenalty"}
    | {"responselogprobs", "logprobs", "enableenhancedcivicanswers", "speechconfig", "thinkingconfig", "imageconfig"}
    | {"mediaresolution", "responseformat"}
)
SCHEMA_KEYWORDS = ("enum", "required", "minItems", "maxItems", "minimum", "maximum", "minLength", "maxLength")


def line_problem(line: bytes) -> str:
    """Return why create refuses a line, "" if it accepts it."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"invalid JSON, near column {error.colno}: {error.msg}"
    request = value.get("request") if isinstance(value, dict) else None
    if not isinstance(request, dict):
        return "invalid JSON: no such field or not an object: 'request'"
    config = _get_either_case(request, "generationConfig") or {}
    for fields, known in ((request, REQUEST_FIELDS), (config, CONFIG_FIELDS)):
        for name in fields:
            if _normalize_name(name) not in known:
                column = line.find(f'"{name}"'.encode()) + 1
                return f"invalid JSON, near column {column}: no such field: '{name}'"
    return "" if request.get("contents") else "contents is not specified"


def _normalize_name(name: str) -> str:
    return name.replace("_", "").lower()


def _get_either_case(value: Mapping[str, Any], name: str) -> Any:
    """Return a member in camelCase or snake_case."""
    if name in value:
        return value[name]
    return value.get("".join(f"_{c.lower()}" if c.isupper() else c for c in name))


def parse_prompt(body: Row) -> Prompt:
    """Parse a GenerateContentRequest."""
    config = _get_either_case(body, "generationConfig") or {}
    system = _text(_get_either_case(body, "systemInstruction"))
    messages = [Message("system", system)] if system else []
    for content in body.get("contents", []):
        role = "assistant" if content.get("role") == "model" else "user"
        messages.append(Message(role, _text(content)))
    schema = _get_either_case(config, "responseJsonSchema") or json_schema(_get_either_case(config, "responseSchema"))
    if schema is None and _get_either_case(config, "responseMimeType") == "application/json":
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    return Prompt(
        messages=tuple(messages),
        schema=schema,
        max_tokens=_get_either_case(config, "maxOutputTokens"),
        temperature=config.get("temperature"),
        model=str(body.get("model", "")),
    )


def _text(content: Mapping[str, Any] | None) -> str:
    parts = (content or {}).get("parts", [])
    parts = [parts] if isinstance(parts, dict) else parts
    return "\n".join(part.get("text", "") for part in parts)


def json_schema(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Convert a responseSchema (OpenAPI subset, types in upper case) to a JSON Schema."""
    if schema is None:
        return None
    result: dict[str, Any] = {"type": str(schema.get("type", "string")).lower()}
    result |= {name: schema[name] for name in SCHEMA_KEYWORDS if name in schema}
    if "properties" in schema:
        result["properties"] = {name: json_schema(part) for name, part in schema["properties"].items()}
        result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = json_schema(schema["items"])
    return result


FINISH_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "refusal": "SAFETY"}


def generate_content_response(answer: Answer, model: str) -> Row:
    """Return a GenerateContentResponse; counts are JSON numbers here."""
    asked, written = answer.prompt_tokens, answer.completion_tokens
    return {
        "responseId": blake2b(answer.text.encode(), digest_size=12).hexdigest(),
        "usageMetadata": {
            "totalTokenCount": asked + written,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": asked}],
            "candidatesTokenCount": written,
            "promptTokenCount": asked,
        },
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": answer.text}]},
                "finishReason": FINISH_REASONS[answer.finish],
                "index": 0,
            }
        ],
        "modelVersion": model,
    }


def answered_row(key: str, model: str, answer: Answer) -> Row:
    """Return the line of an answered row; the order of its members differs between lines."""
    response = generate_content_response(answer, model)
    if len(answer.text) % 2:
        return {"response": response, "key": key}
    return {"key": key, "response": response}


def _failed_row(key: str, message: str, status: int) -> Row:
    _ = status
    return {"key": key, "error": {"code": INTERNAL, "message": message}}


def _cancelled_row(key: str) -> Row:
    return {"key": key, "error": {"code": CANCELLED}}


# Row faults

OTHER_MODEL = '{"modelVersion": "other-model"}'  # what `merge` merges if the fault has no text


def _error(old: Row, fault: RowFault) -> Row:
    code = INTERNAL if fault.code is None else fault.code
    error: Row = {"code": code}
    message = INTERNAL_MESSAGE if fault.message is None else fault.message
    return {"key": old["key"], "error": error | ({"message": message} if message else {})}


def _status(old: Row, fault: RowFault) -> Row:
    return {"key": old["key"], "status": _error(old, fault)["error"]}


def _blocked_prompt(old: Row, fault: RowFault) -> Row:
    usage = old["response"]["usageMetadata"]
    response = {
        "promptFeedback": {"blockReason": fault.reason or "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": usage["promptTokenCount"], "totalTokenCount": usage["promptTokenCount"]},
        "modelVersion": old["response"]["modelVersion"],
    }
    return {"key": old["key"], "response": response}


def _candidate(old: Row, finish: str, content: Row | None) -> Row:
    candidate: Row = {"finishReason": finish, "index": 0}
    if content is not None:
        candidate["content"] = content
    return {"response": old["response"] | {"candidates": [candidate]}, "key": old["key"]}


def _parts(old: Row, *parts: Row, finish: str = "STOP") -> Row:
    return _candidate(old, finish, {"role": "model", "parts": list(parts)})


def text_of(line: Row) -> str:
    """Return the text of an answered row."""
    return str(line["response"]["candidates"][0]["content"]["parts"][0]["text"])


def _finish(old: Row, fault: RowFault) -> Row:
    reason = fault.reason or {"recitation": "RECITATION", "safety": "SAFETY"}.get(fault.outcome, "BRAND_NEW_REASON")
    if fault.text is not None:
        return _parts(old, {"text": fault.text}, finish=reason)
    return _candidate(old, reason, None)


def _truncated(old: Row, fault: RowFault) -> Row:
    text = text_of(old)
    return _parts(old, {"text": text[: len(text) // 2] if fault.text is None else fault.text}, finish="MAX_TOKENS")


def _thought_only(old: Row, fault: RowFault) -> Row:
    thought = {"text": fault.text or "The user wants something.", "thought": True}
    usage = old["response"]["usageMetadata"] | {"thoughtsTokenCount": 7}
    usage["totalTokenCount"] += 7
    edited = _parts(old, thought)
    edited["response"]["usageMetadata"] = usage
    return edited


def _edited_text(old: Row, fault: RowFault) -> Row:
    return _parts(old, {"text": edit_text(text_of(old), fault)})


def _extra_fields(old: Row, fault: RowFault) -> Row:
    _ = fault
    usage = old["response"]["usageMetadata"] | {"serviceTier": "BATCH"}
    return old | {"response": old["response"] | {"usageMetadata": usage, "novelty": {"a": [1]}}, "tags": []}


def _thoughts_and_cache(old: Row, fault: RowFault) -> Row:
    """Add to the usage: half of the prompt is cached; seven thought tokens are billed as output."""
    _ = fault
    usage = dict(old["response"]["usageMetadata"])
    usage |= {"cachedContentTokenCount": usage["promptTokenCount"] // 2, "thoughtsTokenCount": 7}
    usage["totalTokenCount"] += 7
    return old | {"response": old["response"] | {"usageMetadata": usage}}


def _merge(old: Row, fault: RowFault) -> Row:
    return old | {"response": merge_patch(old["response"], orjson.loads(fault.text or OTHER_MODEL))}


FORMAT = RowFormat(
    key_field="key",
    body_field="request",
    prompt=parse_prompt,
    job_problem=lambda _lines, _serves, _endpoint: "",  # create has looked at every line and at the model
    refusal=lambda _body, _serves: "",
    row=answered_row,
    failed_row=_failed_row,
    cancelled=_cancelled_row,
    failed=lambda line: "response" not in line,
    errors_apart=False,
    edits={
        "error": _error,
        "status": _status,
        "http_status": _error,
        "neither": lambda old, _: {"key": old["key"]},
        "blocked_prompt": _blocked_prompt,
        "safety": _finish,
        "recitation": _finish,
        "finish": _finish,
        "truncated": _truncated,
        "no_parts": lambda old, _: _candidate(old, "STOP", {"role": "model"}),
        "thought_only": _thought_only,
        "extra_fields": _extra_fields,
        "thoughts_and_cache": _thoughts_and_cache,
        "merge": _merge,
        **dict.fromkeys(TEXT_EDITS, _edited_text),
    },
)
