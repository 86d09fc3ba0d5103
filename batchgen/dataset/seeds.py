"""Read the rows of seed files as clean triples, with a report of the rows left out."""

from __future__ import annotations

import heapq
import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from batchgen.core.errors import InputError
from batchgen.core.text import clean_text, count_lone_surrogates
from batchgen.dataset.rows.dotted_paths import FIELDS, suggest_columns
from batchgen.dataset.rows.row_files import read_rows, require_file_format
from batchgen.dataset.rows.shapes import ALIGNER, Columns, RowError, Shape

EXAMPLES_PER_REASON = 20  # line numbers per reason
MAX_REMEMBERED_QUESTIONS = 100_000  # remembered for `copies`: this limits memory, not the data
MOST_SHOWN = 100  # characters of an unusable row's keys
MOST_ROWS_TO_RECOGNIZE = 100  # rows at the beginning of a file, held in memory until one has a known shape
INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})  # Unicode categories: controls, formats, blanks

# Where a row is: its number from 1, in lines (jsonl, csv) or rows (JSON array, Parquet); FILE:LINE of several files.
Place = int | str


class Seed(NamedTuple):
    """A single-turn triple: stripped and clean, no field empty."""

    question: str
    answer: str
    correction: str


@dataclass(slots=True)
class SeedReport:
    """Counts of the rows read so far: read = kept + the sum of left_out. Blank lines are not rows.

    `examples` has the first line numbers per reason; `replaced_surrogates` counts characters; `copies` counts kept rows
    whose question occurred before (among the first 100,000 different questions; for information). `shape` is what the
    rows were recognized as.
    """

    read: int = 0
    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Place]] = field(default_factory=dict)
    replaced_surrogates: int = 0
    copies: int = 0
    shape: str = field(default="", compare=False)

    def leave_out(self, line: Place, reason: str) -> None:
        """Count a row that is not a seed."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        self.examples[reason] = [*self.examples.get(reason, ()), line][:EXAMPLES_PER_REASON]


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


def read_seeds(
    path: Path, report: SeedReport, columns: Columns | None = None, *, more: Sequence[Path] = ()
) -> Iterator[Seed]:
    """Yield the usable rows of a file and of `more` files after it, in order; `report` is filled meanwhile.

    Memory is constant except for JSON arrays. Raises InputError: at once if a file is missing or of an unknown format;
    while reading for wrong columns and for a broken or cut file (the seeds before it must not be used then); at the end
    if there is no usable row.
    """
    paths, columns = [path, *more], columns or Columns()
    for each in paths:
        require_file_format(each)
    name = f"{path.name} (the first of {len(paths)} files)" if more else path.name
    return _parse_rows(name, _all_rows(paths, columns), report, columns)


def _all_rows(paths: Sequence[Path], columns: Columns) -> Iterator[tuple[Place, object]]:
    if len(paths) == 1:
        yield from read_rows(paths[0], columns)
        return
    for path in paths:
        yield from ((f"{path.name}:{line}", row) for line, row in read_rows(path, columns))


def _parse_rows(
    name: str, rows: Iterator[tuple[Place, object]], report: SeedReport, columns: Columns
) -> Iterator[Seed]:
    questions: set[int] = set()
    shape, rows = _recognize_shape(rows, columns)
    report.shape = shape.title if shape else ALIGNER.title
    read = shape.read if shape and shape is not ALIGNER else None
    first: tuple[Place, object] | None = None
    found: set[str] = set()  # fields for which some row has a value
    for line, row in rows:
        report.read += 1
        triple = read(row) if read and isinstance(row, dict) else row
        judged = parse_row(triple)
        if isinstance(judged, str):
            report.leave_out(line, judged)
            first = first or (line, row)
            if not report.kept and isinstance(triple, dict):
                found |= {name for name in FIELDS if triple.get(name) is not None}
            continue
        seed, surrogates = judged
        report.kept += 1
        report.replaced_surrogates += surrogates
        report.copies += hash(seed.question) in questions
        if len(questions) < MAX_REMEMBERED_QUESTIONS:
            questions.add(hash(seed.question))
        yield seed
    if not report.kept:
        nowhere = {field: path for field, path in (columns.paths or {}).items() if field not in found}
        raise _no_seed_error(name, report, first, nowhere, is_known=shape is not None)


def _recognize_shape(
    rows: Iterator[tuple[Place, object]], columns: Columns
) -> tuple[Shape | None, Iterator[tuple[Place, object]]]:
    """Return the shape of the first row that has a known one, None if none has, and all rows."""
    seen = []
    for item in islice(rows, MOST_ROWS_TO_RECOGNIZE):
        seen.append(item)
        if isinstance(item[1], dict) and (shape := columns.recognize(item[1])):
            return shape, chain(seen, rows)
    return None, chain(seen, rows)


def _no_seed_error(
    name: str, report: SeedReport, first: tuple[Place, object] | None, nowhere: Mapping[str, str], *, is_known: bool
) -> InputError:
    """Return the error of files without a seed: the first row left out, the paths without a value in any row, and
    whether the shape of the rows is known.
    """
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.items()) or "it is empty"
    paths = "".join(f"; no row has anything at {path} ({field})" for field, path in nowhere.items())
    seen = f"; {_describe_row(*first)}" if first else ""
    do = "Each row needs question, answer and correction: three texts in UTF-8."
    if first and isinstance(row := first[1], dict) and row and (nowhere or not is_known):
        do = f"{do} Say where they are: {suggest_columns(row)}"
    return InputError(f"{name} has no usable row: {reasons}{paths}{seen}.", do=do)


def _describe_row(line: Place, row: object) -> str:
    """Describe where an unusable row is and, for an object, its keys."""
    where = f"line {line}" if isinstance(line, int) else line
    if not isinstance(row, dict):
        return f"see {where}"
    keys = "".join(filter(str.isprintable, ", ".join(map(str, row))))[:MOST_SHOWN]
    return f"{where} has {keys or 'no keys'}"


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
