"""Encoding and decoding JSON Lines. Data from providers may be invalid, so every function checks it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from batchgen.core.dialogue import ECHO_FIELD
from batchgen.core.outcomes import THINK, Reason, Reply, without_thoughts
from batchgen.core.text import one_line, replace_surrogates

MAX_TOKEN_COUNT = 10**12  # a larger count is invalid, and might not fit the integers of the store
# These may stand in a JSON string as they are, but readers like Python's splitlines end a line at them.
LINE_ENDS = ("\u2028", "\u2029", "\x85")


def encode_request_line(request: dict[str, Any]) -> bytes:
    """Encode one request as a line of JSON without the line feed. No reader takes it for two lines."""
    return escape_line_ends(orjson.dumps(request))


def escape_line_ends(encoded: bytes, ends: Iterable[str] = LINE_ENDS) -> bytes:
    """Escape `ends` in encoded JSON, so that no reader ends a line at them."""
    for end in ends:
        encoded = encoded.replace(end.encode(), b"\\u%04x" % ord(end))
    return encoded


def split_lines(raw: bytes) -> Sequence[bytes]:
    """Split a result file into its lines, without blank ones.

    Only line feeds end a line: U+2028, U+2029 and U+0085 may stand unescaped in a JSON string.
    """
    return [line for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]


def decode_row(raw: bytes) -> dict[str, Any] | Reply:
    """Decode one result line as an object. Returns an UNREADABLE Reply if it is not one."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        row = _load_with_surrogates(raw)
    return row if isinstance(row, dict) else Reply("", Reason.UNREADABLE, detail="not a line of JSON")


def _load_with_surrogates(raw: bytes) -> Any:
    """Decode JSON with lone surrogates, which orjson refuses: the text was paid for, so they are replaced."""
    try:
        return json.loads(replace_surrogates(json.dumps(json.loads(raw), ensure_ascii=False)))
    except (ValueError, RecursionError):
        return None


def parse_reply_fields(text: str, fields: Sequence[str], read: Reply) -> Reply:
    """Read the fields of a JSON reply: the first is the reply's text, a second one its follow-up question.

    <think> blocks before the JSON are removed. Returns a MALFORMED reply if the text is not such JSON.
    """
    had_thoughts = text.lstrip().startswith(THINK)
    try:
        value = load_json_object(without_thoughts(text) if had_thoughts else text)
        found = _texts_of(value, fields)
    except ValueError as error:
        return read._replace(reason=Reason.MALFORMED, detail=one_line(error))
    follow_up = found[1] if len(found) > 1 else ""
    echo = text_or_empty(value.get(ECHO_FIELD))
    return Reply(read.key, read.reason, found[0], read.detail, read.usage, read.model, follow_up, had_thoughts, echo)


def load_json_object(text: str) -> dict[str, Any]:
    """Decode a JSON object; a Markdown fence around it is tolerated. Anything else is empty.

    Raises ValueError if the text is not JSON.
    """
    try:
        return dict_or_empty(_load_json(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def _texts_of(value: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    """Return the texts of `fields`. Raises ValueError if one is missing; other fields are passed over."""
    found: list[str] = []
    for field in fields:
        words = value.get(field)
        if not isinstance(words, str) or (found and not words.strip()):
            raise ValueError(f"no text in field {field!r}")
        found.append(words)
    return found


def _load_json(text: str) -> Any:
    """Decode JSON. orjson refuses lone surrogates, which `core.text.clean_text` replaces later."""
    try:
        return orjson.loads(text)  # nearly all replies are plain JSON
    except ValueError:
        text = _strip_code_fence(text)
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)


def _strip_code_fence(text: str) -> str:
    # Not a regular expression: its time grew with the cube of the length for a reply of line feeds alone.
    text = text.strip()
    if len(text) >= 2 * len(_FENCE) and text.startswith(_FENCE) and text.endswith(_FENCE):
        return text.removeprefix(_FENCE).removesuffix(_FENCE).removeprefix("json")
    return text


_FENCE = "```"


_TEXT_PARTS = frozenset({"text", "output_text"})
_THOUGHT_PARTS = frozenset({"thinking", "reasoning", "redacted_thinking"})


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a chat message: its content, or the joined text parts of a list; "" if there is none.

    Parts that hold thoughts are left out. Raises ValueError for a tool call and for any other kind of part.
    """
    if message.get("tool_calls") or message.get("function_call"):
        raise ValueError("a tool call instead of a text")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"content of the type {type(content).__name__}")  # noqa: TRY004 - as for any odd part
    return "".join(map(_part, content))


def _part(part: Any) -> str:
    kind, text = text_or_empty(dict_or_empty(part).get("type")), dict_or_empty(part).get("text")
    if kind in _THOUGHT_PARTS:
        return ""
    if kind not in _TEXT_PARTS or not isinstance(text, str):
        raise ValueError(f"a content part of the type {kind or type(part).__name__}")
    return text


def message_refusal(message: Mapping[str, Any]) -> str:
    """Return the text of a refusal, which has its own field or content part; "" if there is none."""
    content = message.get("content")
    parts = [dict_or_empty(part) for part in content] if isinstance(content, list) else []
    return next((one_line(words) for part in (message, *parts) if (words := part.get("refusal"))), "")


def token_count(value: Any) -> int:
    """Read a token count. Protocols write int64 as a string or as a number; an invalid count is read as 0."""
    if not value:
        return 0
    if type(value) is int and 0 <= value <= MAX_TOKEN_COUNT:  # nearly all counts
        return value
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return number if 0 <= number <= MAX_TOKEN_COUNT else 0


def dict_or_empty(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
