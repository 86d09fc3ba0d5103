"""Find conversations that nearly copy an earlier one (MinHash), among any number of them, in little memory.

Of every conversation only its number and band hashes are kept, 72 bytes. Two conversations without a common band are
not near-duplicates. Those with one are read again and compared by whole signatures, which SQLite moves to a file when
there are many.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from functools import lru_cache
from itertools import product
from struct import Struct

import polars as pl
from rensa import RMinHash

from batchgen.core.dialogue import Turn
from batchgen.dataset.quality.similarity import shingles

MIN_JACCARD = 0.8
PERMUTATIONS = 128
BANDS = 16  # of 8 rows: finds 95 % of the pairs at MIN_JACCARD; what it finds is checked against the whole signatures
SIGNATURE_SEED = 42
PARTS = 16  # at most, of the hashes of a band: comparing all of them at once takes ten times their own memory
JOINED = 20_000  # rows of a frame of hashes: many small frames take as much memory as what is in them
BAND_ORIGINALS = 8  # conversations with the same band that a later one is compared with
CACHED_SIGNATURES = 4_096  # signatures that stay in memory as numbers, 600 bytes each
_CHUNK = 100  # conversations whose word runs are in memory at once: those take ten times the memory of the texts
_HASH_MASK = 0xFFFFFFFF  # four bytes of a hash: two equal hashes by chance only cost one more comparison
_NUMBER = "number"
_HASHES = [f"band {band}" for band in range(BANDS)]
_SIGNATURE = Struct(f"<{PERMUTATIONS}I")
_HIGH = int.from_bytes(_SIGNATURE.pack(*[1 << 31] * PERMUTATIONS), "little")
_LOW = int.from_bytes(_SIGNATURE.pack(*[(1 << 31) - 1] * PERMUTATIONS), "little")
_SCHEMA = pl.Schema({_NUMBER: pl.Int64, **dict.fromkeys(_HASHES, pl.UInt32)})
COPIES = pl.Schema({_NUMBER: pl.Int64, "near_duplicate_of": pl.Int64})


def band_hashes(turns: pl.DataFrame) -> pl.DataFrame:
    """Return the number and the hash of each band of whole conversations (schema flags.TURNS_SCHEMA)."""
    found = [pl.DataFrame(schema=_SCHEMA)]
    for texts in _all_texts(turns).iter_slices(_CHUNK):
        rows = RMinHash.digests_from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
        signatures = pl.Series(rows, dtype=pl.Array(pl.UInt32, PERMUTATIONS))
        bands = signatures.reshape((texts.height * BANDS, PERMUTATIONS // BANDS))
        hashes = (bands.hash() & _HASH_MASK).cast(pl.UInt32)
        columns = {name: hashes.gather_every(BANDS, band) for band, name in enumerate(_HASHES)}
        found.append(pl.DataFrame({_NUMBER: texts[_NUMBER], **columns}))
    return pl.concat(found)


class BandIndex:
    """The band hashes of all conversations, to find pairs that may be near-duplicates."""

    def __init__(self) -> None:
        self._joined, self._recent = [pl.DataFrame(schema=_SCHEMA)], list[pl.DataFrame]()

    def learn(self, hashes: pl.DataFrame) -> None:
        """Add the result of `band_hashes` for some conversations."""
        self._recent.append(hashes)
        if sum(frame.height for frame in self._recent) >= JOINED:
            self._joined.append(pl.concat(self._recent, rechunk=True))
            self._recent = []

    def candidates(self) -> pl.Series:
        """Return the conversations that share a band with another one, in the order in which they were added."""
        rows = pl.concat([*self._joined, *self._recent])
        found = pl.repeat(value=False, n=rows.height, eager=True)
        parts = min(PARTS, 1 + rows.height // JOINED)  # few rows need no parts, and each part takes a millisecond
        for name, part in product(_HASHES, range(parts)):
            some = (rows[name] % parts == part).arg_true()
            found = found.scatter(some.filter(rows[name].gather(some).is_duplicated()), values=True)
        return rows[_NUMBER].filter(found)


class _Originals:
    """Conversations that copy no earlier one, by their bands, in a temporary SQLite database.

    SQLite writes it to a file when it is larger than the cache; closing it deletes the file.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -8192")
        self._database.execute("BEGIN")  # never committed: the database is temporary
        self._database.execute(
            "CREATE TABLE bands (band INTEGER, original INTEGER, PRIMARY KEY (band, original)) WITHOUT ROWID"
        )
        self._database.execute("CREATE TABLE signatures (original INTEGER PRIMARY KEY, signature BLOB NOT NULL)")
        self._signature = lru_cache(CACHED_SIGNATURES)(self._read)

    def learn(self, number: int, signature: bytes) -> int | None:
        """Return the first original with at least MIN_JACCARD; without one, `number` becomes an original: None.

        Numbers come in ascending order. Of the originals with the same band only the first BAND_ORIGINALS are compared:
        where everything resembles everything, there would be more of them the larger the dataset is.
        """
        size = len(signature) // BANDS
        bands = [hash((band, signature[band * size : (band + 1) * size])) for band in range(BANDS)]
        mine = int.from_bytes(signature, "little")
        sharing = self._database.execute(_SELECT_SHARING_A_BAND, bands).fetchall()
        for original in sorted({original for _, original in sharing}):
            if _differing(mine, self._signature(original)) <= (1 - MIN_JACCARD) * PERMUTATIONS:
                return int(original)
        self._database.execute("INSERT INTO signatures VALUES (?, ?)", (number, signature))
        have = Counter(band for band, _ in sharing)
        new = [(band, number) for band in set(bands) if have[band] < BAND_ORIGINALS]
        self._database.executemany("INSERT INTO bands VALUES (?, ?)", new)
        return None

    def _read(self, original: int) -> int:
        row = self._database.execute("SELECT signature FROM signatures WHERE original = ?", (original,)).fetchone()
        return int.from_bytes(row[0], "little")

    def close(self) -> None:
        self._signature.cache_clear()
        self._database.close()


_SELECT_SHARING_A_BAND = f"""SELECT band, original FROM bands
    WHERE band IN ({", ".join("?" * BANDS)})"""  # noqa: S608 - a constant


def _differing(one: int, other: int) -> int:
    """Return the number of places in which two signatures differ, by carrying any set bit into the highest one."""
    left = one ^ other
    return (((left & _LOW) + _LOW | left) & _HIGH).bit_count()


def find_near_duplicates(chunks: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the copies among conversations in ascending order, each with the first one it nearly copies (schema
    COPIES).

    A copy is not itself an original of later copies.
    """
    found = [pl.DataFrame(schema=COPIES)]
    with closing(_Originals()) as originals:
        for texts in (some for turns in chunks for some in _all_texts(turns).iter_slices(_CHUNK)):
            signatures = RMinHash.from_token_sets(list(map(shingles, texts["text"])), PERMUTATIONS, SIGNATURE_SEED)
            packed = [_SIGNATURE.pack(*signature.digest()) for signature in signatures]
            first = list(map(originals.learn, texts[_NUMBER], packed))
            found.append(
                pl.DataFrame({_NUMBER: texts[_NUMBER], "near_duplicate_of": first}, schema=COPIES).drop_nulls()
            )
    return pl.concat(found, rechunk=True)


def _all_texts(turns: pl.DataFrame) -> pl.DataFrame:
    """Return (number, text) of each conversation as a whole."""
    return turns.group_by("number", maintain_order=True).agg(
        pl.concat_str(Turn._fields, separator="\n").str.join("\n").alias("text")
    )
