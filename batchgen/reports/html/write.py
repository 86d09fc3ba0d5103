"""The command `report`: read the run, draw the charts, write the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from batchgen.core.errors import SetupError
from batchgen.core.wording import pluralize
from batchgen.dataset.audit.figures import audit_record
from batchgen.engine.session import Session
from batchgen.ledger.receipt import receipt
from batchgen.reports.html.audit_values import audit_values, win_rates
from batchgen.reports.html.charts import ChartData, draw
from batchgen.reports.html.conversations import read_texts
from batchgen.reports.html.facts import collect_facts, receipt_table
from batchgen.reports.html.lengths import length_shares
from batchgen.reports.html.page import render_page
from batchgen.runtime.files import need_place, write_durably
from batchgen.runtime.worker_process import run_in_subprocess

SUFFIXES = (".html", ".htm")


class Reported(NamedTuple):
    """The page that was written: its size in bytes, the conversations that it shows and those of the run."""

    output: Path
    bytes: int
    shown: int
    conversations: int
    complete: int
    rejected: int


def report(session: Session, output: Path, most: int) -> Reported:
    """Write the page to `output`, with the texts of at most `most` conversations. Does not change the store.

    Raises SetupError if `output` does not end in .html or .htm or is a folder.
    """
    if output.suffix.lower() not in SUFFIXES or output.is_dir():
        raise SetupError(
            f"{output} is not an HTML file.", do="Choose a file name that ends in .html: --output FILE.html"
        )
    need_place(output, "Choose another path for the report: --output FILE.html")
    known = collect_facts(session)
    texts = read_texts(session, most)
    paid = receipt_table(receipt(session.store, session.settings))
    bars, record = paid["rows"] if paid["paid"] else [], audit_record(session)
    wanted = ChartData(known.steps, known.timeline, length_shares(texts.lengths), bars, win_rates(record))
    answer, drawings = known.answer, run_in_subprocess(draw, wanted)
    written = write_durably(output, render_page(known, texts, paid, drawings, audit_values(record)))
    return Reported(
        output, written.size, len(texts.shown), answer["conversations"], answer["complete"], answer["rejected"]
    )


def describe(done: Reported) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) about the page that was written."""
    value = {**done._asdict(), "output": str(done.output)}
    shown = pluralize(done.shown, "conversation")
    some = "" if done.shown == done.conversations else f" of {done.conversations}"
    return value, f"{done.output}: {shown}{some} shown, {done.bytes / 1e6:.1f} MB."
