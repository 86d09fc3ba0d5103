"""Take results that arrive after their batch ended without any.

The batch was abandoned, cancelled, lost or expired, and its job delivers later. Such results are paid for: a text is
accepted for each conversation that has none yet, and the cost of the others is recorded as superseded. A job of an
abandoned batch that still runs is cancelled; so is a job whose results no conversation needs any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchgen.core.errors import BatchgenError, Temporary
from batchgen.engine.collection.download import download_results
from batchgen.engine.maintenance import request_cancellation
from batchgen.engine.reconcile import MIN_BATCHES_TO_LIST, enter_duplicates, jobs_by_label, matching_jobs
from batchgen.engine.session import Session
from batchgen.engine.settlement.settle import settle_late_results
from batchgen.ledger.rows import CANCELLATION_REQUESTED, Batch, BatchState
from batchgen.providers import find_provider
from batchgen.providers.base import REFUSALS, Job, JobNotFound, JobState, Provider
from batchgen.runtime.logging_setup import log


def look_for_late_results(session: Session) -> None:
    """Settle late results of the batches that may still get some. Makes no network call if there is no such batch."""
    awaited = session.store.awaiting_late_results(session.now())
    for name in dict.fromkeys(batch.provider for batch in awaited):
        provider = find_provider(name)
        try:
            mine = [
                batch
                for batch in awaited
                if (batch.provider, batch.job.key_fingerprint) == _provider_and_key(session, provider)
            ]
            _check_provider(session, provider, mine)
        except (BatchgenError, *REFUSALS) as error:
            log.debug("%s: could not look for late results: %s", name, error)
    _cancel_unneeded_batches(session)


def _provider_and_key(session: Session, provider: Provider) -> tuple[str, str]:
    return provider.name, session.key_fingerprint(provider)


def _check_provider(session: Session, provider: Provider, batches: Sequence[Batch]) -> None:
    nameless = any(batch.job.remote_id is None for batch in batches)
    found: Mapping[str, Sequence[Job]] = {}
    if nameless or len(batches) >= MIN_BATCHES_TO_LIST:
        try:
            found = jobs_by_label(session, provider)
        except Temporary as error:  # each job that is known can be asked for by its own address
            log.debug("%s: no listing (%s)", provider.name, error)
    for batch in batches:
        try:
            _check_batch(session, provider, batch, found)
        except (BatchgenError, *REFUSALS) as error:  # go on: the job of another batch may have to be cancelled
            log.debug("%s: could not read its late job: %s", batch.name, error)


def _check_batch(session: Session, provider: Provider, batch: Batch, found: Mapping[str, Sequence[Job]]) -> None:
    mine = matching_jobs(batch, found)
    if batch.job.remote_id is None:
        for job in mine[:1]:
            _poll_batch(session, provider, _record_found_job(session, provider, batch, job, mine[1:]))
    elif _may_have_changed(batch, next((job for job in mine if job.remote_id == batch.job.remote_id), None)):
        _poll_batch(session, provider, batch)


def _may_have_changed(batch: Batch, listed: Job | None) -> bool:
    """Return whether a call for this one job may show more than is known. A listing does not show all results."""
    if listed is None or listed.output or listed.state is JobState.SUCCEEDED:
        return True
    return listed.raw_state != batch.job.remote_state


def _record_found_job(session: Session, provider: Provider, batch: Batch, job: Job, others: Sequence[Job]) -> Batch:
    """Record that an abandoned batch has this job. The jobs `others` are entered as duplicates and cancelled later."""
    log.warning(
        "%s: was abandoned, but its job %s exists after all (up to $%.4f)",
        session.describe(batch),
        job.remote_id,
        batch.plan.reserved_usd or 0,
    )
    if not job.state.ended:
        session.remote(provider).cancel(job.remote_id)
    with session.store.transaction():
        enter_duplicates(session, batch, others)
        return session.store.update(batch, remote_id=job.remote_id, submitted_at=batch.job.intent_at)


def _poll_batch(session: Session, provider: Provider, batch: Batch) -> None:
    try:
        job = session.remote(provider).get(batch.job.remote_id or "")
    except JobNotFound:
        return
    ended = (batch.job.ended_at or session.now()) if job.state.ended else None
    batch = session.store.update(batch, remote_state=job.raw_state, ended_at=ended)
    if not job.state.ended:
        return
    if job.output or job.errors or job.inline_rows:
        _download_and_settle(session, provider, batch, job)
    elif job.state is JobState.FAILED:
        session.store.update(batch, late_results_until=None)


def _download_and_settle(session: Session, provider: Provider, batch: Batch, job: Job) -> None:
    """Settle a batch by its late results. An empty file proves nothing: its rows may still come."""
    keys = session.keys(batch, session.store.failed_numbers(batch))
    raw = download_results(session, session.remote(provider), batch, job, keys)
    if raw.strip():
        settle_late_results(session, provider, batch, raw)


def _cancel_unneeded_batches(session: Session) -> None:
    """Request the cancellation of batches in flight that no conversation needs any more.

    Late results of other batches brought all their texts. If a batch cannot be cancelled, its full cost is recorded.
    """
    for batch in session.store.batches(BatchState.IN_FLIGHT):
        if batch.requests or batch.job.error == CANCELLATION_REQUESTED:
            continue
        try:
            if (batch.provider, batch.job.key_fingerprint) == _provider_and_key(session, find_provider(batch.provider)):
                request_cancellation(session, batch)
        except (BatchgenError, *REFUSALS) as error:
            log.debug("%s: is not needed, but could not be cancelled: %s", batch.name, error)
