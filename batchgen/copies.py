"""Conversations that nearly copy an earlier one (MinHash), found among any number of them in little memory.

Of every conversation only its band hashes are kept, 64 bytes; two that share none cannot be alike. Those that share one
are few: they are read once more and compared by whole signatures.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
from rensa import RMinHash, RMinHashDeduplicator

from batchgen.dialogue import Turn
from batchgen.likeness import shingles

SIMILAR = 0.8
PERMUTATIONS = 128
BANDS = 16  # of 8 rows: finds 95 % of the pairs at SIMILAR; what it finds is checked against the whole signatures
SIGNATURE_SEED = 42
_SHORT = 0xFFFFFFFF  # four bytes of a hash: a chance meeting costs a second look, nothing else


class Bands:
    """What is kept of every conversation to know which ones may be alike."""

    def __init__(self) -> None:
        self._numbers: list[pl.Series] = []
        self._hashes: list[pl.Series] = []  # BANDS of each conversation, one behind the other

    def learn(self, turns: pl.DataFrame) -> None:
        """See whole conversations (schema quality.TURNS)."""
        texts = _texts(turns)
        if texts.is_empty():
            return
        rows = RMinHash.digests_from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
        signatures = pl.Series(rows, dtype=pl.Array(pl.UInt32, PERMUTATIONS))
        bands = signatures.reshape((texts.height * BANDS, PERMUTATIONS // BANDS))
        self._numbers.append(texts["number"])
        self._hashes.append((bands.hash() & _SHORT).cast(pl.UInt32))

    def shared(self) -> list[int]:
        """The conversations that share a band with another one, in the order in which they were seen."""
        if not self._numbers:
            return []
        numbers = pl.concat(self._numbers)
        found = pl.repeat(value=False, n=numbers.len(), dtype=pl.Boolean, eager=True)
        for band in range(BANDS):
            found |= pl.concat([hashes.gather_every(BANDS, band) for hashes in self._hashes]).is_duplicated()
        return numbers.filter(found).to_list()


def copies(chunks: Iterable[pl.DataFrame]) -> dict[int, int]:
    """Each conversation that nearly copies an earlier one -> the first such one. Copies are not copied in turn."""
    found: dict[int, int] = {}
    seen = RMinHashDeduplicator(SIMILAR, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=SIGNATURE_SEED)
    for turns in chunks:
        texts = _texts(turns)
        signatures = RMinHash.from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
        for number, signature in zip(texts["number"], signatures, strict=True):
            if alike := seen.get_duplicates(signature):
                found[number] = min(map(int, alike))
            else:
                seen.add(str(number), signature)
    return found


def _texts(turns: pl.DataFrame) -> pl.DataFrame:
    """(number, text) of each conversation as a whole."""
    return turns.group_by("number", maintain_order=True).agg(
        pl.concat_str(Turn._fields, separator="\n").str.join("\n").alias("text")
    )
