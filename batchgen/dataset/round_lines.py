"""What stands in the files that people read: the lines of round files and of the rejected list, and the receipt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import orjson

from batchgen.core.dialogue import STAGES, Turn, turns
from batchgen.core.json_template import KEY_MARK, Mould, marks, mould, strings
from batchgen.ledger.receipt import receipt
from batchgen.ledger.run import Run

AT_ONCE = 1_000  # conversations that are read and written in one go


def round_lines(run: Run, number: int) -> Iterator[tuple[bytes, ...]]:
    """(round `number`'s turn, the first `number` rounds) of every conversation complete up to that round, sorted by id:
    the lines of many at a time.
    """
    return _lines(run, number, _single_turn(number), _history(number))


def single_turns(run: Run, number: int) -> Iterator[bytes]:
    """The first of `round_lines` alone."""
    return chain.from_iterable(_lines(run, number, _single_turn(number)))


def histories(run: Run, number: int) -> Iterator[bytes]:
    """The second of `round_lines` alone."""
    return chain.from_iterable(_lines(run, number, _history(number)))


def _single_turn(number: int) -> Mould:
    places = range((number - 1) * len(STAGES), number * len(STAGES))
    return mould(orjson.dumps({"id": KEY_MARK, **Turn(*marks(places))._asdict()}))


def _history(number: int) -> Mould:
    texts = marks(range(number * len(STAGES)))
    return mould(orjson.dumps({"id": KEY_MARK, "rounds": [turn._asdict() for turn in turns(texts)]}))


def _lines(run: Run, number: int, *forms: Mould) -> Iterator[tuple[bytes, ...]]:
    """The lines of each form. The texts are read and escaped once for all."""
    identity = run.names().id_format()
    places = range(min(form.shown.start for form in forms), number * len(STAGES))
    for numbers, texts in run.store.dialogues.completed_up_to(number * len(STAGES), places, AT_ONCE):
        pieces, ids = strings(texts), [identity % one for one in numbers]
        columns = {place: pieces[order :: len(places)] for order, place in enumerate(places)}
        yield tuple(form.lines(ids, columns) for form in forms)


def rejected_lines(run: Run) -> Iterator[bytes]:
    """Every conversation left behind, with the step it was at and why."""
    names = run.names()
    for number, step, reason, detail, attempts in run.store.rejected_conversations():
        row = {
            "id": names.id(number),
            "round": step.round,
            "stage": step.stage,
            "reason": reason,
            "detail": detail,
            "attempts": attempts,
        }
        yield orjson.dumps(row) + b"\n"


def receipt_line(run: Run) -> bytes:
    """The receipt as one JSON object."""
    return orjson.dumps(receipt(run.store, run.settings, run.steps()), option=orjson.OPT_INDENT_2) + b"\n"
