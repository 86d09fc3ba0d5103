"""Results against requests, as an algebra of tables (polars). Pure.

Answers are matched by key, never by position; every request sent has exactly one outcome afterwards, and rows that we
never asked for are told apart instead of being dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from batchgen.outcomes import Reason, Reply, Usage, one_per_key, total
from batchgen.records import Settled

SENT = pl.Schema({"number": pl.Int64, "key": pl.String})
OUTCOMES = pl.Schema(
    {
        "key": pl.String,
        "reason": pl.String,
        "text": pl.String,
        "detail": pl.String,
        "follow_up": pl.String,
        "reply": pl.UInt32,
    }
)
SETTLED = ("number", "reason", "text", "detail", "follow_up")


class Merged(NamedTuple):
    """A result file against its request file.

    `settled` has one entry for every request, in request order; `usage` maps a reason to (requests, tokens) and
    includes what strangers and billed lines without a key cost; `strangers` are keys that this batch never sent;
    `keyless` counts lines without a key.
    """

    settled: list[Settled]
    usage: Mapping[Reason, tuple[int, Usage]]
    strangers: list[str]
    keyless: int


def sent(keys: Mapping[str, int]) -> pl.DataFrame:
    """The requests of a batch: key -> conversation number, in file order."""
    return pl.DataFrame({"number": list(keys.values()), "key": list(keys)}, schema=SENT)


def outcomes(replies: Sequence[Reply]) -> pl.DataFrame:
    """One row per reply; `reply` is its position in `replies`. Keys must be unique."""
    columns = {
        "key": [reply.key for reply in replies],
        "reason": [str(reply.reason) for reply in replies],
        "text": [reply.text for reply in replies],
        "detail": [reply.detail for reply in replies],
        "follow_up": [reply.follow_up for reply in replies],
        "reply": range(len(replies)),
    }
    return pl.DataFrame(columns, schema=OUTCOMES)


def settle(requests: pl.DataFrame, found: pl.DataFrame, absent: Reason, why: str) -> pl.DataFrame:
    """One row per request sent, in its order; a request without an outcome is `absent`."""
    joined = requests.join(found, on="key", how="left", validate="1:1", maintain_order="left")
    return joined.with_columns(
        pl.col("detail").fill_null(why),
        pl.col("reason").fill_null(str(absent)),
        pl.col("text", "follow_up").fill_null(""),
    )


def merge(keys: Mapping[str, int], replies: Sequence[Reply], absent: Reason, why: str) -> Merged:
    """Match `replies` (already judged) with the requests `keys`; what did not come back is `absent` because `why`."""
    known = one_per_key([reply for reply in replies if reply.key])
    kept = list(known.values())
    requests, found = sent(keys), outcomes(kept)
    table = settle(requests, found, absent, why)
    strangers = found.join(requests, on="key", how="anti", maintain_order="left")
    keyless = [reply for reply in replies if not reply.key]
    return Merged(
        settled=[
            Settled(number, Reason(reason), text, detail, follow_up)
            for number, reason, text, detail, follow_up in table.select(SETTLED).iter_rows()
        ],
        usage=_usage(table, strangers, kept, [reply for reply in keyless if any(reply.usage)]),
        strangers=strangers["key"].to_list(),
        keyless=len(keyless),
    )


def _usage(
    table: pl.DataFrame, strangers: pl.DataFrame, replies: Sequence[Reply], keyless: Sequence[Reply]
) -> dict[Reason, tuple[int, Usage]]:
    """Requests and billed tokens by reason. What no request of ours asked for is superseded: paid, used by nobody."""
    used: dict[Reason, list[Usage]] = {}
    for reason, position in table.select("reason", "reply").iter_rows():
        used.setdefault(Reason(reason), []).append(Usage() if position is None else replies[position].usage)
    for reply in [*(replies[position] for position in strangers["reply"]), *keyless]:
        used.setdefault(Reason.SUPERSEDED, []).append(reply.usage)
    return {reason: (len(usages), total(usages)) for reason, usages in used.items()}
