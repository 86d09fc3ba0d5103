"""Read the rows of a seed file: JSON Lines, a JSON array, CSV, each also compressed, or Parquet.

A row that cannot be read is left out and reading goes on. A file whose remaining rows cannot be trusted is refused as a
whole: a cut archive, a broken array, a broken quote in a CSV. After the damage, texts may belong to another row.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

import orjson
import zstandard

from batchgen.core.errors import InputError
from batchgen.core.text import one_line
from batchgen.dataset.rows.dotted_paths import FIELDS, suggest_columns
from batchgen.dataset.rows.shapes import Columns, RowError, WrongColumns
from batchgen.runtime.files import utf8_name
from batchgen.runtime.streams import native_stderr_dropped

if TYPE_CHECKING:
    import polars as pl

MAX_CSV_FIELD = 64 * 1024 * 1024  # characters; the csv module's own limit of 131,072 is below a long answer
PARQUET_SLICE = 10_000  # rows; collect_batches would hold a whole row group: 436 MB against 108 MB
MESSAGES_SLICE = 2_500  # rows with lists of messages: a row of UltraFeedback is several times as long as a triple
SUPPORTED_FILES_HINT = "Use .jsonl, .json or .csv, each also .gz, .xz or .zst; or .parquet."
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")
BEFORE_ROW = re.compile(r"(?:\A\[|\s*,)\s*")  # in a JSON array
EMPTY_ARRAY = re.compile(r"\[\s*\]")
_DECODER = json.JSONDecoder(parse_int=float)  # no number is needed, and int refuses more than 4,300 digits

Rows = Iterator[tuple[int, object]]  # line number, from 1: of lines (jsonl, csv) or rows; and the row or its error


def _jsonl_rows(file: io.BufferedIOBase, _: Columns) -> Rows:
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


def _json_rows(file: io.BufferedIOBase, columns: Columns) -> Rows:
    """Yield rows of an array, or of JSON Lines with a wrong suffix. Raises ValueError for an object around rows."""
    data = file.read().removeprefix(BOM)
    if not data.lstrip().startswith(b"["):
        _reject_wrapper_object(_json_row(data), columns)
        return _jsonl_rows(io.BytesIO(data), columns)
    # Invalid bytes become surrogates, which decoding cannot yield otherwise: only their own row is lost.
    return _array_rows(data.decode(errors="surrogateescape").strip())


def _reject_wrapper_object(whole: object, columns: Columns) -> None:
    if isinstance(whole, dict) and not columns.has_any(whole):
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


def _csv_rows(file: io.BufferedIOBase, columns: Columns) -> Rows:
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
            if not header or sorted(names) == sorted(header) or {*FIELDS}.issubset(names):
                if header:
                    yield start, RowError.REPEATED_HEADER
                columns.used(names)
                header = names
            elif cells:
                yield start, _csv_row(header, cells)
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"the row that begins at line {start}: {error}") from None


def _csv_row(header: list[str], cells: list[str]) -> object:
    if any(map(SURROGATE.search, cells)):
        return RowError.UNREADABLE
    return dict(zip(header, cells, strict=True)) if len(cells) == len(header) else RowError.WRONG_COLUMNS


def _parquet_rows(path: Path, columns: Columns) -> Rows:
    # Otherwise polars panics at an unknown time zone, even in a column that is not read.
    os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")
    import polars as pl

    try:
        with utf8_name(path) as name:
            frame = pl.scan_parquet(name, glob=False, hive_partitioning=False)
            with native_stderr_dropped():
                frame = _select_columns(frame, columns)
                has_messages = any(kind.is_nested() for kind in frame.collect_schema().dtypes())
                count = frame.select(pl.len()).collect().item()
            size = MESSAGES_SLICE if has_messages else PARQUET_SLICE
            for offset in range(0, count, size):
                with native_stderr_dropped():
                    rows = frame.slice(offset, size).collect()
                yield from enumerate(rows.iter_rows(named=True), start=offset + 1)
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error)) from None
    except pl.exceptions.PanicException as error:  # a BaseException
        raise ValueError(f"polars cannot read it, it is probably damaged: {error}") from None


def _select_columns(frame: pl.LazyFrame, columns: Columns) -> pl.LazyFrame:
    """Return the columns that are read. Raises WrongColumns with the first row of the file."""
    schema = frame.collect_schema()
    readable = {name: _readable(name, kind) for name, kind in schema.items()}
    try:
        return frame.select(readable[name] for name in columns.used(schema.names()))
    except WrongColumns as error:
        error.row |= next(frame.select(readable.values()).head(1).collect().iter_rows(named=True), {})
        raise


def _readable(name: str, kind: pl.DataType) -> pl.Expr:
    """Return a column with values that Python has: 0 in place of all that is not text, messages or null."""
    import polars as pl

    if kind.is_nested():
        return pl.col(name).cast(_without_times(kind))
    if kind.base_type() in {pl.String, pl.Categorical, pl.Enum, pl.Null}:
        return pl.col(name)
    return pl.when(pl.col(name).is_not_null()).then(0).alias(name)


def _without_times(kind: pl.DataType) -> pl.DataType:
    """Return a nested type with numbers for times: Python has not every time zone and date."""
    import polars as pl

    if isinstance(kind, pl.Struct):
        return pl.Struct({field.name: _without_times(cast("pl.DataType", field.dtype)) for field in kind.fields})
    if isinstance(kind, pl.List | pl.Array):
        return pl.List(_without_times(cast("pl.DataType", kind.inner)))
    return pl.Int64() if kind.is_temporal() else kind


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


def require_file_format(path: Path) -> tuple[str, str]:
    """Return the container and compression of a file that can be read twice (a pipe cannot). Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path} is a directory." if path.is_dir() else f"{path} does not exist or is not a file.")
    if (kind := file_format(path.name)) is None:
        raise InputError(f"{path.name} has an unknown format.", do=SUPPORTED_FILES_HINT)
    return kind


def read_rows(path: Path, columns: Columns) -> Rows:
    """Yield rows; any error that makes the file unreadable becomes an InputError with its name.

    Memory is constant except for JSON arrays.
    """
    kind, packing = require_file_format(path)
    do = "Download or export it again. If it is a pointer of Git LFS, run: git lfs pull"
    try:
        if kind == ".parquet":
            yield from _parquet_rows(path, columns)
            return
        with _OPENERS[packing](path) as file:
            yield from _READERS[kind](file, columns)
    except (
        OSError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
        zlib.error,
        lzma.LZMAError,
        zstandard.ZstdError,
    ) as error:
        if kind == ".csv":
            do = "Download or export it again, in UTF-8, with columns question, answer, correction separated by commas."
        if isinstance(error, WrongColumns) and len(error.row) > 1:
            do = f"Say where the texts are: {suggest_columns(error.row)}"
        raise InputError(f"{path.name} cannot be used: {one_line(error)}", do=do) from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hex. Raises InputError."""
    require_file_format(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
