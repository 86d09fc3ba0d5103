"""Render the lines of round files and of the rejected list, and the receipt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import orjson

from batchgen.core.dialogue import STAGES, Turn, group_into_turns
from batchgen.core.json_template import (
    KEY_PLACEHOLDER,
    LineTemplate,
    encode_strings,
    parse_line_template,
    text_placeholders,
)
from batchgen.ledger.receipt import receipt
from batchgen.ledger.run import Run

CHUNK = 1_000  # conversations that are read and written at once


def round_lines(run: Run, number: int) -> Iterator[tuple[bytes, ...]]:
    """Yield (turn of round `number`, first `number` rounds) of every conversation complete up to that round, sorted by
    id.

    Each item holds the lines of many conversations.
    """
    return _render_lines(run, number, _single_turn_template(number), _history_template(number))


def single_turns(run: Run, number: int) -> Iterator[bytes]:
    """Yield the first part of `round_lines` alone."""
    return chain.from_iterable(_render_lines(run, number, _single_turn_template(number)))


def histories(run: Run, number: int) -> Iterator[bytes]:
    """Yield the second part of `round_lines` alone."""
    return chain.from_iterable(_render_lines(run, number, _history_template(number)))


def _single_turn_template(number: int) -> LineTemplate:
    places = range((number - 1) * len(STAGES), number * len(STAGES))
    return parse_line_template(orjson.dumps({"id": KEY_PLACEHOLDER, **Turn(*text_placeholders(places))._asdict()}))


def _history_template(number: int) -> LineTemplate:
    texts = text_placeholders(range(number * len(STAGES)))
    return parse_line_template(
        orjson.dumps({"id": KEY_PLACEHOLDER, "rounds": [turn._asdict() for turn in group_into_turns(texts)]})
    )


def _render_lines(run: Run, number: int, *templates: LineTemplate) -> Iterator[tuple[bytes, ...]]:
    """Yield the lines of each template. Texts are read and escaped once for all templates."""
    identity = run.names().id_format()
    places = range(min(template.shown.start for template in templates), number * len(STAGES))
    for numbers, texts in run.store.dialogues.completed_up_to(number * len(STAGES), places, CHUNK):
        pieces, ids = encode_strings(texts), [identity % one for one in numbers]
        columns = {place: pieces[order :: len(places)] for order, place in enumerate(places)}
        yield tuple(template.lines(ids, columns) for template in templates)


def rejected_lines(run: Run) -> Iterator[bytes]:
    """Yield every rejected conversation, with its step and the reason."""
    names = run.names()
    for number, step, reason, detail, attempts in run.store.dialogues.rejected_conversations():
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
    """Return the receipt as one JSON object."""
    return orjson.dumps(receipt(run.store, run.settings), option=orjson.OPT_INDENT_2) + b"\n"
