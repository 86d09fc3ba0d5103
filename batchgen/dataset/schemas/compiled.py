"""The two schemas that every finished conversation is held to, as decoders.

tests/unit/dataset/test_schemas.py holds them equal.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Id = Annotated[str, Meta(pattern="^r1-[0-9]{6,}$")]
Text = Annotated[str, Meta(pattern=r"\S")]


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    question: Text
    answer: Text
    correction: Text


class SingleTurn(msgspec.Struct, forbid_unknown_fields=True):
    id: Id
    question: Text
    answer: Text
    correction: Text


class History(msgspec.Struct, forbid_unknown_fields=True):
    id: Id
    rounds: Annotated[list[Turn], Meta(min_length=1)]


DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    "single_turn": msgspec.json.Decoder(SingleTurn),
    "history": msgspec.json.Decoder(History),
}
