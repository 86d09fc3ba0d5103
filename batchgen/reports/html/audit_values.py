"""What the page shows of an audit: its figures, and the verdict of each judged turn. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.core.judging import ORDERS, Winner, shown_replies
from batchgen.core.wording import pluralize
from batchgen.dataset.audit.table import (
    HEADS,
    METHOD,
    audit_notes,
    audit_rows,
    judge_warning,
    judges,
    named_records,
    rate_text,
)
from batchgen.dataset.audit.verdicts import JudgedTurn

WINNER_WORDS = {
    Winner.CORRECTION: "the correction is better",
    Winner.ANSWER: "the answer is better",
    Winner.TIE: "a tie",
    Winner.INCONSISTENT: "inconsistent, it changed with the order",
}
ALL_PAIRS, LIKE_LENGTH = "all pairs", "pairs of like length"


def audit_values(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the values of the section and of the line at the top, from `figures.audit_record`; None without an audit.

    `rate` is the win rate after the seeds and `seeds` the seeds' own, as texts; "" if no such turn was judged.
    """
    if record is None:
        return None
    rounds = record["rounds"]
    own = next((one for one in rounds if one["round"] == 1), None)
    return {
        "judged": record["judged"],
        "judges": judges(record),
        "sample": f"{record['judged']:,} of {pluralize(record['turns'], 'turn')} of"
        f" {pluralize(record['conversations'], 'conversation')}",
        "method": METHOD,
        "rate": rate_text(record["later"]) if record["later"] else "",
        "seeds": rate_text(own) if own else "",
        "winners": {str(won): count for won in Winner if (count := sum(one[won] for one in rounds))},
        "heads": HEADS,
        "rows": audit_rows(record),
        "notes": [note for note in audit_notes(record) if note != judge_warning(record)],
        "warning": judge_warning(record),
    }


def win_rates(record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the points of the chart: `turns`, `kind`, `rate`, and the ends `low` and `high` of the interval."""
    points = []
    for name, one in named_records(record) if record else ():
        for kind, found in ((ALL_PAIRS, one), (LIKE_LENGTH, one["like_length"])):
            if found["win_rate"] is not None:
                low, high = found["win_rate_95"]
                points.append({"turns": name, "kind": kind, "rate": found["win_rate"], "low": low, "high": high})
    return points


def verdict_record(turn: JudgedTurn) -> list[Any]:
    """Return what the page shows of a judged turn: the winner, the judge, and two (order, verdict, reason)."""
    said = []
    for order, verdict, reason in zip(ORDERS, turn.verdicts, turn.reasons, strict=True):
        first, second = shown_replies(order)
        preferred = {"first": f"prefers the first, the {first}", "second": f"prefers the second, the {second}"}
        named = preferred.get(verdict, "finds neither better")
        said.append([f"{first} shown first", named, reason])
    return [str(turn.winner), turn.model, said]
