"""Write rows as result files, and apply all row faults: to rows, to sets of rows, to lines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from batchgen.emulator.faults import Faults, RowFault, RowOutcome
from batchgen.emulator.faults.text_edits import restore_surrogates
from batchgen.emulator.protocols.row_format import Row, RowFormat
from batchgen.emulator.state import Job
from batchgen.emulator.storage import Blob

BOM = b"\xef\xbb\xbf"
ROW_SET_OUTCOMES = frozenset({"missing", "duplicate_same", "duplicate_different", "unknown_key", "no_key", "swapped"})
LINE_OUTCOMES = frozenset({"crlf", "blank_line", "bom", "invalid_utf8", "torn", "not_json"})


@dataclass(slots=True)
class _Line:
    row: Row
    order: int
    line_faults: frozenset[str] = field(default_factory=frozenset)


Rows = tuple[list[int], Callable[[int], Row]]  # the indexes of the rows, and a function that reads a row by its index


def write_result_files(
    form: RowFormat, job: Job, rows: Rows, faults: Faults, files: tuple[Blob, Blob]
) -> tuple[int, int]:
    """Write the result file of a job, and the error file if the format has one, in random order like a real service.

    Returns how many rows were answered and how many failed. One row at a time is in memory, unless rows have faults.
    """
    indexes, row_of = rows
    split = form.errors_apart
    if faults.has_row_faults(job.provider):
        return _render_faulty(form, job, rows, faults, files)
    served = failed = 0
    for index in sorted(indexes, key=lambda index: _order(job, index)):
        row = row_of(index)
        bad = form.failed(row)
        files[bad and split].write(restore_surrogates(orjson.dumps(row)) + b"\n")
        served, failed = served + (not bad), failed + bad
    return served, failed


def _order(job: Job, index: int) -> int:
    return zlib.crc32(f"{job.id}:{index}".encode())


def _render_faulty(form: RowFormat, job: Job, rows: Rows, faults: Faults, files: tuple[Blob, Blob]) -> tuple[int, int]:
    indexes, row_of = rows
    plain = [_Line(row_of(index), _order(job, index)) for index in indexes]
    lines = _apply_row_faults(form, job.provider, zip(indexes, plain, strict=True), faults)
    lines.sort(key=lambda line: line.order)
    failed = [line for line in lines if form.failed(line.row)]
    if form.errors_apart:
        good = [line for line in lines if not form.failed(line.row)]
        files[0].write(_encode_lines(good))
        files[1].write(_encode_lines(failed))
        return len(good), len(failed)
    files[0].write(_encode_lines(lines))
    return len(lines) - len(failed), len(failed)


def _apply_row_faults(
    form: RowFormat, provider: str, lines: Iterable[tuple[int, _Line]], faults: Faults
) -> list[_Line]:
    result: list[_Line] = []
    swaps: list[_Line] = []
    for index, line in lines:
        struck = faults.take_row_faults(provider, index, str(line.row.get(form.key_field) or ""))
        _apply_text_fault(form, line, struck)
        outcomes = {fault.outcome: fault for fault in struck}
        line.line_faults = frozenset(outcomes.keys() & LINE_OUTCOMES)
        if "swapped" in outcomes:
            swaps.append(line)
        if "missing" not in outcomes:
            result.append(line)
        result += _extra_lines(form, line, outcomes)
        if "no_key" in outcomes:
            line.row = {name: value for name, value in line.row.items() if name != form.key_field}
    for one, other in zip(swaps[::2], swaps[1::2], strict=False):
        key = form.key_field
        one.row, other.row = one.row | {key: other.row[key]}, other.row | {key: one.row[key]}
    return result


def _apply_text_fault(form: RowFormat, line: _Line, struck: list[RowFault]) -> None:
    """Apply the first fault that changes the text of a row; a failed row has no text."""
    for fault in struck:
        if fault.outcome not in ROW_SET_OUTCOMES | LINE_OUTCOMES and not form.failed(line.row):
            line.row = form.edits[fault.outcome](line.row, fault)
            return


def _extra_lines(form: RowFormat, line: _Line, outcomes: Mapping[RowOutcome, RowFault]) -> list[_Line]:
    """Return the lines that faults add to a row: duplicates, and a line with an unknown key."""
    extra: list[_Line] = []
    if "duplicate_same" in outcomes:
        extra.append(_Line(line.row, line.order ^ 0x5A5A5A5A))
    if "duplicate_different" in outcomes:
        other = form.edits["duplicate_different"](line.row, outcomes["duplicate_different"])
        extra.append(_Line(other, line.order ^ 0x3C3C3C3C))
    if "unknown_key" in outcomes:
        key = outcomes["unknown_key"].text or "nobody-sent-this"
        extra.append(_Line(line.row | {form.key_field: key}, line.order ^ 0x69696969))
    return extra


def _encode_lines(lines: list[_Line]) -> bytes:
    if not any(line.line_faults for line in lines):
        return b"".join(restore_surrogates(orjson.dumps(line.row)) + b"\n" for line in lines)
    # A torn line has no line end. It is written last, or it would make the next line unreadable too.
    lines = sorted(lines, key=lambda line: "torn" in line.line_faults)
    start = BOM if any("bom" in line.line_faults for line in lines) else b""
    return start + b"".join(_encode_line(line) for line in lines)


def _encode_line(line: _Line) -> bytes:
    data = restore_surrogates(orjson.dumps(line.row))
    if "not_json" in line.line_faults:
        data = b"upstream connect error or disconnect/reset before headers"
    if "invalid_utf8" in line.line_faults:
        head, found, tail = data.rpartition(b'":"')
        data = head + found + b"\xff\xfe" + tail
    if "torn" in line.line_faults:
        return data[: len(data) // 2]
    return (
        data + (b"\r\n" if "crlf" in line.line_faults else b"\n") + (b"\n" if "blank_line" in line.line_faults else b"")
    )
