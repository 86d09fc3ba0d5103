"""Measure the whole dataset: usual lengths, near-duplicate conversations, and groups that a split must keep together.

Reads frames of turns once, in seed order, and the few possible near-duplicates again. In memory are the band hashes of
each conversation, for a split also a hash of its question, and counts of lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

import polars as pl

from batchgen.core.dialogue import Turn
from batchgen.dataset.quality.near_duplicates import BandIndex, band_hashes, find_near_duplicates
from batchgen.dataset.quality.similarity import main_script, normalized_words
from batchgen.runtime.worker_process import parallel_map

OUTLIER_DEVIATIONS = 3.5  # Iglewicz and Hoaglin's cut for the modified z-score
MIN_DEVIATION = 0.2  # of the natural logarithm: what lies within a factor of two of the median is never an outlier
MIN_TEXTS = 20
MAD_TO_DEVIATION = 1.4826


def winners_frame(judged: Iterable[tuple[int, int, str]] = ()) -> pl.DataFrame:
    """Return judged turns, each (number, round, winner), as a frame."""
    return pl.DataFrame(list(judged), schema={"number": pl.Int64, "round": pl.Int64, "winner": pl.String}, orient="row")


class Survey(NamedTuple):
    """What was measured over a whole dataset.

    `lengths` has the usual lengths per round. `copies` has (number, near_duplicate_of): a conversation and the first
    one it nearly copies. `together` has (number, group): conversations with the same seed question, or that nearly copy
    each other, are one group (empty if no groups were wanted). `scripts` counts conversations by the writing system of
    their seed. `winners` has the turns that the audit has judged (`winners_frame`).
    """

    lengths: pl.DataFrame
    copies: pl.DataFrame
    together: pl.DataFrame
    scripts: Mapping[str, int]
    winners: pl.DataFrame = winners_frame()

    def add_context(self, turns: pl.DataFrame) -> pl.DataFrame:
        """Return `turns` with the columns of flags.CONTEXT_SCHEMA."""
        # A frame of turns holds consecutive numbers, and there may be many copies and verdicts.
        mine = pl.col("number").is_between(turns["number"].min(), turns["number"].max())
        found = turns
        for known, on in (
            (self.copies.filter(mine), ["number"]),
            (self.lengths, ["round"]),
            (self.winners.filter(mine), ["number", "round"]),
        ):
            found = found.join(known, on=on, how="left", validate="m:1", maintain_order="left")
        return found


ReadAgain = Callable[[pl.Series], Iterable[pl.DataFrame]]


def survey(
    chunks: Iterable[pl.DataFrame],
    again: ReadAgain | None = None,
    *,
    groups: bool = True,
    judged: Iterable[tuple[int, int, str]] = (),
) -> Survey:
    """Measure every turn. A chunk has whole conversations (schema flags.TURNS_SCHEMA).

    `again` yields some conversations again, by their numbers, in the same order; without it, `chunks` are iterated
    again. `judged` are the turns that the audit has judged (`winners_frame`).
    """
    lengths, asked, scripts = _LengthCounts(), _ConversationGroups(), Counter[str]()
    bands = BandIndex()
    for turns, hashes in parallel_map(band_hashes, chunks):
        lengths.learn(turns)
        bands.learn(hashes)
        first = turns.filter(pl.col("round") == 1)
        if groups:
            asked.learn(first)
        scripts.update(main_script(question) or "other" for question in first["question"])
    suspects = bands.candidates()
    del bands
    found = find_near_duplicates(again(suspects) if again else _filter_turns(chunks, suspects))
    return Survey(lengths.usual_bounds(), found, asked.together(found), scripts, winners_frame(judged))


def _filter_turns(chunks: Iterable[pl.DataFrame], numbers: pl.Series) -> Iterable[pl.DataFrame]:
    wanted = numbers.implode()
    return (turns.filter(pl.col("number").is_in(wanted)) for turns in chunks)


class _ConversationGroups:
    """Groups of conversations that belong together. The name of a group is its smallest number."""

    def __init__(self) -> None:
        self._chunks: list[pl.DataFrame] = []

    def learn(self, first: pl.DataFrame) -> None:
        """Add the first turns of some conversations."""
        asked = [_digest(normalized_words(question)) for question in first["question"]]
        self._chunks.append(first.select("number", pl.Series("asked", asked, dtype=pl.UInt64)))

    def together(self, copied: pl.DataFrame) -> pl.DataFrame:
        """Return (number, group): conversations with the same first question, or one nearly a copy of the other."""
        if not self._chunks:
            return pl.DataFrame(schema={"number": pl.Int64, "group": pl.Int64})
        every = pl.concat(self._chunks).select("number", pl.col("number").min().over("asked").alias("group"))
        if copied.is_empty():
            return every
        involved = pl.concat([copied["number"], copied["near_duplicate_of"]]).implode()
        few = every.filter(pl.col("number").is_in(involved))
        group_of = dict(zip(few["number"], few["group"], strict=True))
        groups = _DisjointSets()
        for number, original in copied.iter_rows():
            groups.join(group_of[number], group_of[original])
        changed = {group: groups.find(group) for group in {*group_of.values()}}
        old, new = (pl.Series(values, dtype=pl.Int64) for values in (changed.keys(), changed.values()))
        return every.with_columns(pl.col("group").replace(old, new))


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


class _DisjointSets:
    """Disjoint sets, each named by its smallest member."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def find(self, number: int) -> int:
        while (parent := self._parents.get(number, number)) != number:
            number = parent
        return number

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        if first != second:
            self._parents[second] = first


