"""Match the result rows of a batch with its requests, as polars tables. Pure.

Replies are matched by key, never by position. Each request gets exactly one outcome. Rows that no request asked for
are counted and returned, not dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from batchgen.core.outcomes import Reason, Reply, Usage, one_per_key, total_usage

REQUESTS_SCHEMA = pl.Schema({"number": pl.Int64, "key": pl.String})
REPLIES_SCHEMA = pl.Schema({"key": pl.String, "reply": pl.UInt32})


class MatchedResults(NamedTuple):
    """The replies of a batch, matched with its requests.

    `settled` maps the conversation of each request, in request order, to its reply. `usage` maps a reason to (requests,
    tokens); it includes rows with unknown keys and billed rows without a key. `unknown_keys` are keys that this batch
    did not send. `keyless` is the number of rows without a key.
    """

    settled: Mapping[int, Reply]
    usage: Mapping[Reason, tuple[int, Usage]]
    unknown_keys: list[str]
    keyless: int


def requests_frame(keys: Mapping[str, int]) -> pl.DataFrame:
    """Return the requests of a batch as a table, in file order. `keys` maps a key to a conversation number."""
    return pl.DataFrame({"number": list(keys.values()), "key": list(keys)}, schema=REQUESTS_SCHEMA)


def replies_frame(replies: Sequence[Reply]) -> pl.DataFrame:
    """Return a table with one row for each reply; `reply` is its index in `replies`. Keys must be unique."""
    return pl.DataFrame({"key": [reply.key for reply in replies], "reply": range(len(replies))}, schema=REPLIES_SCHEMA)


def join_replies(requests: pl.DataFrame, replies: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each request, in request order, then one for each reply that no request asked for.

    `reply` is null where none came back, `number` where there is no request.
    """
    return requests.join(replies, on="key", how="full", coalesce=True, validate="1:1", maintain_order="left_right")


def match_results(keys: Mapping[str, int], replies: Sequence[Reply], absent: Reason, why: str) -> MatchedResults:
    """Match parsed `replies` with the requests `keys` (key to conversation number).

    The outcome of a request without a reply has the reason `absent` and the detail `why`.
    """
    kept = list(one_per_key([reply for reply in replies if reply.key]).values())
    table = join_replies(requests_frame(keys), replies_frame(kept))
    asked, unasked = table.head(len(keys)), table.slice(len(keys))
    keyless = [reply for reply in replies if not reply.key]
    missing = Reply("", absent, detail=why)
    answers = [missing if position is None else kept[position] for position in asked["reply"].to_list()]
    superseded = [kept[position] for position in unasked["reply"].to_list()]
    superseded += [reply for reply in keyless if any(reply.usage)]
    return MatchedResults(
        settled=dict(zip(asked["number"].to_list(), answers, strict=True)),
        usage=_usage(answers, superseded),
        unknown_keys=unasked["key"].to_list(),
        keyless=len(keyless),
    )


def _usage(answers: Sequence[Reply], superseded: Sequence[Reply]) -> dict[Reason, tuple[int, Usage]]:
    """Map each reason to (requests, billed tokens). Replies without a request are superseded: paid for, not used."""
    used: dict[Reason, list[Usage]] = {}
    for reply in answers:
        used.setdefault(reply.reason, []).append(reply.usage)
    if superseded:
        used.setdefault(Reason.SUPERSEDED, []).extend(reply.usage for reply in superseded)
    return {reason: (len(usages), total_usage(usages)) for reason, usages in used.items()}
