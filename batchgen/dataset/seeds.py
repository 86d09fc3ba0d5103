"""Read aligner-20K rows, in any supported container, as clean triples, with a report of the rows left out.

A row that cannot be used is left out and reading goes on. A file whose remaining rows cannot be trusted is refused as a
whole: a cut archive, a broken array, a broken quote in a CSV. After the damage, texts may belong to another row.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import heapq
import io
import json
import lzma
import os
import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

import orjson
import zstandard

from batchgen.core.errors import InputError
from batchgen.core.text import clean_text, count_lone_surrogates, one_line
from batchgen.runtime.files import utf8_name
from batchgen.runtime.streams import native_stderr_dropped

EXAMPLES_PER_REASON = 20  # line numbers per reason
MAX_REMEMBERED_QUESTIONS = 100_000  # remembered for `copies`: this limits memory, not the data
MOST_SHOWN = 100  # characters of an unusable row's keys
MAX_CSV_FIELD = 64 * 1024 * 1024  # characters; the csv module's own limit of 131,072 is below a long answer
PARQUET_SLICE = 10_000  # rows; collect_batches would hold a whole row group: 436 MB against 108 MB
INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})  # Unicode categories: controls, formats, blanks
SUPPORTED_FILES_HINT = "Use .jsonl, .json or .csv, each also .gz, .xz or .zst; or .parquet."
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")
BEFORE_ROW = re.compile(r"(?:\A\[|\s*,)\s*")  # in a JSON array
EMPTY_ARRAY = re.compile(r"\[\s*\]")
_DECODER = json.JSONDecoder(parse_int=float)  # no number is needed, and int refuses more than 4,300 digits

Rows = Iterator[tuple[int, object]]  # line number (as in SkippedRow), and the row or its error


class Seed(NamedTuple):
    """A single-turn triple: stripped and clean, no field empty."""

    question: str
    answer: str
    correction: str


class RowError(StrEnum):
    """Why a row cannot be a seed; a reader yields it in place of the row."""

    UNREADABLE = "unreadable"  # not JSON, or not UTF-8
    NOT_AN_OBJECT = "not an object"
    WRONG_COLUMNS = "wrong number of columns"
    REPEATED_HEADER = "repeated header"  # where two files were put together


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that is not a seed. `line` counts from 1: lines (jsonl, csv) or rows (json array, parquet)."""

    line: int
    reason: str


@dataclass(slots=True)
class SeedReport:
    """Counts of the rows read so far: read = kept + the sum of left_out. Blank lines are not rows.

    `examples` has the first line numbers per reason; `replaced_surrogates` counts characters; `copies` counts kept rows
    whose question occurred before (among the first 100,000 different questions; for information).
    """

    read: int = 0
    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)
    replaced_surrogates: int = 0
    copies: int = 0

    def skip(self, item: SkippedRow) -> None:
        self.left_out[item.reason] = self.left_out.get(item.reason, 0) + 1
        self.examples[item.reason] = [*self.examples.get(item.reason, ()), item.line][:EXAMPLES_PER_REASON]


def parse_row(row: object) -> tuple[Seed, int] | str:
    """Return the seed in a row and its number of replaced surrogates, or the reason why there is none."""
    if not isinstance(row, dict):
        return (row if isinstance(row, RowError) else RowError.NOT_AN_OBJECT).value
    texts, surrogates = [], 0
    for name in Seed._fields:
        if (value := row.get(name)) is None:
            return f"{name} is missing"
        if not isinstance(value, str):
            return f"{name} is not text"
        text = clean_text(value)
        if not _has_visible_text(text):
            return f"{name} is blank"
        texts.append(text)
        surrogates += count_lone_surrogates(value)
    seed = Seed(*texts)
    return (seed, surrogates) if seed != Seed._fields else RowError.REPEATED_HEADER.value


def _has_visible_text(text: str) -> bool:
    """Return whether anything is visible: not only blanks and characters of no width."""
    return text[:1].isalnum() or any(unicodedata.category(one) not in INVISIBLE_CATEGORIES for one in text)


def _jsonl_rows(file: io.BufferedIOBase) -> Rows:
    """Yield rows of JSON Lines. Only the byte \\n ends a line (U+2028 is text). Byte order marks may be inside."""
    for number, line in enumerate(file, start=1):
        row = line.removeprefix(BOM)
        if row.strip():
            yield number, _json_row(row)


