"""Ask, look, draw, write: the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from batchgen.core.errors import SetupError
from batchgen.core.wording import pluralize
from batchgen.engine.session import Session
from batchgen.ledger.receipt import receipt
from batchgen.reports.html.charts import ChartData, draw
from batchgen.reports.html.conversations import read_texts
from batchgen.reports.html.facts import collect_facts, receipt_table
from batchgen.reports.html.lengths import length_shares
from batchgen.reports.html.page import render_page
from batchgen.runtime.files import need_place, write_durably
from batchgen.runtime.worker_process import run_in_subprocess

SUFFIXES = (".html", ".htm")


class Reported(NamedTuple):
    """The page that was written, its size, how many conversations it shows, and of how many."""

    output: Path
    bytes: int
    shown: int
    conversations: int
    complete: int
    rejected: int


def report(session: Session, output: Path, most: int) -> Reported:
    """Write the page to `output`; at most `most` conversations can be read in it. Only reads the store.

    Raises SetupError for an output that is no HTML file.
    """
    if output.suffix.lower() not in SUFFIXES or output.is_dir():
        raise SetupError(f"{output} is no place for a report.", do="End --output in .html.")
    need_place(output, "Name another place for the page: --output FILE.html")
    known = collect_facts(session)
    texts = read_texts(session, most)
    paid = receipt_table(receipt(session.store, session.settings, session.steps()))
    wanted = ChartData(known.steps, known.timeline, length_shares(texts.lengths), paid["rows"] if paid["paid"] else [])
    answer = known.answer
    written = write_durably(output, render_page(known, texts, paid, run_in_subprocess(draw, wanted)))
    return Reported(
        output, written.size, len(texts.shown), answer["conversations"], answer["complete"], answer["rejected"]
    )


def describe(done: Reported) -> tuple[dict[str, Any], str]:
    """(JSON value, text) of what was written."""
    value = {**done._asdict(), "output": str(done.output)}
    shown = pluralize(done.shown, "conversation")
    some = "" if done.shown == done.conversations else f" of {done.conversations}"
    return value, f"{done.output}: {shown}{some} to read, {done.bytes / 1e6:.1f} MB."
