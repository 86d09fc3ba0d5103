"""The files that people read: each round's turns and histories, who was left behind, and the receipt.

They are derived from the store and can be written anew at any time. A round file is replaced as a whole, atomically,
when a conversation has completed that round.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from batchgen.crash import crashpoint
from batchgen.dialogue import STAGES
from batchgen.files import write_durably
from batchgen.receipt import receipt
from batchgen.session import Session

REJECTED, RECEIPT = "rejected", "receipt"
PRICES = "receipt_prices"  # the user's prices that the receipt was written with


def refresh(session: Session) -> list[Path]:
    """Write the derived files that are older than the store or missing. Returns what was written."""
    written: list[Path] = []
    stale = set(session.store.stale())
    for number in range(1, session.settings.rounds + 1):
        name = f"round{number}"
        if name in stale or (not _there(session, number) and _reached(session, number)):
            written += _write_round(session, number)
            crashpoint("round_files_written")
            session.store.fresh(name)
    if REJECTED in stale or not session.layout.rejected.exists():
        write_durably(session.layout.rejected, rejected_lines(session))
        session.store.fresh(REJECTED)
        written.append(session.layout.rejected)
    if RECEIPT in stale or not session.layout.receipt.exists() or _prices_changed(session):
        write_durably(session.layout.receipt, [receipt_line(session)])
        session.store.set_meta(PRICES, repr(session.settings.prices))
        session.store.fresh(RECEIPT)
        written.append(session.layout.receipt)
    return written


def _prices_changed(session: Session) -> bool:
    """Whether the user has set prices since the receipt was written: what was unpriced may have one now."""
    return session.store.meta(PRICES) != repr(session.settings.prices)


def _there(session: Session, number: int) -> bool:
    return session.layout.single_turn(number).exists() and session.layout.history(number).exists()


def _reached(session: Session, number: int) -> bool:
    """Whether any conversation is complete up to that round."""
    return number == 1 or bool(session.store.totals()[1].get(number * len(STAGES) - 1))


def _write_round(session: Session, number: int) -> list[Path]:
    paths = [session.layout.single_turn(number), session.layout.history(number)]
    write_durably(paths[0], single_turn_lines(session, number))
    write_durably(paths[1], history_lines(session, number))
    return paths


def single_turn_lines(session: Session, number: int) -> Iterator[bytes]:
    """Round `number`'s turn of every conversation complete up to that round, sorted by id."""
    names = session.names()
    for conversation in session.store.dialogues(number * len(STAGES)):
        turn = conversation.turns[number - 1]
        yield orjson.dumps({"id": names.id(conversation.number), **turn._asdict()}) + b"\n"


def history_lines(session: Session, number: int) -> Iterator[bytes]:
    """The first `number` rounds of every conversation complete up to that round, sorted by id."""
    names = session.names()
    for conversation in session.store.dialogues(number * len(STAGES)):
        rounds = [turn._asdict() for turn in conversation.turns]
        yield orjson.dumps({"id": names.id(conversation.number), "rounds": rounds}) + b"\n"


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
