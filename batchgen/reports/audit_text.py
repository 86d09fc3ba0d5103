"""The figures of an audit as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.core.wording import as_invoked, pluralize
from batchgen.dataset.audit.table import HEADS, audit_notes, audit_rows, judges


def audit_text(record: Mapping[str, Any]) -> str:
    """Return the answer of `audit` as plain text."""
    turns = f"{record['judged']:,} of {pluralize(record['turns'], 'turn')} judged by {', '.join(judges(record))}"
    lines = [f"{pluralize(record['conversations'], 'conversation')}, {turns}."]
    rows = audit_rows(record)
    if rows:
        widths = [max(len(row[place]) for row in (HEADS, *rows)) for place in range(len(HEADS))]
        lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in (HEADS, *rows)), ""]
    lines += audit_notes(record)
    if record["failed"]:
        failed = pluralize(record["failed"], "verdict")
        lines.append(as_invoked(f"{failed} could not be had. To ask again: batchgen retry --stage audit"))
    if record["open"]:
        lines.append(as_invoked("The next ticks go on (batchgen collect --advance); batchgen audit shows the figures."))
    return "\n".join(lines)
