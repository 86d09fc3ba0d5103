"""Conversations that nearly copy an earlier one (MinHash), found among any number of them in little memory.

Of every conversation only its band hashes are kept, 64 bytes, and those of many in a file; two that share none cannot
be alike. Those that share one are read once more and compared by whole signatures; many of those lie in a file as well,
and so do many copies: of a conversation nothing stays in memory but a bit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from functools import lru_cache
from struct import Struct
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self
from weakref import finalize

import polars as pl
from rensa import RMinHash, RMinHashDeduplicator

from batchgen.core.dialogue import Turn
from batchgen.dataset.quality.similarity import shingles

SIMILAR = 0.8
PERMUTATIONS = 128
BANDS = 16  # of 8 rows: finds 95 % of the pairs at SIMILAR; what it finds is checked against the whole signatures
SIGNATURE_SEED = 42
IN_MEMORY = 20_000  # conversations whose bands are not in a file
PART = 200_000  # hashes of one band that are looked at together
FIRST = 4_096  # conversations with their signatures in memory, 2.7 kB each; the others are in a file
RECENT = 4_096  # signatures of the file that stay in memory, 600 bytes each
_AT_ONCE = 100  # conversations that are in runs of words at a time: those take ten times what the texts do
_SHORT = 0xFFFFFFFF  # four bytes of a hash: a chance meeting costs a second look, nothing else
_NUMBER = "number"
_HASHES = [f"band {band}" for band in range(BANDS)]
_SIGNATURE = Struct(f"<{PERMUTATIONS}I")
_HIGH = int.from_bytes(_SIGNATURE.pack(*[1 << 31] * PERMUTATIONS), "little")
_LOW = int.from_bytes(_SIGNATURE.pack(*[(1 << 31) - 1] * PERMUTATIONS), "little")
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
    """What is kept of every conversation to know which ones may be alike. Close it: there may be files. They have no
    name, so that a kill leaves nothing behind.
    """

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files:
            file.close()

    def learn(self, hashes: pl.DataFrame) -> None:
        """See what `band_hashes` gives of some conversations."""
        self.frames.append(hashes)
        if sum(frame.height for frame in self.frames) >= IN_MEMORY:
            self._put_away()

    def _put_away(self) -> None:
        self._files.append(TemporaryFile(buffering=0))  # noqa: SIM115 - open as long as this is
        pl.concat(self.frames).write_ipc(self._files[-1])
        self.frames = []

    def _column(self, name: str) -> Iterator[pl.Series]:
        """A column, file by file; by the name of what is open, because polars keeps more of a file object."""
        yield from (pl.read_ipc(f"/dev/fd/{file.fileno()}", columns=[name])[name] for file in self._files)
        yield from (frame[name] for frame in self.frames)

    def shared(self) -> Iterator[pl.Series]:
        """The conversations that share a band with another one, in the order in which they were seen."""
        if not self._files:
            rows = pl.concat([pl.DataFrame(schema=_SCHEMA), *self.frames])
            suspects = rows.filter(pl.any_horizontal(pl.col(_HASHES).is_duplicated()))[_NUMBER]
            yield from [suspects] if suspects.len() else []
        else:
            yield from self._shared_in_files()

    def _shared_in_files(self) -> Iterator[pl.Series]:
        """One band after the other, and of each a part of the hashes."""
        height = sum(numbers.len() for numbers in self._column(_NUMBER))
        found, parts = pl.repeat(value=False, n=height, eager=True), -(-height // PART)
        for name in _HASHES:
            for part in range(parts):
                found = found.scatter(self._again(name, part, parts), values=True)
        begin = 0
        for numbers in self._column(_NUMBER):
            if (suspects := numbers.filter(found.slice(begin, numbers.len()))).len():
                yield suspects
            begin += numbers.len()

    def _again(self, name: str, part: int, parts: int) -> pl.Series:
        """The rows whose hash of a band another row has, too. A hash falls into one of `parts`."""
        rows, begin = [], 0
        for hashes in self._column(name):
            numbered = pl.DataFrame({"hash": hashes}).with_row_index("row", begin)
            rows.append(numbered.filter(pl.col("hash") % parts == part))
            begin += hashes.len()
        ordered = pl.concat(rows).sort("hash")
        same = ordered["hash"] == ordered["hash"].shift()
        return ordered["row"].filter(same.fill_null(value=False) | same.shift(-1).fill_null(value=False))


def _scratch() -> sqlite3.Connection:
    """A database in a file that has no name and goes with whoever opened it."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # it may be collected by any thread
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("BEGIN")  # and never a commit
    return database


