"""Test the bars of the timeline: however many batches there are, few bars cover the same time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.ledger.rows import BATCH_COLUMNS, Batch, BatchState
from batchgen.reports.html import charts, timeline_bars
from batchgen.reports.html.timeline_bars import TimelineBuilder


@pytest.mark.parametrize("apart_seconds", [0.0, 1e6], ids=["together", "apart"])
def test_a_timeline_of_any_number_of_batches(apart_seconds: float) -> None:
    """So many bars would not be visible, and a chart of them would fill the page's size limit."""
    count = 4_000
    begin = [1e9 + number * (10 + apart_seconds) for number in range(count)]
    nothing: dict[str, Any] = {**dict.fromkeys(BATCH_COLUMNS), "state": BatchState.COLLECTED}
    known = TimelineBuilder()
    for number, at in enumerate(begin):
        times = {"submitted_at": at, "started_at": at + 5, "ended_at": at + 8}
        row = {**nothing, "batch": number, "position": 3 + number % 6, **times}
        known.learn(Batch.from_row(list(row.values())), begin[-1])
    timeline = known.timeline()
    drawing = charts.timeline_chart(timeline)
    assert drawing is not None
    assert f"When {count} batches" in drawing.label
    assert len(timeline.bars) <= timeline_bars.MAX_BARS + 2 * 6
    for kind, first, last in zip(timeline_bars.PHASES, (0, 5), (5, 8), strict=True):  # from the first to the last
        bars = [bar for bar in timeline.bars if bar["kind"] == kind]
        assert min(bar["from"] for bar in bars) == round((begin[0] + first) * 1000)
        assert max(bar["to"] for bar in bars) == round((begin[-1] + last) * 1000)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), max_size=30), st.integers(0, 20))
def test_merged_bars_cover_what_the_bars_cover(found: list[tuple[int, int]], gap: int) -> None:
    bars = sorted((start, start + long) for start, long in found)
    whole = list(timeline_bars.merge_close_bars(bars, gap))
    assert all(any(start <= bar[0] and bar[1] <= stop for start, stop in whole) for bar in bars)
    assert all(after[0] - before[1] > gap for before, after in pairwise(whole))
    assert {start for start, _ in whole} <= {start for start, _ in bars}
    assert {stop for _, stop in whole} <= {stop for _, stop in bars}
