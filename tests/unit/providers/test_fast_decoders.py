"""Compare the fast decoder of result lines with the full one: equal results, or the line is left to the full one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.outcomes import Reason, Reply
from batchgen.providers import fast_decoders, gemini_codec, together_codec

ODD: list[Any] = [
    None,
    "",
    "x",
    "STOP",
    "stop",
    " \n",
    '{"question": "Why?"}',
    0,
    7,
    -1,
    10**13,
    1.0,
    True,
    [],
    {},
    [{}],
    "12",
]
GEMINI = {
    "key": "r1-000001.r2.question.a1.beef",
    "response": {
        "candidates": [
            {"content": {"parts": [{"text": '{"question": "Why?"}'}], "role": "model"}, "finishReason": "STOP"}
        ],
        "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": 4, "thoughtsTokenCount": 2},
        "modelVersion": "gemini-2.5-flash-lite",
    },
}
TOGETHER = {
    "custom_id": "r1-000001.r2.answer.a1.beef",
    "response": {
        "status_code": 200,
        "body": {
            "model": "llama",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": '{"question": "Why?"}'},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34},
        },
    },
}
ADDED = [
    "error", "status", "status_code", "thought", "text", "refusal", "cached_tokens", "reasoning_tokens", "metadata",
    "thoughtsTokenCount", "cachedContentTokenCount", "toolUsePromptTokenCount", "prompt_tokens_details",
    "completion_tokens_details", "tool_calls", "function_call", "content",
]  # fmt: skip
CODECS = [
    (GEMINI, fast_decoders.gemini, gemini_codec.careful_reply),
    (TOGETHER, fast_decoders.together, together_codec.careful_reply),
]


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something odd in some places, things left out and things added."""
    what = draw(st.sampled_from(["keep"] * 9 + ["odd"]))
    if what == "odd":
        return draw(st.sampled_from(ODD))
    if isinstance(value, list):
        items = [draw(changed(item)) for item in value]
        return items * draw(st.sampled_from([1, 1, 1, 2, 0]))
    if not isinstance(value, dict):
        return value
    kept = {name: draw(changed(item)) for name, item in value.items() if draw(st.integers(0, 15))}
    if not draw(st.integers(0, 3)):
        kept[draw(st.sampled_from(ADDED))] = draw(st.sampled_from(ODD))
    return kept


@pytest.mark.parametrize(("row", "quick", "careful"), CODECS, ids=["gemini", "together"])
@pytest.mark.parametrize("fields", [(), ("question",), ("correction", "question")], ids=str)
@given(data=st.data())
def test_both_ways_read_the_same(
    row: Any,
    quick: Callable[..., Reply | None],
    careful: Callable[..., Reply],
    fields: tuple[str, ...],
    data: st.DataObject,
) -> None:
    raw = orjson.dumps(data.draw(changed(row)))
    read = quick(raw, fields)
    assert read is None or read == careful(raw, fields)


@pytest.mark.parametrize(("row", "quick", "careful"), CODECS, ids=["gemini", "together"])
def test_a_plain_line_is_read_the_quick_way(
    row: Any, quick: Callable[..., Reply | None], careful: Callable[..., Reply]
) -> None:
    raw = orjson.dumps(row)
    read = quick(raw, ("question",))
    assert read is not None
    assert read == careful(raw, ("question",))
    assert (read.reason, read.text) == (Reason.ACCEPTED, "Why?")


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'{"key": "\xff"}', b"[" * 5000, b"\xef\xbb\xbf{}"])
@pytest.mark.parametrize("quick", [fast_decoders.gemini, fast_decoders.together])
def test_what_is_no_row_is_left_to_the_careful_way(quick: Callable[..., Reply | None], raw: bytes) -> None:
    assert quick(raw, ()) is None
