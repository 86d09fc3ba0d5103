"""The figures of an audit as plain text, for the terminal and the dataset card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.core.judging import Winner
from batchgen.core.wording import as_invoked, pluralize

HEADS = ("turns", "judged", *map(str, Winner), "correction wins (95 %)", "of like length")


def audit_text(record: Mapping[str, Any]) -> str:
    """Return the answer of `audit` as plain text."""
    judge = ", ".join(record["models"]) or record["judge"]
    turns = f"{record['judged']:,} of {pluralize(record['turns'], 'turn')} judged by {judge}"
    lines = [f"{pluralize(record['conversations'], 'conversation')}, {turns}."]
    rows = audit_rows(record)
    if rows:
        widths = [max(len(row[place]) for row in (HEADS, *rows)) for place in range(len(HEADS))]
        lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (HEADS, *rows)), ""]
    lines += audit_notes(record)
    if record["judged"] < record["turns"]:
        lines.append(as_invoked("The next ticks go on (batchgen collect --advance); batchgen audit shows the figures."))
    return "\n".join(lines)


def audit_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row of texts, with the columns HEADS, for each round with judged turns and for all after the seeds."""
    named = [("round 1, seeds" if one["round"] == 1 else f"round {one['round']}", one) for one in record["rounds"]]
    if sum(one["round"] > 1 for one in record["rounds"]) > 1:
        named.append(("after the seeds", record["later"]))
    return [
        (
            name,
            f"{one['judged']:,}",
            *(f"{one[won]:,}" for won in Winner),
            rate_text(one),
            rate_text(one["like_length"]),
        )
        for name, one in named
    ]


def rate_text(one: Mapping[str, Any]) -> str:
    """Format a win rate with its interval and the number of turns behind it."""
    if one["win_rate"] is None:
        return "-"
    low, high = one["win_rate_95"]
    return f"{one['win_rate']:.0%} ({low:.0%} to {high:.0%}) of {one['judged']:,}"


def audit_notes(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the figures, one sentence each."""
    notes = []
    inconsistent = sum(one["inconsistent"] for one in record["rounds"])
    if inconsistent:
        places = record["preferred_place"]
        notes.append(
            f"Inconsistent: the judge changed its mind with the order in {inconsistent / record['judged']:.0%} of the"
            f" turns ({places['first']:,} times for the first reply, {places['second']:,} for the second)."
        )
    if record["judge_is_corrector"]:
        notes.append("The judge is the model that writes the corrections: it may prefer its own texts.")
    return notes
