"""The table of a rehearsal: what it says at each width."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from batchgen.providers.assumptions import rehearsed
from batchgen.providers.assumptions.evidence import CheckedAssumption, Record
from batchgen.reports.rehearsal_table import print_rehearsal


def record(**states: tuple[str, str]) -> Record:
    """A record of Gemini in which the named rows have another state than held."""
    checks = []
    for row in rehearsed("gemini").rows:
        state, seen = states.get(row.name.replace(".", "_"), ("held", f"what was seen of {row.name}"))
        checks.append(CheckedAssumption("gemini", row.name, state, row.assumes, seen, row.needed, row.source, row.rare))
    models = {"question": "gemini:gemini-2.5-flash-lite", "answer": "together:x", "correction": "gemini:gemini-x"}
    return Record(finished=True, models=models, checks=checks, spent_usd=0.0012)


def shown(value: Record, columns: int = 100, flying: int = 0) -> str:
    stream = StringIO()
    print_rehearsal(value, flying, Path("/run/rehearsal/rehearsal.json"), columns, stream)
    return stream.getvalue()


@pytest.mark.parametrize("columns", [72, 80, 120, 200])
def test_it_fits_the_terminal(columns: int) -> None:
    text = shown(
        record(rows_echo=("broken", "in 3 of 8 replies"), job_expired=("not seen yet", "no job expired")), columns
    )
    lines = text.splitlines()
    assert max(map(len, lines[:-1])) <= columns  # the path in the last line can be copied
    assert all(line == line.rstrip() for line in lines)
    assert lines[0].startswith("gemini  gemini-2.5-flash-lite, gemini-x (question, correction)")
    words = " ".join(text.split())
    assert ("A deleted job" in words) == (columns >= 120)
    assert "BROKEN rows.echo" in words
    assert "in 3 of 8 replies" in words
    assert "A run copes with this." in words


def test_the_conclusion_says_what_to_do() -> None:
    assert "All 35 assumptions that could be seen are held." in shown(record())
    copes = shown(record(rows_echo=("broken", "no")))
    assert "Broken, but a run copes: gemini rows.echo. Please report this." in copes
    needed = shown(record(rows_keys=("broken", "no"), usage_told=("broken", "no")))
    assert "BROKEN, and a run relies on it: gemini rows.keys, gemini usage.told." in needed
    assert "A run relies on this." in needed
    rare = shown(record(job_expired=("not seen yet", "no job expired"), states_known=("not seen yet", "")))
    assert "Not seen: gemini states.known." in rare
    assert "Not seen, because it did not happen: job.expired." in rare


def test_a_rehearsal_that_is_not_over_says_how_to_go_on() -> None:
    begun = record(rows_keys=("not seen yet", ""), rows_order=("not seen yet", ""))
    begun.finished = False
    text = shown(begun, flying=2)
    assert "not seen yet: rows.keys, rows.order" in text
    assert "2 batches in flight. Nothing is wrong so far. Run it again later, or to the end: " in text
