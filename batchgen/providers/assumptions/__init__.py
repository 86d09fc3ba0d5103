"""The assumptions that this program makes of each provider, and how a rehearsal looks at them.

assumption       one row: a name, the assumption in one sentence, its source, and a function that looks at it
gemini, together, openai (rows shared by the last two: chat)     the tables
job_checks, row_checks, probe_checks     the functions that look
observer         a client that notes what passes; evidence: what it notes; results: the result files read once more
probes           the calls that only a rehearsal makes
record           rehearsal.json

To add an assumption, add a row to a table. If nothing notes yet what it looks at, add a field to `evidence` and fill it in
`observer`, or add a call to `probes`.
"""

from __future__ import annotations

from typing import NamedTuple

from batchgen.providers.assumptions import gemini, openai, together
from batchgen.providers.assumptions.assumption import Assumption


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
        return Rehearsed(gemini.ROWS, gemini.DEAD_MODEL, refuses_dead=True, sizes_results=False)
    if name == "together":
        return Rehearsed(together.ROWS, together.DEAD_MODEL, paged=False)
    return Rehearsed(openai.service_rows(name), openai.DEAD_MODEL)
