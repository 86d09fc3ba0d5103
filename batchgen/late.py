"""Jobs that turn up after they were given up: unanswered creates whose job stayed hidden for the whole grace period.

Their conversations were asked again, so no text of theirs is accepted any more. But money was spent: a live job is
cancelled, its result lines are kept as evidence, and what they cost is booked as superseded.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.booking import supersede
from batchgen.errors import BatchgenError
from batchgen.fetch import fetch
from batchgen.logs import log
from batchgen.providers import provider as provider_row
from batchgen.providers.base import REFUSALS, Job, Provider, label
from batchgen.reconcile import listed
from batchgen.records import Batch
from batchgen.session import Session

LATE_SECONDS = 72 * 3600.0  # how long a job that was given up is looked for


def look_for_late_jobs(session: Session) -> None:
    """Cancel and book the jobs of abandoned batches that are listed by now. Costs nothing where there are none."""
    waiting = [batch for batch in session.store.batches("abandoned") if may_appear(session, batch)]
    for name in dict.fromkeys(batch.provider for batch in waiting):
        provider = provider_row(name)
        try:
            mine = [batch for batch in waiting if (batch.provider, batch.key_fingerprint) == _own(session, provider)]
            _look(session, provider, mine)
        except (BatchgenError, *REFUSALS) as error:
            log.info("%s: jobs that were given up could not be looked for: %s", name, error)


def may_appear(session: Session, batch: Batch) -> bool:
    """Whether the job of an abandoned batch may still turn up and need its input file."""
    return batch.collected_at is None and session.now() - (batch.intent_at or 0) < LATE_SECONDS


def _own(session: Session, provider: Provider) -> tuple[str, str]:
    return provider.name, session.fingerprint(provider)


def _look(session: Session, provider: Provider, batches: Sequence[Batch]) -> None:
    if not batches:
        return
    found = listed(session, provider)
    for batch in batches:
        for job in found.get(label(provider, name=batch.name, remote_file=batch.remote_file or ""), [])[:1]:
            _settle(session, provider, batch, job)


def _settle(session: Session, provider: Provider, batch: Batch, job: Job) -> None:
    remote = session.remote(provider)
    if batch.remote_id != job.remote_id:
        log.warning(
            "%s: given up, but its job %s exists after all; up to $%.4f are lost",
            session.describe(batch),
            job.remote_id,
            batch.reserved_usd or 0,
        )
        if not job.state.ended:
            remote.cancel(job.remote_id)
        batch = session.store.update(batch, remote_id=job.remote_id)
    job = remote.get(job.remote_id)  # a listing does not show results
    batch = session.store.update(batch, remote_state=job.raw_state)
    if job.state.ended:
        _book(session, provider, batch, job)


def _book(session: Session, provider: Provider, batch: Batch, job: Job) -> None:
    raw = fetch(session, session.remote(provider), batch, job, {}, strict=False)
    supersede(session, provider, batch, raw)
