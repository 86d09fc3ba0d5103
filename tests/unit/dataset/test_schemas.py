"""Test that the schemas accept every record the program writes, and refuse records that differ a little."""

from __future__ import annotations

from typing import Any

import pytest

from batchgen.dataset.schemas import validator

TURN = {"question": "Why?", "answer": "So.", "correction": "Because."}
SINGLE = {"id": "r1-000001", **TURN}
HISTORY = {"id": "r1-1000000", "rounds": [TURN, TURN]}
REJECTED = {"id": "r1-000001", "round": 2, "stage": "answer", "reason": "blocked", "detail": "", "attempts": 1}


@pytest.mark.parametrize(("name", "record"), [("single_turn", SINGLE), ("history", HISTORY), ("rejected", REJECTED)])
def test_records_of_the_program_are_valid(name: str, record: dict[str, Any]) -> None:
    assert validator(name).is_valid(record)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("single_turn", {**SINGLE, "id": "r1-1"}),
        ("single_turn", {**SINGLE, "id": "r1-000001\n"}),
        ("single_turn", {**SINGLE, "answer": " \n\u00a0"}),
        ("single_turn", {**SINGLE, "answer": None}),
        ("single_turn", {**SINGLE, "more": 1}),
        ("single_turn", TURN),
        ("single_turn", []),
        ("history", {**HISTORY, "rounds": []}),
        ("history", {**HISTORY, "rounds": [TURN, {**TURN, "question": ""}]}),
        ("history", {**HISTORY, "rounds": [{"question": "Why?"}]}),
        ("rejected", {**REJECTED, "stage": "other"}),
        ("rejected", {**REJECTED, "round": 1}),
    ],
)
def test_what_is_a_little_off_is_not(name: str, record: object) -> None:
    assert not validator(name).is_valid(record)
