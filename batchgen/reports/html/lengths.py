"""How long the texts of each round and field are: counted, so that memory is bounded by how long texts can be and not
by how many there are. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import floor, log10
from typing import Any

from batchgen.core.dialogue import Conversation, Turn

Key = tuple[int, str]  # round, field
Counts = Mapping[Key, Mapping[int, int]]  # texts by their characters

EXACT_UP_TO = 10_000  # characters; of a longer text three digits count, which is off by half a percent at most
DIGITS = 3
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
BINS = 10  # of a decade of characters


def rounded_length(length: int) -> int:
    """The length that stands for `length`."""
    return length if length <= EXACT_UP_TO else round(length, DIGITS - len(str(length)))


class LengthCounter:
    """Counts what it is shown. `counts` is what it has seen."""

    def __init__(self) -> None:
        self.counts: dict[Key, Counter[int]] = {}

    def learn(self, conversations: Iterable[Conversation]) -> None:
        """See every text of some conversations."""
        found: dict[Key, list[str]] = {}
        for one in conversations:
            for number, turn in enumerate(one.turns, start=1):
                for field, text in zip(Turn._fields, turn, strict=True):
                    found.setdefault((number, field), []).append(text)
        for key, texts in found.items():
            self.counts.setdefault(key, Counter()).update(map(rounded_length, map(len, filter(None, texts))))


def quantiles(counts: Counts) -> Iterator[dict[str, Any]]:
    """The page's rows, in the order of rounds and fields."""
    order = list(Turn._fields)
    for number, field in sorted(counts, key=lambda key: (key[0], order.index(key[1]))):
        if texts := counts[number, field]:
            values = [quantile(texts, part) for part in QUANTILES]
            yield {"round": number, "field": field, "texts": sum(texts.values()), "lengths": values}


def quantile(texts: Mapping[int, int], part: float) -> int:
    """The least length that at least `part` of the texts do not exceed."""
    ordered, least = sorted(texts), part * sum(texts.values())
    reached = zip(ordered, accumulate(texts[length] for length in ordered), strict=True)
    return next(length for length, until in reached if until >= least)


def length_shares(counts: Counts) -> dict[str, list[dict[str, Any]]]:
    """What the curves of each field show: `round`, `characters`, and the `share` of the round's texts."""
    rows: dict[str, list[dict[str, Any]]] = {field: [] for field in Turn._fields}
    for (number, field), texts in sorted(counts.items()):
        rows[field] += _shares(texts, number)
    return rows


def _shares(texts: Mapping[int, int], number: int) -> Sequence[dict[str, Any]]:
    """The share of a round's texts in each tenth of a decade, with an empty one at both ends."""
    bins = Counter[int]()
    for length, many in texts.items():
        bins[floor(log10(length) * BINS)] += many
    total = sum(bins.values())
    places = range(max(min(bins) - 1, 0), max(bins) + 2) if bins else ()
    return [
        {"round": number, "characters": 10 ** ((at + 0.5) / BINS), "share": bins.get(at, 0) / total} for at in places
    ]


def has_rounded_lengths(counts: Counts) -> bool:
    """Whether a length among them may stand for others: EXACT itself stands for a few that are a little more."""
    return any(length >= EXACT_UP_TO for texts in counts.values() for length in texts)
