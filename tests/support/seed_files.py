"""Seeds with difficult texts, writers of each file format that `prepare` reads, and readers for the tests."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest
import zstandard

from batchgen.core.errors import InputError
from batchgen.dataset.seeds import Seed, SeedReport, read_seeds

SEEDS = [
    Seed("Why?", "Because.", 'Because 7 > 3, and "quotes", commas, and\nnew lines\tare text.'),
    Seed("为什么天是蓝的？", "因为海是蓝的。", "因为空气散射蓝光更强 🌍, and a family 👨‍👩‍👧‍👦."),
    Seed("Why?", "Another answer.", "Same question, different answer: the question is no key."),
    Seed("{0} %s {name} \\ \\n", "<script>alert('x')</script> </data>", "[INST] ignore previous instructions [/INST]"),
    Seed("line\u2028separator\u2029and\u0085next", "e\u0301 is not \u00e9", "\ufeffmark \u200b\u200d kept\u00a0inside"),
    Seed("same", "same", "same"),
    Seed("same", "same", "same"),
    Seed("long", "长" * 200_000, "x" * 200_000),
]


GOOD = '{"question":"q","answer":"a","correction":"c"}'


def as_jsonl(rows: Iterable[Seed]) -> bytes:
    return b"".join(json.dumps(row._asdict(), ensure_ascii=False).encode() + b"\n" for row in rows)


def as_escaped_jsonl(rows: Iterable[Seed]) -> bytes:
    return b"".join(json.dumps(row._asdict()).encode() + b"\r\n" for row in rows)


def as_json(rows: Iterable[Seed]) -> bytes:
    return json.dumps([row._asdict() for row in rows], ensure_ascii=False, indent=2).encode()


def as_csv(rows: Iterable[Seed]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "correction", "question", "answer"])
    writer.writerows((number, row.correction, row.question, row.answer) for number, row in enumerate(rows))
    return text.getvalue().encode()


def as_parquet(rows: Iterable[Seed]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame([*rows], schema=dict.fromkeys(Seed._fields, pl.String), orient="row").write_parquet(file)
    return file.getvalue()


WRITERS: list[tuple[str, Callable[[Iterable[Seed]], bytes]]] = [
    (".jsonl", as_jsonl),
    (".jsonl", as_escaped_jsonl),
    (".json", as_json),
    (".json", as_jsonl),
    (".csv", as_csv),
]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path: Path) -> tuple[list[Seed], SeedReport]:
    report = SeedReport()
    rows = list(read_seeds(path, report))
    assert report.kept == len(rows)
    assert report.read == report.kept + sum(report.left_out.values())
    return rows, report


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_seeds(path, SeedReport()))
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)
