"""Lengths of the texts of each round and field. Pure.

Texts are counted by length, so that memory depends on how many different lengths there are, not on how many texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import floor, log10
from typing import Any

from batchgen.core.dialogue import Conversation, Turn

Key = tuple[int, str]  # round, field
Counts = Mapping[Key, Mapping[int, int]]  # number of texts by length in characters

EXACT_UP_TO = 10_000  # characters; longer lengths are rounded to three digits, an error of at most half a percent
DIGITS = 3
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
BINS = 10  # in each power of ten of the length


def rounded_length(length: int) -> int:
    """Round a length above EXACT_UP_TO to three digits."""
    return length if length <= EXACT_UP_TO else round(length, DIGITS - len(str(length)))


class LengthCounter:
    """Counts the texts that it is given by round, field and length (`counts`)."""

    def __init__(self) -> None:
        self.counts: dict[Key, Counter[int]] = {}

    def learn(self, conversations: Iterable[Conversation]) -> None:
        """Count every text of some conversations."""
        found: dict[Key, list[str]] = {}
        for one in conversations:
            for number, turn in enumerate(one.turns, start=1):
                for field, text in zip(Turn._fields, turn, strict=True):
                    found.setdefault((number, field), []).append(text)
        for key, texts in found.items():
            self.counts.setdefault(key, Counter()).update(map(rounded_length, map(len, filter(None, texts))))


def quantiles(counts: Counts) -> Iterator[dict[str, Any]]:
    """Yield the rows of the page's table, in the order of rounds and fields."""
    order = list(Turn._fields)
    for number, field in sorted(counts, key=lambda key: (key[0], order.index(key[1]))):
        if texts := counts[number, field]:
            values = [quantile(texts, part) for part in QUANTILES]
            yield {"round": number, "field": field, "texts": sum(texts.values()), "lengths": values}


def quantile(texts: Mapping[int, int], part: float) -> int:
    """Return the smallest length that at least `part` (0 to 1) of the texts do not exceed."""
    ordered, least = sorted(texts), part * sum(texts.values())
    reached = zip(ordered, accumulate(texts[length] for length in ordered), strict=True)
    return next(length for length, until in reached if until >= least)


def length_shares(counts: Counts) -> dict[str, list[dict[str, Any]]]:
    """Return the points of the curves by field: `round`, `characters`, and `share` of the round's texts (0 to 1)."""
    rows: dict[str, list[dict[str, Any]]] = {field: [] for field in Turn._fields}
    for (number, field), texts in sorted(counts.items()):
        rows[field] += _shares(texts, number)
    return rows


def _shares(texts: Mapping[int, int], number: int) -> Sequence[dict[str, Any]]:
    """Return the share of a round's texts in each bin, with an empty bin at both ends."""
    bins = Counter[int]()
    for length, many in texts.items():
        bins[floor(log10(length) * BINS)] += many
    total = sum(bins.values())
    places = range(max(min(bins) - 1, 0), max(bins) + 2) if bins else ()
    return [
        {"round": number, "characters": 10 ** ((at + 0.5) / BINS), "share": bins.get(at, 0) / total} for at in places
    ]


def has_rounded_lengths(counts: Counts) -> bool:
    """Whether a length may be rounded. EXACT_UP_TO counts, too: slightly longer texts are rounded to it."""
    return any(length >= EXACT_UP_TO for texts in counts.values() for length in texts)