class Copies(Mapping[int, int]):
    """Each conversation that nearly copies an earlier one -> the first such one; in a file when there are many."""

    def __init__(self) -> None:
        self._database = _scratch()
        finalize(self, self._database.close)
        self._database.execute("CREATE TABLE copies (copy INTEGER PRIMARY KEY, original INTEGER NOT NULL)")

    def note(self, copy: int, original: int) -> None:
        """Learn of a copy."""
        self._database.execute("INSERT INTO copies VALUES (?, ?)", (copy, original))

    def __getitem__(self, number: int) -> int:
        row = self._database.execute("SELECT original FROM copies WHERE copy = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(number)
        return int(row[0])

    def __iter__(self) -> Iterator[int]:
        return (copy for (copy,) in self._database.execute("SELECT copy FROM copies ORDER BY copy"))

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM copies").fetchone()[0])


class _Originals:
    """Conversations that copy none before them: the FIRST in memory, where they are found at once, then in a file."""

    def __init__(self) -> None:
        self._few = RMinHashDeduplicator(SIMILAR, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=SIGNATURE_SEED)
        self._many = _Filed()

    def learn(self, number: int, signature: RMinHash) -> int | None:
        """The first one that is SIMILAR; without one, `number` is one itself. Numbers come in ascending order."""
        if alike := self._few.get_duplicates(signature):
            return min(map(int, alike))
        if self._few.len() < FIRST:
            self._few.add(str(number), signature)
            return None
        return self._many.learn(number, _SIGNATURE.pack(*signature.digest()))

    def close(self) -> None:
        self._many.close()


class _Filed:
    """Originals by their bands, in a file. Slower, and as exact."""

    def __init__(self) -> None:
        self._database = _scratch()
        self._database.execute("PRAGMA cache_size = -8192")
        self._database.execute(
            "CREATE TABLE bands (band INTEGER, original INTEGER, PRIMARY KEY (band, original)) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE signatures (original INTEGER PRIMARY KEY, signature BLOB NOT NULL)")
        self._signature = lru_cache(RECENT)(self._read)

    def learn(self, number: int, signature: bytes) -> int | None:
        size = len(signature) // BANDS
        bands = [hash((band, signature[band * size : (band + 1) * size])) for band in range(BANDS)]
        mine = int.from_bytes(signature, "little")
        for (original,) in self._database.execute(_SHARING, bands).fetchall():
            if _differing(mine, self._signature(original)) <= (1 - SIMILAR) * PERMUTATIONS:
                return int(original)
        self._database.execute("INSERT INTO signatures VALUES (?, ?)", (number, signature))
        self._database.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", ((band, number) for band in bands))
        return None

    def _read(self, original: int) -> int:
        row = self._database.execute("SELECT signature FROM signatures WHERE original = ?", (original,)).fetchone()
        return int.from_bytes(row[0], "little")

    def close(self) -> None:
        self._signature.cache_clear()
        self._database.close()


_SHARING = f"""SELECT DISTINCT original FROM bands WHERE band IN ({", ".join("?" * BANDS)})
    ORDER BY original"""  # noqa: S608 - a constant


def _differing(one: int, other: int) -> int:
    """How many of two signatures' places differ: those of which a bit is left, carried into the highest."""
    left = one ^ other
    return (((left & _LOW) + _LOW | left) & _HIGH).bit_count()


def copies(chunks: Iterable[pl.DataFrame]) -> Copies:
    """The copies among conversations that come in ascending order. Copies are not copied in turn."""
    found = Copies()
    with closing(_Originals()) as originals:
        for texts in (some for turns in chunks for some in _texts(turns).iter_slices(_AT_ONCE)):
            signatures = RMinHash.from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
            for number, signature in zip(texts[_NUMBER], signatures, strict=True):
                original = originals.learn(number, signature)
                if original is not None:
                    found.note(number, original)
    return found


def _texts(turns: pl.DataFrame) -> pl.DataFrame:
    """(number, text) of each conversation as a whole."""
    return turns.group_by("number", maintain_order=True).agg(
        pl.concat_str(Turn._fields, separator="\n").str.join("\n").alias("text")
    )
