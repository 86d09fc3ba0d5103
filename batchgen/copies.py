"""Conversations that nearly copy an earlier one (MinHash), found among any number of them in little memory.

Of every conversation only its band hashes are kept, 64 bytes, and those of many in a file; two that share none cannot
be alike. Those that share one are few: they are read once more and compared by whole signatures.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import polars as pl
from rensa import RMinHash, RMinHashDeduplicator

from batchgen.dialogue import Turn
from batchgen.likeness import shingles

SIMILAR = 0.8
PERMUTATIONS = 128
BANDS = 16  # of 8 rows: finds 95 % of the pairs at SIMILAR; what it finds is checked against the whole signatures
SIGNATURE_SEED = 42
IN_MEMORY = 20_000  # conversations whose bands are not in a file
_AT_ONCE = 100  # conversations that are in runs of words at a time: those take ten times what the texts do
_SHORT = 0xFFFFFFFF  # four bytes of a hash: a chance meeting costs a second look, nothing else
_NUMBER = "number"
_HASHES = [f"band {band}" for band in range(BANDS)]
_SCHEMA = pl.Schema({_NUMBER: pl.Int64, **dict.fromkeys(_HASHES, pl.UInt32)})


def band_hashes(turns: pl.DataFrame) -> pl.DataFrame:
    """The number and a hash of each band of whole conversations (schema quality.TURNS)."""
    found = [pl.DataFrame(schema=_SCHEMA)]
    for texts in _texts(turns).iter_slices(_AT_ONCE):
        rows = RMinHash.digests_from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
        signatures = pl.Series(rows, dtype=pl.Array(pl.UInt32, PERMUTATIONS))
        bands = signatures.reshape((texts.height * BANDS, PERMUTATIONS // BANDS))
        hashes = (bands.hash() & _SHORT).cast(pl.UInt32)
        columns = {name: hashes.gather_every(BANDS, band) for band, name in enumerate(_HASHES)}
        found.append(pl.DataFrame({_NUMBER: texts[_NUMBER], **columns}))
    return pl.concat(found)


class Bands:
    """What is kept of every conversation to know which ones may be alike. Close it: there may be a file."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self._files: list[Path] = []
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def learn(self, hashes: pl.DataFrame) -> None:
        """See what `band_hashes` gives of some conversations."""
        self.frames.append(hashes)
        if sum(frame.height for frame in self.frames) >= IN_MEMORY:
            self._put_away()

    def _put_away(self) -> None:
        self._folder = self._folder or TemporaryDirectory(prefix="batchgen-")
        self._files.append(Path(self._folder.name) / str(len(self._files)))
        pl.concat(self.frames).write_ipc(self._files[-1])
        self.frames = []

    def _column(self, name: str) -> pl.Series:
        away = [pl.read_ipc(file, columns=[name])[name] for file in self._files]
        return pl.concat([*away, *(frame[name] for frame in self.frames)])

    def shared(self) -> pl.Series:
        """The conversations that share a band with another one, in the order in which they were seen."""
        if not (self._files or self.frames):
            return pl.Series(dtype=pl.Int64)
        found = pl.Series(dtype=pl.Boolean)
        for name in _HASHES:
            hashes = self._column(name)
            ordered = hashes.sort()
            again = hashes.is_in(ordered.filter(ordered == ordered.shift()).unique().implode())
            found = found | again if found.len() else again
        return self._column(_NUMBER).filter(found)


class Copies(Mapping[int, int]):
    """Each conversation that nearly copies an earlier one -> the first such one, in sixteen bytes a copy."""

    def __init__(self) -> None:
        self._copies, self._originals = array("q"), array("q")

    def note(self, copy: int, original: int) -> None:
        """Learn of a copy; they come in ascending order."""
        self._copies.append(copy)
        self._originals.append(original)

    def __getitem__(self, number: int) -> int:
        at = bisect_left(self._copies, number)
        if at == len(self._copies) or self._copies[at] != number:
            raise KeyError(number)
        return self._originals[at]

    def __iter__(self) -> Iterator[int]:
        return iter(self._copies)

    def __len__(self) -> int:
        return len(self._copies)


def copies(chunks: Iterable[pl.DataFrame]) -> Copies:
    """The copies among conversations that come in ascending order. Copies are not copied in turn."""
    found = Copies()
    seen = RMinHashDeduplicator(SIMILAR, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=SIGNATURE_SEED)
    for turns in chunks:
        for texts in _texts(turns).iter_slices(_AT_ONCE):
            signatures = RMinHash.from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
            for number, signature in zip(texts["number"], signatures, strict=True):
                if alike := seen.get_duplicates(signature):
                    found.note(number, min(map(int, alike)))
                else:
                    seen.add(str(number), signature)
    return found


def _texts(turns: pl.DataFrame) -> pl.DataFrame:
    """(number, text) of each conversation as a whole."""
    return turns.group_by("number", maintain_order=True).agg(
        pl.concat_str(Turn._fields, separator="\n").str.join("\n").alias("text")
    )
