"""Handle duplicate jobs: jobs that were created by accident for the same requests, and are paid again.

Each is entered into the ledger as a batch of its own that is in flight and has no conversations. The code for all
batches then reserves its money, cancels it, downloads its results and records their cost as superseded. Its file
`BATCH.duplicateN.ending.json` has what `rebuild` needs, because a duplicate has no request file.
"""

from __future__ import annotations

from itertools import count

from batchgen.core.outcomes import Reason
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.settlement.settle import Ending
from batchgen.ledger.rows import Batch, BatchState
from batchgen.providers import find_provider
from batchgen.providers.base import Job

MARK = ".duplicate"  # in the name of a duplicate, between the name of its batch and its number


def enter(session: Session, original: Batch, job: Job) -> Batch | None:
    """Enter a job as a duplicate of `original`, in flight. Returns None if the ledger has the job already."""
    known = session.store.batches()
    if any((one.provider, one.job.remote_id) == (original.provider, job.remote_id) for one in known):
        return None
    names = {one.name for one in known}
    name = next(name for number in count(1) if (name := f"{original.name}{MARK}{number}") not in names)
    batch = _plan(session, original, name, original.plan.reserved_usd)
    batch = session.store.update(
        batch,
        state=BatchState.IN_FLIGHT,
        key_fingerprint=session.key_fingerprint(find_provider(original.provider)),
        remote_id=job.remote_id,
        submitted_at=original.job.intent_at,
    )
    settle.write_ending(session, batch, Ending(Reason.MISSING, "bought by accident", state=batch.state))
    return batch


def enter_again(session: Session) -> int:
    """Enter the duplicates of a run whose store is rebuilt. Returns how many were settled; the others are in flight."""
    originals = {one.name: one for one in session.store.batches()}
    settled = 0
    for path in sorted((session.layout.root / "results").glob(f"round*/*/*{MARK}*.ending.json")):
        name = path.name.removesuffix(".ending.json")
        original, ending = originals.get(name.partition(MARK)[0]), settle.read_ending(path)
        if original is None or ending is None:
            continue
        kept = settle.read_ledger_fields(path)
        batch = _plan(session, original, name, kept["reserved_usd"])
        batch = session.store.update(batch, state=BatchState.IN_FLIGHT, submitted_at=batch.plan.planned_at)
        batch = session.store.update(batch, **{fact: kept[fact] for fact in ("model", *settle.REMOTE_FIELDS)})
        if ending.state != batch.state:
            _settle(session, batch, ending)
            settled += 1
    return settled


def _settle(session: Session, batch: Batch, ending: Ending) -> None:
    files = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    raw = b"\n".join(path.read_bytes() for path in files if path.exists())
    if raw.strip():  # late results whose ending was not updated before a kill
        ending = ending._replace(awaited_until=None)
    lines = settle.parse_result_lines(find_provider(batch.provider), batch, raw)
    settle.settle(session, batch, {}, lines, ending)


def _plan(session: Session, original: Batch, name: str, reserved_usd: float | None) -> Batch:
    """Plan a duplicate. Numbers above zero belong to request files, so duplicates are numbered from -1 downwards."""
    identity = original.identity._replace(name=name)
    plan = original.plan._replace(requests=0, estimated_usd=0.0, reserved_usd=reserved_usd)
    lowest = min(one.number for one in session.store.batches())
    return session.store.plan(identity, plan, [], number=min(lowest, 0) - 1)
