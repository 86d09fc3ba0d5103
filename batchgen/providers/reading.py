"""Reading what providers write, which may be anything: small pure helpers that both codecs share."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import orjson

from batchgen.outcomes import Reason, Reply, short


def read_lines(raw: bytes) -> Sequence[bytes]:
    """The lines of a result file.

    Bytes, split at line feeds only: U+2028, U+2029 and U+0085 may stand unescaped inside a JSON string.
    """
    return [line for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]


def load_row(raw: bytes) -> dict[str, Any] | Reply:
    """One result line as an object, or the Reply that says why it is none."""
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError:
        row = _loosely(raw)
    return row if isinstance(row, dict) else Reply("", Reason.UNREADABLE, detail="not a line of JSON")


def _loosely(raw: bytes) -> Any:
    """A lone surrogate escape is refused by orjson but is no reason to lose a paid text: outcomes.clean mends it."""
    try:
        return json.loads(raw)
    except ValueError:
        return None


_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL)


def unwrap(text: str, field: str, read: Reply) -> Reply:
    """The one field of a JSON reply; a Markdown fence around it is tolerated, anything else is MALFORMED."""
    inner = _FENCE.sub(r"\1", text.strip())
    try:
        value = json.loads(inner)  # not orjson: a lone surrogate escape is mended by outcomes.clean, not refused
    except ValueError as error:
        return read._replace(reason=Reason.MALFORMED, detail=short(f"not JSON: {error}"))
    found = value.get(field) if isinstance(value, dict) else None
    if not isinstance(found, str):
        return read._replace(reason=Reason.MALFORMED, detail=f"no text in field {field!r}")
    return read._replace(text=found)


def count(value: Any) -> int:
    """A token count; the protocol writes int64 as a string here and as a number there."""
    try:
        return max(int(value or 0), 0)
    except (TypeError, ValueError):
        return 0


def as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
