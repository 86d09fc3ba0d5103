"""The section of the dataset card on what a judge said of the corrections."""

from __future__ import annotations

from batchgen.core.wording import markdown_table, pluralize
from batchgen.dataset.audit.figures import audit_record
from batchgen.dataset.audit.table import HEADS, METHOD, audit_notes, audit_rows, judges
from batchgen.ledger.run import Run


def audit_section(run: Run) -> str:
    """Return the section as Markdown, "" if no turn was judged."""
    record = audit_record(run)
    if not record or not record["judged"]:
        return ""
    sample = (
        f"Answer and correction of {pluralize(record['judged'], 'turn')} were compared by {', '.join(judges(record))}."
        f" The turns are those of {pluralize(record['conversations'], 'conversation')}, drawn at random from all"
        f" {run.conversations:,}, also from those that this export leaves out."
    )
    notes = [f"- {note}" for note in audit_notes(record)]
    parts = [
        "## Is the correction better?",
        f"{sample} {METHOD} The method is described in batchgen's docs/audit.md.",
        markdown_table(HEADS, audit_rows(record)),
        "\n".join(notes),
    ]
    return "\n\n".join(filter(None, parts))
