"""Compare an exported file with the store. Reads it a chunk at a time, so its length does not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from batchgen.core.dialogue import Conversation
from batchgen.dataset.card import CARD, read_card_rows
from batchgen.dataset.export import CHUNK, FILE_SUFFIXES, ROW_GROUP, ModelAttribution, Record
from batchgen.dataset.formats import FORMATS, FlaggedConversation, Format
from batchgen.dataset.quality.flags import LABELS
from batchgen.ledger.run import Run
from batchgen.runtime.files import utf8_name


def verify_exports(path: Path, run: Run) -> Iterator[str]:
    """Return the problems of an export, one line each. An export is a file, or a directory with its card.

    Every record must equal, except for its flags, what the store has for its id (and round). No conversation may be in
    two splits. The card must count what the files have; files that it does not name belong to other exports.
    """
    files, stated = [path], dict[str, int]()
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix in FILE_SUFFIXES)
        stated = read_card_rows(path / CARD)
        if stated:
            files = [file for file in files if file.stem in stated]
            for split in sorted(stated.keys() - {file.stem for file in files}):
                yield f"{path}: the card names {split}, but there is no such file"
        elif not files:
            yield f"{path}: no .jsonl or .parquet file"
    seen: list[_ExportedFile] = []
    for file in files:
        rows, found = 0, _ExportedFile(run, file)
        try:
            for chunk in found.chunks():
                rows += len(chunk)
                yield from found.check(chunk)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            yield f"{file}: cannot be read ({str(error).splitlines()[0]})"
        for other in seen:
            yield from (f"{file}: {name} is also in {other.path}" for name in found.also_in(other))
        seen.append(found)
        if path.is_dir() and rows != stated.get(file.stem):
            yield f"{file}: {rows} rows, but the card says {stated.get(file.stem, 'nothing')}"


class _ExportedFile:
    """One exported file, read back."""

    def __init__(self, run: Run, path: Path) -> None:
        self._run, self.path, self._names = run, path, run.names()
        self._rounds = run.settings.rounds
        self._writers = ModelAttribution(run.store, self._rounds)
        self._formats = {frozenset(form.schema(self._rounds)): form for form in FORMATS.values()}
        self._rows = 0  # checked so far
        self._seen = bytearray((run.conversations + 1) * self._rounds)  # which (conversation, round) were seen

    def also_in(self, other: _ExportedFile) -> Iterator[str]:
        """Return the conversations that the other file has too."""
        for number in range(1, self._run.conversations + 1):
            if self._has(number) and other._has(number):
                yield self._names.id(number)

    def _has(self, number: int) -> bool:
        return any(self._seen[number * self._rounds : (number + 1) * self._rounds])

    def chunks(self) -> Iterator[Sequence[Record]]:
        if self.path.suffix == ".parquet":
            with utf8_name(self.path) as name:
                yield from self._parquet_chunks(pl.scan_parquet(name, glob=False))
            return
        with self.path.open("rb") as stream:
            while lines := list(islice(stream, CHUNK)):
                yield list(map(orjson.loads, lines))

    def _parquet_chunks(self, file: pl.LazyFrame) -> Iterator[Sequence[Record]]:
        schema = file.collect_schema()
        form = self._formats.get(frozenset(schema))
        if form and schema != form.schema(self._rounds):
            raise ValueError(f"its columns are {schema}")
        start = 0
        while (group := file.slice(start, ROW_GROUP).collect()).height:  # a row group at a time, not the whole file
            yield from (part.to_dicts() for part in group.iter_slices(CHUNK))
            start += group.height

    def check(self, chunk: Sequence[Record]) -> Iterable[str]:
        """Return the problems of some records."""
        numbers = {number for record in chunk if (number := _row_number(record)) is not None}
        known = {one.number: one for one in self._run.store.dialogues.read(sorted(numbers))}
        for record in chunk:
            self._rows += 1
            if flaw := self._problem(record, known.get(_row_number(record) or 0)):
                identity = record.get("id") if isinstance(record, dict) else None
                yield f"{self.path}: {identity or f'row {self._rows}'}: {flaw}"

    def _problem(self, record: Record, one: Conversation | None) -> str:
        form = self._formats.get(frozenset(record)) if isinstance(record, dict) else None
        if form is None:
            return "not a record of any format"
        if one is None or record["id"] != self._names.id(one.number):
            return "not a conversation of this run"
        if len(one.turns) < self._rounds or not one.turns[self._rounds - 1].correction:
            return "the conversation is not complete"
        number = record.get("round", self._rounds)
        if number not in range(1, self._rounds + 1):
            return f"round {number} does not exist or is there twice"
        at = one.number * self._rounds + int(number) - 1
        if self._seen[at]:
            return f"round {number} does not exist or is there twice"
        self._seen[at] = True
        return _difference(
            record, form, FlaggedConversation(record["id"], one.turns, (), self._writers.of(one.number)), number
        )


def _difference(record: Record, form: Format, dialogue: FlaggedConversation, number: int) -> str:
    """Return how a record differs from its dialogue; of its flags only the names are checked."""
    expected = form.record(dialogue.until(number))
    wrong = [name for name in expected if name != "flags" and record[name] != expected[name]]
    if wrong:
        return f"{', '.join(wrong)}: differs from the store"
    flags = record.get("flags", [])
    known = isinstance(flags, list) and all(isinstance(flag, str) and flag in LABELS for flag in flags)
    return "" if known else f"unknown flags {flags}"


def _row_number(record: Any) -> int | None:
    """Return the number of the conversation of a record, None if it has no valid id."""
    identity = record.get("id") if isinstance(record, dict) else None
    match = re.fullmatch(r"r1-(\d{1,12})", identity) if isinstance(identity, str) else None
    return int(match[1]) if match else None
