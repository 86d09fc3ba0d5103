"""Test the axes of charts: labels do not overlap, and amounts have a usual form."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from batchgen.reports.html import charts, page

LABEL = re.compile(r'<text text-anchor="(\w+)" transform="translate\(([\d.]+),15\)"[^>]*opacity="1">([^<]+)</text>')
WIDE_GLYPH = 7.7  # width in pixels of a digit at 12 px in the widest font of the page
BEFORE = {"start": 0.0, "middle": 0.5, "end": 1.0}


def extents(svg: str) -> list[tuple[float, float]]:
    """The start and end of each visible label of the lower axis, in pixels."""
    found = []
    for anchor, x, text in LABEL.findall(svg):
        width = WIDE_GLYPH * len(text)
        begin = float(x) - BEFORE[anchor] * width
        found.append((begin, begin + width))
    return found


@pytest.mark.parametrize(
    "usd",
    [2e-6, 0.00019, 0.0002, 0.00022, 0.00024, 0.0003, 0.013, 0.25, 7.0, 183.0, 52_000.0],
)
@pytest.mark.slow
def test_sums_on_the_cost_axis(usd: float) -> None:
    row = {"step": "round 2 answer", "estimated": usd, "accepted": usd * 0.9, "wasted": usd * 0.1}
    for svg in charts.cost_chart([row])[:2]:
        places = extents(svg)
        assert len(places) > 1
        assert all(before[1] < after[0] for before, after in pairwise(places))
        shown = [text for _, _, text in LABEL.findall(svg)]
        assert all(re.fullmatch(r"\$[\d,]+(\.\d*[1-9])?", text) for text in shown)
        assert len(set(shown)) == len(shown)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "unknown"),
        (0.0, "$0.0000"),
        (2e-6, "< $0.0001"),
        (0.00005, "$0.0001"),
        (9.5, "$9.5000"),
        (1234.5, "$1,234.50"),
    ],
)
def test_sums_in_the_tables(value: float | None, words: str) -> None:
    assert page.format_usd(value) == words
