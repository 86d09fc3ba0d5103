"""Compare the compiled checks with the JSON Schemas: both must accept and refuse the same records."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.dataset.schemas import plainly_valid, validator
from batchgen.dataset.schemas.compiled import DECODERS

TURN = {"question": "Why?", "answer": "So.", "correction": "Because."}
RECORDS: dict[str, dict[str, Any]] = {
    "single_turn": {"id": "r1-000001", **TURN},
    "history": {"id": "r1-000001", "rounds": [TURN, TURN]},
}
ODD: list[Any] = [
    None,
    "",
    " \n",
    "x",
    "r1-1",
    "r1-0000001",
    "r1-000001x",
    "\u00a0",
    "\u200b",
    1,
    1.5,
    True,
    [],
    {},
    [TURN],
]


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something odd in some places, things left out and things added."""
    if not draw(st.integers(0, 9)):
        return draw(st.sampled_from(ODD))
    if isinstance(value, list):
        return [draw(changed(item)) for item in value] * draw(st.sampled_from([1, 1, 1, 0]))
    if not isinstance(value, dict):
        return value
    kept = {name: draw(changed(item)) for name, item in value.items() if draw(st.integers(0, 19))}
    if not draw(st.integers(0, 9)):
        kept["more"] = draw(st.sampled_from(ODD))
    return kept


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_a_compiled_yes_is_the_schema_s_yes(name: str, data: st.DataObject) -> None:
    record = data.draw(changed(RECORDS[name]))
    valid = validator(name).is_valid(record)
    assert plainly_valid(name)(orjson.dumps(record)) == valid


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_no_record_is_left_to_the_validator(name: str) -> None:
    for line in (b"", b"{", b"\xff", b"[]", b"null"):
        assert not plainly_valid(name)(line)
    assert not plainly_valid("rejected")(b"{}")
