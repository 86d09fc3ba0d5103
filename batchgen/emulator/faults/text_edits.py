"""Change the text of a row for a row fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson

from batchgen.emulator.faults import RowFault

SEPARATORS = "\u2028\u2029\u0085"
# Replaces a lone surrogate until the line is bytes, because Python cannot encode a string that has one.
SURROGATE_MARK = "\ue000"
FIXED_CHARACTERS = 2  # a value this short is one that an enum of the schema fixed: no model can change it


def edit_text(text: str, fault: RowFault) -> str:
    """Return `text` as the fault changes it."""
    return TEXT_EDITS[fault.outcome](text, fault)


def _insert(text: str, inserted: str) -> str:
    return _map_texts(text, lambda part: f"{part[:5]}{inserted}{part[5:]}")


def _map_texts(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to a plain text, or to the string members of a JSON object that are not as short as an enum's."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return change(text)
    if not isinstance(value, dict):
        return change(text)
    changed = {
        name: change(part) if isinstance(part, str) and len(part) > FIXED_CHARACTERS else part
        for name, part in value.items()
    }
    return orjson.dumps(changed).decode()


def restore_surrogates(line: bytes) -> bytes:
    """Replace the marks by JSON escapes of a lone surrogate; in JSON inside JSON the backslash is escaped too."""
    if SURROGATE_MARK.encode() not in line:
        return line
    escape = b"\\\\ud83d" if b'{\\"' in line else b"\\ud83d"
    return line.replace(SURROGATE_MARK.encode(), escape)


TEXT_EDITS: Mapping[str, Callable[[str, RowFault], str]] = {
    "text": lambda _, fault: fault.text or "",
    "empty": lambda _text, _: "",
    "blank": lambda _text, _: " \n\t",
    "malformed_json": lambda text, _: text[:-2] if text.startswith("{") else '{"broken',
    "fenced": lambda text, _: f"```json\n{text}\n```",
    "separators": lambda text, _: _insert(text, SEPARATORS),
    "nul": lambda text, _: _insert(text, "\0"),
    "lone_surrogate": lambda text, _: _insert(text, SURROGATE_MARK),
    "duplicate_different": lambda text, fault: fault.text or _map_texts(text, lambda part: f"{part} Again."),
}
