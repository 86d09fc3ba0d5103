"""The files that people read: each round's turns and histories, who was left behind, and the receipt.

They are derived from the store and can be written anew at any time. A round file is replaced as a whole, atomically,
when a conversation has completed that round; a large one is not, until enough have, or nothing more is to come.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from batchgen.crash import crashpoint
from batchgen.dialogue import STAGES, Turn, turns
from batchgen.files import write_durably
from batchgen.lines import KEY_MARK, Mould, marks, mould, strings
from batchgen.receipt import receipt
from batchgen.session import Session
from batchgen.status import LIVE_STATES

ROUND, REJECTED, RECEIPT = "round", "rejected", "receipt"
PRICES = "receipt_prices"  # the user's prices that the receipt was written with


SMALL = 20_000  # lines; a file of so many or fewer is written anew at once
SHARE = (
    0.25  # a larger one when so much of what it holds waits to be added: each line is written a few times in all ...
)
LONGEST_SECONDS = 3600.0  # ... or when it has waited so long, or when nothing is under way any more
AT_ONCE = 1_000  # conversations that are read and written in one go


def refresh(session: Session) -> list[Path]:
    """Write the derived files that are missing, or older than the store and due. Returns what was written."""
    stale = session.store.stale()
    written: list[Path] = []
    for name, lines, there in _files(session):
        if not there or (name in stale and _due(session, name, lines, stale[name])):
            written += _write(session, name, lines)
    if RECEIPT in stale or not session.layout.receipt.exists() or _prices_changed(session):
        written += _write_receipt(session)
    return written


def catch_up(session: Session) -> list[Path]:
    """Write all that is older than the store, for a command that reads the files. What is missing stays so."""
    stale = session.store.stale()
    written = [path for name, lines, _ in _files(session) if name in stale for path in _write(session, name, lines)]
    return written + (_write_receipt(session) if RECEIPT in stale else [])


def _files(session: Session) -> Iterator[tuple[str, int, bool]]:
    """(name, lines that it should have, whether it is there) of each round's files and of the rejected list."""
    for number in range(1, session.settings.rounds + 1):
        if lines := _reached(session, number):
            yield f"{ROUND}{number}", lines, _there(session, number)
    yield REJECTED, session.store.rejected(), session.layout.rejected.exists()


def _write(session: Session, name: str, lines: int) -> list[Path]:
    if name == REJECTED:
        paths = [session.layout.rejected]
        write_durably(session.layout.rejected, rejected_lines(session))
    else:
        paths = _write_round(session, int(name.removeprefix(ROUND)))
        crashpoint("round_files_written")
    if lines > SMALL:
        session.store.set_meta(_held(name), str(lines))
    session.store.fresh(name)
    return paths


def _write_receipt(session: Session) -> list[Path]:
    write_durably(session.layout.receipt, [receipt_line(session)])
    session.store.set_meta(PRICES, repr(session.settings.prices))
    session.store.fresh(RECEIPT)
    return [session.layout.receipt]


def _due(session: Session, name: str, lines: int, since: float | None) -> bool:
    """Whether a stale file that should have `lines` lines is written now; if not, it is noted since when it waits."""
    if lines <= SMALL:
        return True
    held = int(session.store.meta(_held(name)) or 0)
    if abs(lines - held) >= SHARE * held or not under_way(session):
        return True
    if since is None:
        session.store.put_off(name, session.now())
        return False
    return not 0 <= session.now() - since < LONGEST_SECONDS


def _held(name: str) -> str:
    return f"lines:{name}"


def under_way(session: Session) -> bool:
    """Whether any conversation is in flight or ready: something may still move."""
    return bool(session.store.batches(*LIVE_STATES)) or any(map(session.store.ready_attempts, session.steps()))


def _prices_changed(session: Session) -> bool:
    """Whether the user has set prices since the receipt was written: what was unpriced may have one now."""
    return session.store.meta(PRICES) != repr(session.settings.prices)


def _there(session: Session, number: int) -> bool:
    return session.layout.single_turn(number).exists() and session.layout.history(number).exists()


def _reached(session: Session, number: int) -> int:
    """How many conversations are complete up to that round."""
    return session.conversations if number == 1 else session.store.settled_at(number * len(STAGES) - 1)[0]


def _write_round(session: Session, number: int) -> list[Path]:
    paths = [session.layout.single_turn(number), session.layout.history(number)]
    write_durably(paths[0], single_turns(session, number))
    write_durably(paths[1], histories(session, number))
    return paths


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