def _json_row(line: bytes) -> object:
    """Return the value of a line. orjson is fast, but refuses NaN, Infinity and escaped lone surrogates."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(line)
    try:
        return _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return RowError.UNREADABLE


def _json_rows(file: io.BufferedIOBase) -> Rows:
    """Yield rows of an array, or of JSON Lines with a wrong suffix. Raises ValueError for an object around rows."""
    data = file.read().removeprefix(BOM)
    if not data.lstrip().startswith(b"["):
        _reject_wrapper_object(_json_row(data))
        return _jsonl_rows(io.BytesIO(data))
    # Invalid bytes become surrogates, which decoding cannot yield otherwise: only their own row is lost.
    return _array_rows(data.decode(errors="surrogateescape").strip())


def _reject_wrapper_object(whole: object) -> None:
    if isinstance(whole, dict) and not whole.keys() & {*Seed._fields}:
        raise ValueError("it is one JSON object; it must be an array of rows, or one row per line")


def _array_rows(text: str) -> Rows:
    """Yield the elements of an array. Raises ValueError for a broken array: the next row cannot be found."""
    if EMPTY_ARRAY.fullmatch(text):
        return
    number = at = 0
    while before := BEFORE_ROW.match(text, at):
        number += 1
        row, at = _DECODER.raw_decode(text, before.end())
        yield number, RowError.UNREADABLE if SURROGATE.search(text, before.end(), at) else row
    if text[at:].strip() != "]":
        raise ValueError(f"the array is broken after row {number}: expected a comma, or ] at its end")


def _csv_rows(file: io.BufferedIOBase) -> Rows:
    """Yield rows by the column names of the header before them, each at its first physical line.

    A file joined from several files has several headers, with columns in any order. Raises ValueError at a broken
    quote.
    """
    start, header = 1, list[str]()

    def lines() -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            # Within a quoted field U+FEFF is text.
            yield (line.removeprefix(BOM) if number == start else line).decode(errors="surrogateescape")

    csv.field_size_limit(MAX_CSV_FIELD)  # for the whole process: the csv module has no other setting
    reader = csv.reader(lines(), strict=True)
    try:
        for cells in reader:
            names = [name.strip() for name in cells]
            if not header or names == header or {*Seed._fields}.issubset(names):
                if header:
                    yield start, RowError.REPEATED_HEADER
                header = _check_columns(names)
            elif cells:
                yield start, _csv_row(header, cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"the row that begins at line {start}: {error}") from None


def _csv_row(header: list[str], cells: list[str]) -> object:
    if any(map(SURROGATE.search, cells)):
        return RowError.UNREADABLE
    return dict(zip(header, cells, strict=True)) if len(cells) == len(header) else RowError.WRONG_COLUMNS


def _check_columns(columns: list[str]) -> list[str]:
    if any(columns.count(name) != 1 for name in Seed._fields):
        raise ValueError(f"needs question, answer, correction, once each; found: {', '.join(columns)[:200] or 'none'}")
    return columns


def _parquet_rows(path: Path) -> Rows:
    # Otherwise polars panics at an unknown time zone, even in a column that is not read.
    os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")
    import polars as pl

    try:
        with utf8_name(path) as name:
            frame = pl.scan_parquet(name, glob=False, hive_partitioning=False)
            with native_stderr_dropped():
                columns = frame.collect_schema()
                _check_columns(columns.names())
                texts = {pl.String, pl.Categorical, pl.Enum, pl.Null}
                # Values of other types are not texts, and some have no Python value: each is replaced by 0.
                frame = frame.select(
                    field
                    if columns[field].base_type() in texts
                    else pl.when(pl.col(field).is_not_null()).then(0).alias(field)
                    for field in Seed._fields
                )
                count = frame.select(pl.len()).collect().item()
            for offset in range(0, count, PARQUET_SLICE):
                with native_stderr_dropped():
                    rows = frame.slice(offset, PARQUET_SLICE).collect()
                yield from enumerate(rows.iter_rows(named=True), start=offset + 1)
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error)) from None
    except pl.exceptions.PanicException as error:  # a BaseException
        raise ValueError(f"polars cannot read it, it is probably damaged: {error}") from None


def _open_zstd(path: Path) -> io.BufferedIOBase:
    """Open a file after reading it once to the end: the reader of zstandard 0.25.0 accepts a cut file as complete."""
    decompressor = zstandard.ZstdDecompressor()
    frame = decompressor.decompressobj()
    with path.open("rb") as file:
        while data := frame.unused_data or file.read(8192):
            frame = decompressor.decompressobj() if frame.eof else frame
            frame.decompress(data)
    if not frame.eof:
        raise EOFError("the last frame is incomplete")
    reader = decompressor.stream_reader(path.open("rb"), read_across_frames=True)
    return io.BufferedReader(cast("io.RawIOBase", reader))


_READERS = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows}
_OPENERS: dict[str, Callable[[Path], io.BufferedIOBase]] = {
    "": lambda path: path.open("rb"),
    ".gz": gzip.GzipFile,
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}


def file_format(name: str) -> tuple[str, str] | None:
    """Return the container and compression of a file name, such as (".jsonl", ".xz"); None if unknown."""
    before, last = ["", "", *PurePosixPath(name.lower()).suffixes][-2:]
    kind, packing = (before, last) if last in _OPENERS else (last, "")
    return (kind, packing) if kind in _READERS or (kind, packing) == (".parquet", "") else None


def read_seeds(path: Path, report: SeedReport) -> Iterator[Seed]:
    """Yield the usable rows of a file, in order; `report` is filled meanwhile.

    Memory is constant except for JSON arrays. Raises InputError: at once if the file is missing or of an unknown
    format; while reading for wrong columns and for a broken or cut file (the seeds before it must not be used then); at
    the end if there is no usable row.
    """
    return _parse_rows(path.name, _read_rows(path, *_require_file_format(path)), report)


def _require_file_format(path: Path) -> tuple[str, str]:
    """Return the container and compression of a file that can be read twice (a pipe cannot)."""
    if not path.is_file():
        raise InputError(f"{path} is a directory." if path.is_dir() else f"{path} does not exist or is not a file.")
    if (kind := file_format(path.name)) is None:
        raise InputError(f"{path.name} has an unknown format.", do=SUPPORTED_FILES_HINT)
    return kind


def _read_rows(path: Path, kind: str, packing: str) -> Rows:
    """Yield rows; any error that makes the file unreadable becomes an InputError with its name."""
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path)
            return
        with _OPENERS[packing](path) as file:
            yield from _READERS[kind](file)
    except (OSError, EOFError, ValueError, RecursionError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        do = "Download or export it again. If it is a pointer of Git LFS, run: git lfs pull"
        if kind == ".csv":
            do = "Download or export it again, in UTF-8, with columns question, answer, correction separated by commas."
        raise InputError(f"{path.name} cannot be used: {one_line(error)}", do=do) from None


def _parse_rows(name: str, rows: Rows, report: SeedReport) -> Iterator[Seed]:
    questions: set[int] = set()
    first = ""
    for line, row in rows:
        report.read += 1
        judged = parse_row(row)
        if isinstance(judged, str):
            report.skip(SkippedRow(line, judged))
            first = first or _describe_row(line, row)
            continue
        seed, surrogates = judged
        report.kept += 1
        report.replaced_surrogates += surrogates
        report.copies += hash(seed.question) in questions
        if len(questions) < MAX_REMEMBERED_QUESTIONS:
            questions.add(hash(seed.question))
        yield seed
    if not report.kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.items()) or "it is empty"
        told = f"{name} has no usable row: {reasons}" + (f"; {first}." if first else ".")
        raise InputError(told, do="Each row needs question, answer and correction: three texts in UTF-8.")


def _describe_row(line: int, row: object) -> str:
    """Describe where an unusable row is and, for an object, its keys."""
    if not isinstance(row, dict):
        return f"see line {line}"
    keys = "".join(filter(str.isprintable, ", ".join(map(str, row))))[:MOST_SHOWN]
    return f"line {line} has {keys or 'no keys'}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hex. Raises InputError as `read_seeds` does at once."""
    _require_file_format(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def sample_seeds(seeds: Iterable[Seed], *, limit: int | None, sample_seed: int, shuffle: bool) -> Iterator[Seed]:
    """Return the seeds of a run: all in file order; the first `limit`, reading no further; or `limit` random ones.

    The random sample is uniform and in random order. It is the beginning of any larger sample, and depends on
    sample_seed and the seeds alone, not on the version of Python. It holds `limit` seeds in memory.
    """
    if limit is None:
        return iter(seeds)
    if not shuffle:
        return islice(seeds, limit)
    chance = random.Random(sample_seed)  # noqa: S311 - no secret; random() is the one sequence Python promises to keep
    drawn = heapq.nsmallest(limit, ((chance.random(), number, seed) for number, seed in enumerate(seeds)))
    return (seed for _, _, seed in drawn)
