"""Chat completions, which Together and the services of OpenAI's shape have in common: requests, replies, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from batchgen.core.jsonl import dict_or_empty
from batchgen.emulator.backends.builtin import Answer, Message, Prompt
from batchgen.emulator.faults import RowFault
from batchgen.emulator.faults.actions import merge_patch
from batchgen.emulator.faults.text_edits import TEXT_EDITS, edit_text
from batchgen.emulator.protocols.row_format import Row


def parse_prompt(body: Row) -> Prompt:
    """Parse a chat-completions body."""
    messages = tuple(Message(str(m.get("role", "user")), _content(m.get("content"))) for m in body.get("messages", []))
    wanted = body.get("response_format") or {}
    schema = wanted.get("schema") or (wanted.get("json_schema") or {}).get("schema")
    if schema is None and wanted.get("type") == "json_object":
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    return Prompt(messages, schema, limit, body.get("temperature"), str(body.get("model", "")))


def has_messages(body: Row) -> bool:
    """Return whether a body has messages that `parse_prompt` can read."""
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages) and all(isinstance(message, dict) for message in messages)


def _content(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(part.get("text", "")) for part in value)
    return str(value or "")


def custom_ids(lines: Iterable[bytes]) -> list[str]:
    """Return the custom_id of every request line, "" for a line without one."""
    return [str(_parsed(line).get("custom_id", "")) for line in lines]


def first_model(lines: Sequence[bytes]) -> str:
    """Return the model of the first request line, "" if there is none."""
    return str(dict_or_empty(_parsed(lines[0]).get("body")).get("model", "")) if lines else ""


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return dict_or_empty(orjson.loads(line))
    except orjson.JSONDecodeError:
        return {}


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
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop" if refused else answer.finish,
                "logprobs": None,
                "message": {"role": "assistant", **said, "tool_calls": []},
            }
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written},
    }


def text_of(line: Row) -> str:
    """Return the text of an answered row."""
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


# What row faults make of a row

OTHER_MODEL = '{"model": "other-model"}'  # what `merge` merges if the fault has no text


def with_body(old: Row, body: Row) -> Row:
    """Return a row with another body of its response."""
    return {**old, "response": {**old["response"], "body": body}}


def _http_status(old: Row, fault: RowFault) -> Row:
    message = fault.message or "Input validation error"
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return {**old, "response": {**old["response"], "status_code": fault.code or 400, "body": body}, "error": None}


def _choice(old: Row, finish: str, **message: Any) -> Row:
    body = old["response"]["body"]
    choice = body["choices"][0]
    changed = choice | {"finish_reason": finish, "message": choice["message"] | message}
    return with_body(old, {**body, "choices": [changed]})


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
    return {**with_body(old, body), "novelty": {"a": [1]}}


def _merge(old: Row, fault: RowFault) -> Row:
    return with_body(old, merge_patch(old["response"]["body"], orjson.loads(fault.text or OTHER_MODEL)))


def usage_with_thoughts(usage: Mapping[str, int]) -> dict[str, int]:
    """Return usage with seven reasoning tokens more, which are part of the completion."""
    more = dict(usage)
    more["completion_tokens"] += 7
    more["total_tokens"] += 7
    return more


EDITS: Mapping[str, Callable[[Row, RowFault], Row]] = {
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
    "merge": _merge,
    **dict.fromkeys(TEXT_EDITS, _edited_text),
}
