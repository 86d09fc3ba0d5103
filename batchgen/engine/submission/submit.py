"""Ready conversations -> request files -> planned batches, as many as may go now. `sending` does the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batchgen.core.dialogue import Step
from batchgen.core.errors import NeedsPerson, Temporary
from batchgen.core.outcomes import Reason
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.submission import request_files
from batchgen.engine.submission.admission import admitted, record_wait, still_admitted
from batchgen.engine.submission.rejection_limit import stopped
from batchgen.engine.submission.request_files import Shard
from batchgen.engine.submission.sender import Sender
from batchgen.ledger.rows import WAITING_STATES, Batch, BatchIdentity, BatchPlan, BatchState
from batchgen.providers import provider as provider_row
from batchgen.runtime.failpoints import crashpoint
from batchgen.runtime.files import hash_file, write_durably


def submit(session: Session, steps: Sequence[Step]) -> int:
    """Submit every conversation that is ready for one of `steps`. Returns the number of batches created.

    What cannot go now waits: troubles are noted in the session, and the other provider goes on.
    """
    sender, reasons = Sender(session), dict[Step, str]()
    if session.store.batches(*WAITING_STATES) or any(map(session.store.ready_attempts, steps)):
        session.need_newest_store()  # it lists folders: once a command
    sent = sender.send(_left_over(session, steps, reasons, troubled=False))
    for step in steps:
        attempts = session.store.ready_attempts(step)
        try:
            if attempts:
                session.pin_models()
        except (Temporary, NeedsPerson) as error:
            session.trouble(error)
            break
        for tried in attempts:
            sent += sender.send(_planned(session, step, tried, sender.halted, reasons))
        record_wait(session, step, reasons.get(step, ""))
    return sent + sender.send(_left_over(session, steps, reasons, troubled=True))


def _left_over(session: Session, steps: Sequence[Step], reasons: dict[Step, str], *, troubled: bool) -> Iterator[Batch]:
    """Batches whose file was written in an earlier command and that were not created yet.

    Those that were `troubled` in their upload come last, in any order: it may be one file alone that nobody takes.
    """
    found = [
        batch for batch in session.store.batches(*WAITING_STATES) if bool(batch.counters.failed_uploads) == troubled
    ]
    if troubled and found:
        from random import shuffle  # here: hardly a tick needs it

        shuffle(found)
    for at, batch in enumerate(found, start=1):
        if batch.job.intent_at is None and batch.model != session.model(provider_row(batch.provider)):
            settle.release(session, batch, BatchState.REFUSED, error=f"{batch.model} was given up before it was asked")
        elif batch.step in steps and still_admitted(session, batch, found[at:], reasons):
            yield batch


def _planned(session: Session, step: Step, tried: int, halted: set[str], reasons: dict[Step, str]) -> Iterator[Batch]:
    """Every batch of `step` that may go now, entered into the ledger when it is asked for."""
    while shard := request_files.shard(session, step, tried):
        for row in shard.too_large:
            session.store.reject(row, Reason.TOO_LARGE, "a single request exceeds the limits of a request file")
        if shard.too_large and (stop := stopped(session, step)):
            session.trouble(stop)
            return
        if not shard.rows:
            continue
        if not admitted(session, shard, halted, reasons):
            return
        batch = plan(session, shard)
        del shard  # it is on disk now; the next one may be as large
        yield batch


def plan(session: Session, shard: Shard) -> Batch:
    """Request file durable, then the ledger: a kill between the two leaves a file that nobody refers to.

    Where the very same file lies there already, an older copy of the store may have been put back: the batch is entered
    as one that was tried, which is looked for before it is created.
    """
    provider = session.provider(shard.step.stage)
    number = session.store.next_batch()
    name = f"{session.names().run}-r{shard.step.round}-{shard.step.stage}-{number:06d}-a{shard.attempt}"
    path = session.layout.requests(shard.step, name)
    before = hash_file(path) if path.exists() else None
    written = write_durably(path, [shard.body])
    crashpoint("request_file_written")
    identity = BatchIdentity(
        name=name,
        position=shard.step.position,
        attempt=shard.attempt,
        provider=provider.name,
        model=session.model(provider),
    )
    plan = BatchPlan(
        requests=len(shard.rows),
        bytes=written.size,
        sha256=written.sha256,
        input_tokens=shard.input_tokens,
        output_ceiling=shard.output_ceiling,
        estimated_usd=shard.estimated_usd,
        reserved_usd=shard.reserved_usd,
        planned_at=session.now(),
        follow_up=shard.follow_up,
    )
    with session.store.transaction():
        batch = session.store.plan(identity, plan, shard.rows)
        if written == before:
            batch = session.store.update(batch, intent_at=plan.planned_at)
    crashpoint("batch_planned")
    return batch
