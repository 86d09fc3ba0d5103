"""What only the whole dataset can tell: usual lengths, near-duplicate conversations, and which belong together.

One pass over frames of turns, in seed order; what is kept of a conversation is a few numbers and a MinHash signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

import polars as pl
from rensa import RMinHash, RMinHashDeduplicator

from batchgen.dialogue import Turn
from batchgen.likeness import main_script, plain, shingles
from batchgen.quality import CONTEXT

SIMILAR = 0.8
PERMUTATIONS = 128
BANDS = 16  # of 8 rows: finds 95 % of the pairs at SIMILAR; what it finds is checked against the whole signatures
SIGNATURE_SEED = 42

OUTLYING = 3.5  # Iglewicz and Hoaglin's cut for the modified z-score
LEAST_DEVIATION = 0.2  # of the natural logarithm: what lies within a factor of two of the median is never an outlier
LEAST_LENGTHS = 20
MAD_TO_DEVIATION = 1.4826


class Survey(NamedTuple):
    """What a dataset is like as a whole.

    `lengths` has the usual lengths per round; `copies` maps a conversation to the first one that it nearly copies;
    `together` has (number, group): conversations that share their seed question or nearly copy each other are one
    group; `scripts` counts conversations by the writing system of their seed.
    """

    lengths: pl.DataFrame
    copies: Mapping[int, int]
    together: pl.DataFrame
    scripts: Mapping[str, int]

    @property
    def conversations(self) -> int:
        return self.together.height

    def measure(self, turns: pl.DataFrame) -> pl.DataFrame:
        """`turns` with the columns of quality.CONTEXT."""
        copies = pl.DataFrame(
            {"number": self.copies.keys(), "near_duplicate_of": self.copies.values()},
            schema={"number": pl.Int64, "near_duplicate_of": pl.Int64},
        )
        return turns.join(copies, on="number", how="left", validate="m:1", maintain_order="left").join(
            self.lengths, on="round", how="left", validate="m:1", maintain_order="left"
        )


def survey(chunks: Iterable[pl.DataFrame]) -> Survey:
    """Look at every turn once. A chunk holds whole conversations (schema quality.TURNS)."""
    lengths: list[pl.DataFrame] = []
    groups, known, scripts = _Groups(), _Known(), Counter[str]()
    numbers: list[int] = []
    for turns in chunks:
        lengths.append(turns.select("round", pl.col(Turn._fields).str.len_chars()))
        known.learn(turns)
        for number, question in turns.filter(pl.col("round") == 1).select("number", "question").iter_rows():
            numbers.append(number)
            groups.join(number, groups.asked(question, number))
            scripts[main_script(question) or "other"] += 1
    for number, first in known.copies.items():
        groups.join(number, first)
    together = pl.DataFrame(
        {"number": numbers, "group": [groups.find(number) for number in numbers]},
        schema={"number": pl.Int64, "group": pl.Int64},
    )
    return Survey(_usual(lengths), known.copies, together, scripts)


class _Known:
    """Every conversation seen so far, by its MinHash signature; copies are counted but not kept."""

    def __init__(self) -> None:
        self.copies: dict[int, int] = {}
        self._seen = RMinHashDeduplicator(SIMILAR, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=SIGNATURE_SEED)

    def learn(self, turns: pl.DataFrame) -> None:
        texts = turns.group_by("number", maintain_order=True).agg(
            pl.concat_str(Turn._fields, separator="\n").str.join("\n").alias("text")
        )
        signatures = RMinHash.from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
        for number, signature in zip(texts["number"], signatures, strict=True):
            if found := self._seen.get_duplicates(signature):
                self.copies[number] = min(map(int, found))
            else:
                self._seen.add(str(number), signature)


class _Groups:
    """Disjoint sets of conversations, each called by its smallest number."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}
        self._first_asked: dict[bytes, int] = {}

    def asked(self, question: str, number: int) -> int:
        """The first conversation that began with this question."""
        key = blake2b(plain(question).encode(), digest_size=8).digest()
        return self._first_asked.setdefault(key, number)

    def find(self, number: int) -> int:
        while (parent := self._parents.get(number, number)) != number:
            number = parent
        return number

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        if first != second:
            self._parents[second] = first


def _usual(lengths: list[pl.DataFrame]) -> pl.DataFrame:
    """Per round, the least and most characters that are no outlier in each field; null where there are too few."""
    if not lengths:
        return pl.DataFrame(schema={"round": pl.Int64, **_bounds_schema()})
    logarithms = pl.concat(lengths).with_columns((pl.col(Turn._fields) + 1).log())
    bounds = [bound for field in Turn._fields for bound in _bounds(pl.col(field))]
    return logarithms.group_by("round").agg(bounds).sort("round")


def _bounds_schema() -> dict[str, pl.DataType]:
    return {name: kind for name, kind in CONTEXT.items() if name.endswith(("_least", "_most"))}


def _bounds(logarithm: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """The lengths beyond which a value lies more than OUTLYING robust deviations from the median of its group."""
    middle = logarithm.median()
    deviation = (logarithm - middle).abs().median() * MAD_TO_DEVIATION
    reach = OUTLYING * pl.max_horizontal(deviation, LEAST_DEVIATION)
    enough = pl.when(pl.len() >= LEAST_LENGTHS)
    return (
        enough.then((middle - reach).exp() - 1).name.suffix("_least"),
        enough.then((middle + reach).exp() - 1).name.suffix("_most"),
    )


def held_out(together: pl.DataFrame, share: float, seed: int) -> frozenset[int]:
    """The conversations of the test split: whole groups, in an order that only `seed` and their ids decide, until
    `share` of all conversations is reached. At least one group goes to each side; a single one cannot be split.
    """
    sizes = together.group_by("group").agg(pl.len().alias("size")).sort("group")
    drawn = [blake2b(f"{seed}/{group}".encode(), digest_size=8).hexdigest() for group in sizes["group"]]
    order = sizes.with_columns(pl.Series("drawn", drawn, dtype=pl.String)).sort("drawn")
    before = pl.col("size").cum_sum() - pl.col("size")
    taken = order.filter(before < share * together.height)["group"]
    if taken.len() == order.height:
        taken = taken.head(order.height - 1)
    return frozenset(together.filter(pl.col("group").is_in(taken.implode()))["number"])
