"""Match result lines to requests: each request counted once, each token booked, nothing matched by position."""

from __future__ import annotations

from collections import Counter
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.outcomes import Reason, Reply, Usage, one_per_key, total_usage
from batchgen.engine.settlement.match import (
    REPLIES_SCHEMA,
    REQUESTS_SCHEMA,
    MatchedResults,
    join_replies,
    match_results,
    replies_frame,
    requests_frame,
)

KEYS = {f"key-{number}": number for number in range(1, 9)}
REASONS = st.sampled_from([Reason.ACCEPTED, Reason.TRUNCATED, Reason.BLOCKED_PROMPT, Reason.PROVIDER_ERROR])
USAGES = st.builds(Usage, *[st.integers(0, 1000)] * 4)
TEXTS = st.sampled_from(["", "x", "日本", "a\u2028b", "\U0001f600"])
LINES = st.builds(
    Reply,
    key=st.sampled_from([*KEYS, "", "stranger-1", "stranger-2"]),
    reason=REASONS,
    text=TEXTS,
    detail=TEXTS,
    usage=USAGES,
)


def billed(merged: MatchedResults) -> Usage:
    return total_usage(usage for _, usage in merged.usage.values())


def check(lines: list[Reply], merged: MatchedResults, absent: Reason) -> None:
    known = one_per_key([line for line in lines if line.key in KEYS])
    assert list(merged.settled) == list(KEYS.values())
    for key, number in KEYS.items():
        assert merged.settled[number] == known.get(key, Reply("", absent, detail="why"))
    strange = [line for line in lines if line.key and line.key not in KEYS]
    assert sorted(merged.unknown_keys) == sorted({line.key for line in strange})
    keyless = [line for line in lines if not line.key]
    assert merged.keyless == len(keyless)
    paid = [*one_per_key(strange).values(), *(line for line in keyless if any(line.usage))]
    assert billed(merged) == total_usage([*(reply.usage for reply in known.values()), *(reply.usage for reply in paid)])
    counts = Counter(reply.reason for reply in merged.settled.values()) + Counter({Reason.SUPERSEDED: len(paid)})
    assert {reason: count for reason, (count, _) in merged.usage.items()} == counts


@settings(deadline=None)
@given(st.lists(LINES, max_size=20), st.randoms(use_true_random=False), st.sampled_from([Reason.MISSING, Reason.LOST]))
def test_every_request_is_accounted_for_once(lines: list[Reply], random: Random, absent: Reason) -> None:
    merged = match_results(KEYS, lines, absent, "why")
    check(lines, merged, absent)
    shuffled = list(lines)
    random.shuffle(shuffled)
    again = match_results(KEYS, shuffled, absent, "why")
    assert again.settled == merged.settled
    assert again.usage == merged.usage


def test_every_accident_at_once() -> None:
    """Shuffled lines, an equal copy, a different copy, an unknown key, no key, and a request without a line."""
    one = Usage(10, 0, 5, 0)
    text = {key: Reply(key, Reason.ACCEPTED, f"text {number}", usage=one) for key, number in KEYS.items()}
    lines = [
        text["key-8"],
        text["key-3"],
        text["key-3"]._replace(text="another"),
        text["key-2"],
        text["key-2"],
        text["key-1"]._replace(key="nobody's"),
        text["key-1"]._replace(key=""),
        Reply("", Reason.UNREADABLE),
        Reply("key-4", Reason.BLOCKED_PROMPT, detail="SAFETY", usage=Usage(input=10)),
    ]
    merged = match_results(
        {key: KEYS[key] for key in ("key-2", "key-3", "key-4", "key-5", "key-8")}, lines, Reason.MISSING, "no line"
    )
    assert [(number, reply.reason, reply.text) for number, reply in merged.settled.items()] == [
        (2, Reason.ACCEPTED, "text 2"),
        (3, Reason.CONFLICT, ""),
        (4, Reason.BLOCKED_PROMPT, ""),
        (5, Reason.MISSING, ""),
        (8, Reason.ACCEPTED, "text 8"),
    ]
    assert merged.settled[5].detail == "no line"
    assert merged.usage == {
        Reason.ACCEPTED: (2, Usage(20, 0, 10, 0)),
        Reason.CONFLICT: (1, Usage(20, 0, 10, 0)),
        Reason.BLOCKED_PROMPT: (1, Usage(10, 0, 0, 0)),
        Reason.MISSING: (1, Usage()),
        Reason.SUPERSEDED: (2, Usage(20, 0, 10, 0)),
    }
    assert merged.unknown_keys == ["nobody's"]
    assert merged.keyless == 2


def test_an_empty_result_file() -> None:
    merged = match_results(KEYS, [], Reason.MISSING, "the job expired")
    assert {reply.reason for reply in merged.settled.values()} == {Reason.MISSING}
    assert merged.usage == {Reason.MISSING: (len(KEYS), Usage())}


def test_an_empty_batch() -> None:
    merged = match_results({}, [Reply("a", Reason.ACCEPTED, "x")], Reason.MISSING, "")
    assert (merged.settled, merged.unknown_keys) == ({}, ["a"])


def test_tables_have_their_schemas() -> None:
    assert requests_frame(KEYS).schema == REQUESTS_SCHEMA
    assert replies_frame([]).schema == replies_frame([Reply("k", Reason.ACCEPTED, "x")]).schema == REPLIES_SCHEMA


def test_a_key_that_is_there_twice_is_an_error_and_no_extra_row() -> None:
    """one_per_key removes copies before the join; the join itself refuses them."""
    doubled = replies_frame([Reply("key-1", Reason.ACCEPTED, "x"), Reply("key-1", Reason.ACCEPTED, "y")])
    with pytest.raises(pl.exceptions.ComputeError):
        join_replies(requests_frame(KEYS), doubled)
