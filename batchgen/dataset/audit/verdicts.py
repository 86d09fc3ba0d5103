"""The judged turns of a run, from the verdicts in the store, and `data/audit.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import orjson

from batchgen.core.dialogue import Judgement
from batchgen.core.judging import ORDERS, Winner, winner
from batchgen.core.outcomes import split_verdict
from batchgen.ledger.run import Run


class JudgedTurn(NamedTuple):
    """A turn that was judged in both orders. `verdicts` and `reasons` are in the order of judging.ORDERS."""

    number: int
    round: int
    winner: Winner
    model: str
    verdicts: tuple[str, ...]
    reasons: tuple[str, ...]


def judged_turns(run: Run) -> Iterator[JudgedTurn]:
    """Yield every judged turn, in order. A turn with one verdict only is left out."""
    rows = ((Judgement.at(number), text, model) for number, text, model in run.store.dialogues.verdicts())
    for (number, round_number), found in groupby(rows, key=lambda row: row[0][:2]):
        judged = list(found)
        if len(judged) < len(ORDERS):
            continue
        verdicts, reasons = zip(*(split_verdict(text) for _, text, _ in judged), strict=True)
        models = ", ".join(dict.fromkeys(model for _, _, model in judged))
        yield JudgedTurn(number, round_number, winner(verdicts), models, verdicts, reasons)


def audit_lines(run: Run) -> Iterator[bytes]:
    """Yield the lines of `data/audit.jsonl`: one for each judged turn.

    `verdicts` and `reasons` have two items: the first of the request that showed the answer first, the second of the
    one that showed the correction first.
    """
    names = run.names()
    for turn in judged_turns(run):
        row = {
            "id": names.id(turn.number),
            "round": turn.round,
            "winner": turn.winner,
            "model": turn.model,
            "verdicts": turn.verdicts,
            "reasons": turn.reasons,
        }
        yield orjson.dumps(row) + b"\n"
