"""What stands in the files that people read: the lines of round files and of the rejected list, and the receipt."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from batchgen.dialogue import STAGES, Turn, turns
from batchgen.lines import KEY_MARK, Mould, marks, mould, strings
from batchgen.receipt import receipt
from batchgen.session import Session

AT_ONCE = 1_000  # conversations that are read and written in one go


def single_turns(session: Session, number: int) -> Iterator[bytes]:
    """Round `number`'s turn of every conversation complete up to that round, sorted by id: many lines at a time."""
    places = range((number - 1) * len(STAGES), number * len(STAGES))
    record = {"id": KEY_MARK, **Turn(*marks(places))._asdict()}
    return _lines(session, number, mould(orjson.dumps(record)))


def histories(session: Session, number: int) -> Iterator[bytes]:
    """The first `number` rounds of every conversation complete up to that round, likewise."""
    texts = marks(range(number * len(STAGES)))
    record = {"id": KEY_MARK, "rounds": [turn._asdict() for turn in turns(texts)]}
    return _lines(session, number, mould(orjson.dumps(record)))


def _lines(session: Session, number: int, form: Mould) -> Iterator[bytes]:
    identity, places = session.names().id_format(), form.shown
    for numbers, texts in session.store.reached(number * len(STAGES), places, AT_ONCE):
        pieces = strings(texts)
        columns = {place: pieces[order :: len(places)] for order, place in enumerate(places)}
        yield form.lines([identity % one for one in numbers], columns)


def rejected_lines(session: Session) -> Iterator[bytes]:
    """Every conversation left behind, with the step it was at and why."""
    names = session.names()
    for number, step, reason, detail, attempts in session.store.left_behind():
        row = {
            "id": names.id(number),
            "round": step.round,
            "stage": step.stage,
            "reason": reason,
            "detail": detail,
            "attempts": attempts,
        }
        yield orjson.dumps(row) + b"\n"


def receipt_line(session: Session) -> bytes:
    """The receipt as one JSON object."""
    return orjson.dumps(receipt(session.store, session.settings, session.steps()), option=orjson.OPT_INDENT_2) + b"\n"
