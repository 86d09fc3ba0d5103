"""Does a reply stand under the right key? A check by content, for services that mix up answers. Pure.

One reply that seems to fit another request better than its own says little: people ask similar things, and a bad reply
fits nobody. Mixed-up replies leave a pattern, though: the request that a reply fits has lost its own one. So a reply is
misplaced when following "fits rather" from it leads back to it (two were swapped, three went round, ...), or when so
many replies of a batch fit elsewhere that the whole batch must be out of order.

A reply that names a conversation says more: models are not told their request's id, but stand-ins for them often are.

Measured on ten sets of 200 to 775 real English and Chinese pairs: no reply in its right place was flagged, and every
set in random order was. Of single swapped pairs 3 % (short questions) to 87 % (corrections) were found: it is a net
with wide meshes. Of 3,000 batches of up to 120 drawn from these sets, three had a few replies flagged wrongly.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import NamedTuple

import polars as pl

from batchgen.bags import bags, hashed, spelt

WHOLE_BATCH_SHARE = 0.01  # with more misplaced replies than this no key of the batch is to be believed ...
WHOLE_BATCH_LEAST = 3  # ... but more than this: so many may seem to go round by accident

COMMON_SHARE = 0.02  # a word in more than this share of the texts distinguishes none (but COMMON_LEAST may, or half)
COMMON_LEAST = 3
AT_HOME = 3  # so many distinctive words of a reply in its own request, and it is in its place
SMALL = 20  # replies
SHARED_LEAST = 3  # distinctive words that a reply must share with a foreign request
NEAREST = 5  # foreign requests that are looked at closely for a reply
FIT = 0.05  # the least likeness (0 to 1) that counts as fitting; half of all replies are more than 0.1 like their own
TIMES = 4.0  # how much more like the foreign request than like its own a reply must be
LEAD = 1.3  # and how much more like it than like the next best
ALIKE = 0.06  # requests so much like each other may have each other's replies: nobody could tell
OUT_OF_ORDER_SHARE = 0.12  # in order at most 0.05 of a batch seem to fit elsewhere, in random order at least 0.17
OUT_OF_ORDER_LEAST = 6
CHARACTERS = 2_000  # of a text that are looked at: a request's last, a reply's first

AT_ONCE = 100_000  # common words of replies and requests that are counted in one go
_ID = "r1-"  # what every conversation's id begins with
_IDS = re.compile(_ID + r"\d+")
_PAIRS = pl.Schema({"row": pl.UInt32, "other": pl.UInt32})
_SQUARED = pl.col("weight").sum()


def misplaced(requests: Mapping[str, str], replies: Mapping[str, str]) -> dict[str, str]:
    """Keys whose reply belongs to another request: {key: the key it fits}. Both maps are key -> text; a key is, or
    begins with, its conversation's id and a full stop.
    """
    keys = sorted(requests, key=lambda key: key not in replies)  # those with a reply come first
    said = [replies[key][:CHARACTERS] for key in keys if key in replies]
    found = _by_name([key.partition(".")[0] for key in keys], said)
    found |= _by_words([requests[key][-CHARACTERS:] for key in keys], said)
    return {keys[row]: keys[other] for row, other in found.items()}


def _by_name(ids: Sequence[str], said: Sequence[str]) -> dict[int, int]:
    """The replies that name another conversation of the batch, and not their own: {row: the other's row}."""
    rows = {name: row for row, name in enumerate(ids)}
    named = {row: rows.keys() & _IDS.findall(text) for row, text in enumerate(said) if _ID in text}
    own = sum(ids[row] in names for row, names in named.items())
    others = {row: rows[next(iter(names))] for row, names in named.items() if len(names) == 1 and ids[row] not in names}
    # A name that several replies have is just something they say.
    once = {other for other, count in Counter(others.values()).items() if count == 1}
    elsewhere = {row: other for row, other in others.items() if other in once}
    return elsewhere if own * 2 >= len(said) else _pattern(elsewhere, len(said))


def _by_words(asked: Sequence[str], said: Sequence[str]) -> dict[int, int]:
    """The same by rows: a reply stands in its request's row, and the last requests may have none."""
    # Many replies are at home at the first glance; only the others and their requests are compared.
    spoken = spelt(said, range(len(said)))
    home = _at_home(spoken, asked, len(said))
    lost = [row for row in range(len(asked)) if row not in home]
    if not lost:
        return {}
    away = hashed(spoken.filter(pl.col("row").is_in(lost))).unique()
    found = _pattern(_elsewhere(_Weighed.of(bags(asked, lost), len(lost)), away), len(said))
    if not found:
        return {}
    # How much one request is like another is a matter of all of them.
    every = bags(asked, range(len(asked)))
    pairs = pl.DataFrame({"row": list(found), "other": list(found.values())}, schema=_PAIRS)
    alike = _Weighed.of(every, len(asked)).likeness(pairs, every).filter(pl.col("likeness") >= ALIKE)
    return {row: other for row, other in found.items() if row not in set(alike["row"])}


def _pattern(elsewhere: Mapping[int, int], replies: int) -> dict[int, int]:
    """The part of `elsewhere` that accidents do not explain."""
    # Different owners: a text that everybody gets has one at most.
    if len(set(elsewhere.values())) >= max(OUT_OF_ORDER_SHARE * replies, OUT_OF_ORDER_LEAST):
        return dict(elsewhere)
    return {row: fits for row, fits in elsewhere.items() if row in _followed(elsewhere, fits)}


def _followed(elsewhere: Mapping[int, int], row: int) -> Iterator[int]:
    """The rows that "fits rather" leads to from `row` on, once around at most."""
    for _ in range(len(elsewhere)):
        yield row
        if row not in elsewhere:
            return
        row = elsewhere[row]


def _distinctive(bags: pl.DataFrame, texts: int) -> pl.DataFrame:
    """The words that few of the texts have."""
    return bags.filter(pl.len().over("word") <= _limit(texts))


def _limit(texts: int) -> float:
    """How many of the texts may have a distinctive word."""
    return max(min(COMMON_LEAST, texts // 2), COMMON_SHARE * texts)


def _at_home(spoken: pl.DataFrame, asked: Sequence[str], replies: int) -> set[int]:
    """The rows of replies that have enough distinctive words of their own requests, be it within longer ones."""
    # In a small batch few words distinguish by accident: one shared with its own request keeps a reply in its place.
    least = AT_HOME if replies >= SMALL else 1
    # A word that is written no more often is in no more replies: these are distinctive, and mostly enough.
    home = _sharing(spoken.filter(pl.len().over(pl.col("word").hash()) <= _limit(replies)), asked, least)
    doubtful = spoken.filter(~pl.col("row").is_in(list(home)))
    if doubtful.is_empty():
        return home
    often = spoken.join(doubtful, on="word", how="semi").group_by("word").agg(pl.col("row").n_unique())
    common = often.filter(pl.col("row") > _limit(replies))
    return home | _sharing(doubtful.join(common, on="word", how="anti"), [text.lower() for text in asked], least)


def _sharing(spoken: pl.DataFrame, asked: Sequence[str], least: int) -> set[int]:
    """The rows of replies of whose words at least so many are within their own requests."""
    own = pl.Series("asked", asked, dtype=pl.String).gather(spoken["row"])
    shared = spoken.with_columns(own).filter(pl.col("asked").str.contains(pl.col("word"), literal=True))
    return set(shared.group_by("row").agg(pl.col("word").n_unique()).filter(pl.col("word") >= least)["row"])


class _Weighed(NamedTuple):
    """Requests as weighted sets of words: (row, word, weight), each one's length, each word's weight, and how much a
    word weighs that none of them has.
    """

    texts: int
    bags: pl.DataFrame
    lengths: pl.DataFrame
    words: pl.DataFrame
    strange: float

    @classmethod
    def of(cls, bags: pl.DataFrame, texts: int) -> _Weighed:
        # A word's weight is its inverse frequency, squared because it stands in both vectors of a cosine.
        weight = ((texts + 1) / pl.len().over("word")).log() ** 2
        weighed = bags.with_columns(weight.alias("weight"))
        words = weighed.select("word", "weight").unique("word")
        return cls(texts, weighed, _lengths(weighed), words, log(texts + 1) ** 2)

    def likeness(self, pairs: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
        """(row, other, likeness): the cosine of the angle between what is said in `row` and the request `other`."""
        said = said.join(pairs, on="row", how="semi")
        known = said.join(self.words, on="word", how="left").with_columns(pl.col("weight").fill_null(self.strange))
        asked = self.bags.join(pairs, left_on="row", right_on="other", how="semi").rename({"row": "other"})
        common = pairs.join(said, on="row").join(asked, on=["other", "word"]).group_by("row", "other").agg(_SQUARED)
        lengths = common.join(_lengths(known), on="row").join(
            self.lengths, left_on="other", right_on="row", suffix="_other"
        )
        cosine = pl.col("weight") / (pl.col("length") * pl.col("length_other"))
        found = lengths.select("row", "other", cosine.alias("likeness"))
        return pairs.join(found, on=["row", "other"], how="left").with_columns(pl.col("likeness").fill_null(0.0))


def _lengths(weighed: pl.DataFrame) -> pl.DataFrame:
    """The length of each bag as a vector."""
    return weighed.group_by("row").agg(_SQUARED.sqrt().alias("length"))


def _elsewhere(lost: _Weighed, away: pl.DataFrame) -> dict[int, int]:
    """The replies that are clearly more like one other request than like their own: {row: the other's row}."""
    found: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for pairs in _nearest(away, _distinctive(lost.bags, lost.texts).select("word", other="row")):
        own = pairs.select("row", other="row").unique()
        for row, other, likeness in lost.likeness(pl.concat([pairs, own]), away).iter_rows():
            found[row].append((likeness, other))
    return {row: fits for row, likely in found.items() if (fits := _owner(row, likely)) is not None}


def _nearest(away: pl.DataFrame, owners: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """(row, other): the foreign requests that a reply has most distinctive words in common with, for some replies at
    once: what they have in common takes far more memory than their words.
    """
    common = away.join(owners.group_by("word").agg(pl.len().alias("owners")), on="word")
    rows = common.group_by("row").agg(pl.col("owners").sum())
    for some in rows.with_columns(pl.col("owners").cum_sum() // AT_ONCE).partition_by("owners"):
        shared = common.join(some, on="row", how="semi").join(owners, on="word").group_by("row", "other").len()
        near = shared.filter(pl.col("row") != pl.col("other"), pl.col("len") >= SHARED_LEAST)
        ranked = near.sort("row", pl.col("len"), "other", descending=[False, True, False])
        yield ranked.group_by("row").head(NEAREST).select("row", "other")


def _owner(row: int, likely: list[tuple[float, int]]) -> int | None:
    """The one other request that a reply fits: its own is among the (likeness, request)."""
    (own,) = [likeness for likeness, other in likely if other == row]
    best, *others = sorted((one for one in likely if one[1] != row), reverse=True)
    if best[0] < max(FIT, TIMES * own) or (others and others[0][0] * LEAD > best[0]):
        return None
    return best[1]
