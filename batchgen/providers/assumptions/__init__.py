"""The assumptions that this program makes of each provider, and how a rehearsal looks at them.

assumption       one row: a name, the assumption in one sentence, its source, and a function that looks at it
gemini, together, openai (rows shared by the last two: chat)     the tables
job_checks, row_checks, probe_checks     the functions that look
observer         a client that notes what passes; results: the result files read once more
probes           the calls that only a rehearsal makes
evidence         what is noted, as rehearsal.json

To add an assumption, add a row to a table. If nothing notes yet what it looks at, add a field to `evidence` and fill it
in `observer`, or add a call to `probes`.
"""

from __future__ import annotations

from typing import NamedTuple

from batchgen.providers.assumptions import gemini, openai, together
from batchgen.providers.assumptions.assumption import Assumption

# The first word of a row's name: what happens to a batch, in this order.
_ORDER = ("model", "upload", "create", "listing", "states", "results", "rows", "usage", "sampling", "dead", "job")


class Rehearsed(NamedTuple):
    """What a rehearsal must know of a provider.

    `dead_model` is not served by it. `refuses_dead`: a create call for it is refused; otherwise the job fails. `paged`:
    listings have pages. `sizes_results`: the service can be asked for the size of a result file.
    """

    rows: tuple[Assumption, ...]
    dead_model: str
    refuses_dead: bool = False
    paged: bool = True
    sizes_results: bool = True


def rehearsed(name: str) -> Rehearsed:
    """Return what a rehearsal must know of the provider called `name`."""
    if name == "gemini":
        return Rehearsed(_in_order(gemini.ROWS), gemini.DEAD_MODEL, refuses_dead=True, sizes_results=False)
    if name == "together":
        return Rehearsed(_in_order(together.ROWS), together.DEAD_MODEL, paged=False)
    return Rehearsed(_in_order(openai.service_rows(name)), openai.DEAD_MODEL)


def _in_order(rows: tuple[Assumption, ...]) -> tuple[Assumption, ...]:
    """Return the rows by the first word of their names, the rare ones last."""

    def place(row: Assumption) -> tuple[bool, int, str]:
        word = row.name.partition(".")[0]
        return row.rare, _ORDER.index(word) if word in _ORDER else len(_ORDER), word

    return tuple(sorted(rows, key=place))