class _LengthCounts:
    """Counts of texts by round, field and number of characters."""

    def __init__(self) -> None:
        self._counts = pl.DataFrame(
            schema={"round": pl.Int64, "field": pl.String, "length": pl.UInt32, "texts": pl.Int64}
        )

    def learn(self, turns: pl.DataFrame) -> None:
        found = turns.select("round", pl.col(Turn._fields).str.len_chars()).unpivot(
            Turn._fields, index="round", variable_name="field", value_name="length"
        )
        counted = found.with_columns(pl.lit(1, pl.Int64).alias("texts"))
        self._counts = pl.concat([self._counts, counted]).group_by("round", "field", "length").agg(pl.sum("texts"))

    def usual_bounds(self) -> pl.DataFrame:
        """Return, per round and field, the least and most characters that are not outliers; null if there are too few
        texts.
        """
        logarithms = self._counts.with_columns((pl.col("length") + 1).log())
        found = logarithms.select("round").unique().sort("round")
        for field in Turn._fields:
            bounds = logarithms.filter(pl.col("field") == field).group_by("round").agg(_bounds(field))
            found = found.join(bounds, on="round", how="left", validate="1:1", maintain_order="left")
        return found


def _bounds(field: str) -> tuple[pl.Expr, pl.Expr]:
    """Return the lengths beyond which a value is an outlier.

    These are more than OUTLIER_DEVIATIONS robust deviations away from the median of their group.
    """
    logarithm, texts = pl.col("length"), pl.col("texts")
    middle = _median(logarithm, texts)
    deviation = _median((logarithm - middle).abs(), texts) * MAD_TO_DEVIATION
    reach = OUTLIER_DEVIATIONS * pl.max_horizontal(deviation, MIN_DEVIATION)
    enough = pl.when(texts.sum() >= MIN_TEXTS)
    return (
        enough.then((middle - reach).exp() - 1).alias(f"{field}_least"),
        enough.then((middle + reach).exp() - 1).alias(f"{field}_most"),
    )


def _median(value: pl.Expr, times: pl.Expr) -> pl.Expr:
    """Return the median of values with counts."""
    ordered, until = value.sort(), times.sort_by(value).cum_sum()
    lower = ordered.filter(until > (times.sum() - 1) // 2).first()
    upper = ordered.filter(until > times.sum() // 2).first()
    return (lower + upper) / 2


def choose_test_conversations(together: pl.DataFrame, share: float, seed: int) -> frozenset[int]:
    """Return the conversations of the test split: whole groups, until `share` of all conversations is reached.

    The order depends only on `seed` and the ids. Each side gets at least one group; a single group cannot be split.
    """
    sizes = together.group_by("group").agg(pl.len().alias("size")).sort("group")
    drawn = [_digest(f"{seed}/{group}") for group in sizes["group"]]
    order = sizes.with_columns(pl.Series("drawn", drawn, dtype=pl.UInt64)).sort("drawn")
    before = pl.col("size").cum_sum() - pl.col("size")
    taken = order.filter(before < share * together.height)["group"]
    if taken.len() == order.height:
        taken = taken.head(order.height - 1)
    return frozenset(together.filter(pl.col("group").is_in(taken.implode()))["number"])
