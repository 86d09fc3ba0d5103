"""The figures of an audit in words: a table and notes, for the terminal, the report and the dataset card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.core.judging import Winner

HEADS = ("turns", "judged", *map(str, Winner), "correction wins (95 %)", "of like length")
METHOD = (
    "Each pair is shown in both orders, and the judge is not told which reply is the correction. The correction wins if"
    " it is preferred in both orders; a verdict that changes with the order is inconsistent and not a win. Beside each"
    " win rate is its 95 % Wilson interval. Pairs of like length differ by at most a fifth: judges like long replies."
)


def named_records(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (name, record) of each round with judged turns and of all after the seeds, from `figures.audit_record`."""
    named = [("round 1, seeds" if one["round"] == 1 else f"round {one['round']}", one) for one in record["rounds"]]
    if sum(one["round"] > 1 for one in record["rounds"]) > 1:
        named.append(("after the seeds", record["later"]))
    return named


def audit_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row of texts, with the columns HEADS, for each of the `named_records`."""
    return [
        (
            name,
            f"{one['judged']:,}",
            *(_count_text(one, won) for won in Winner),
            rate_text(one),
            rate_text(one["like_length"]),
        )
        for name, one in named_records(record)
    ]


def _count_text(one: Mapping[str, Any], won: Winner) -> str:
    share = f" ({percent(one['inconsistent_share'])})" if won is Winner.INCONSISTENT else ""
    return f"{one[won]:,}{share}"


def rate_text(one: Mapping[str, Any]) -> str:
    """Format a win rate with its interval and the number of turns behind it."""
    if one["win_rate"] is None:
        return "-"
    low, high = one["win_rate_95"]
    return f"{percent(one['win_rate'])} ({percent(low)} to {percent(high)}) of {one['judged']:,}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def audit_notes(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the figures, one sentence each."""
    return [note for note in (_position_note(record), judge_warning(record)) if note]


def _position_note(record: Mapping[str, Any]) -> str:
    inconsistent, places = sum(one["inconsistent"] for one in record["rounds"]), record["preferred_place"]
    if not inconsistent:
        return ""
    return (
        f"Inconsistent: the judge changed its mind with the order in {percent(inconsistent / record['judged'])} of the"
        f" turns ({places['first']:,} times for the first reply, {places['second']:,} for the second)."
    )


def judge_warning(record: Mapping[str, Any]) -> str:
    """Return a warning if the judge may be partial, else ""."""
    if not record["judge_is_corrector"]:
        return ""
    return "The judge is the model that writes the corrections: it may prefer its own texts."


def judges(record: Mapping[str, Any]) -> Sequence[str]:
    """Return the models whose verdicts are counted; before the first verdict, the one that will be asked."""
    return record["models"] or [record["judge"]]
