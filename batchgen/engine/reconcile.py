"""Resolve create calls without a clear answer: find and adopt the job, or abandon the batch after the grace period.

A create call is never repeated while its job may exist. Only complete listings, read with the API key that made the
call, prove that a job does not exist. Two of them are needed, at least a third of the grace period apart, the second
after the whole grace period. A listing proves nothing if it fails half-way, says that it is incomplete, or lacks a job
that is known to exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from batchgen.core.errors import Ambiguous, BatchgenError, NeedsPerson, Temporary
from batchgen.engine import duplicates
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.ledger.rows import CANCELLATION_REQUESTED, JOB_DELETED, UNKNOWN_FINGERPRINT, Batch, BatchState
from batchgen.providers import find_provider
from batchgen.providers.base import REFUSALS, Job, JobState, Provider
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.logging_setup import log

EMPTY_LISTINGS_NEEDED = 2  # complete listings without the job, before its batch is abandoned
LISTED_AFTER_END_SECONDS = 48 * 3600.0  # a job is listed for at least this long after its end
MIN_BATCHES_TO_LIST = 4  # from this many batches on, one listing is cheaper than one call for each batch


def reconcile(session: Session) -> None:
    """Resolve every create call without a clear answer, as far as possible now. Record a trouble for each other one."""
    unanswered = sorted(session.store.batches(BatchState.CREATING), key=lambda batch: batch.provider)
    for name, group in groupby(unanswered, key=lambda batch: batch.provider):
        provider = find_provider(name)
        try:
            mine = [batch for batch in group if _was_created_with_current_key(session, provider, batch)]
            if not mine:
                continue
            found = jobs_by_label(session, provider)
        except BatchgenError as error:
            session.trouble(error, name)
            continue
        unlisted = _missing_from_listing(session, provider, found)
        for batch in mine:
            if matches := matching_jobs(batch, found):
                adopt(session, provider, batch, matches)
            elif batch.job.key_fingerprint == UNKNOWN_FINGERPRINT and not provider.names_come_back:
                _find_by_uploaded_file(session, provider, batch, found)
            elif unlisted:
                _report_incomplete_listing(session, batch, unlisted[0])
            else:
                _count_empty_listing(session, batch)


def jobs_by_label(session: Session, provider: Provider) -> Mapping[str, list[Job]]:
    """Return the jobs of a provider by each of their labels, oldest first. Raises Temporary if that fails."""
    try:
        jobs = session.remote(provider).jobs()
    except REFUSALS as error:
        raise Temporary(f"{provider.name} refuses to list batches: {error}.", do="The next tick tries again.") from None
    found: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.created_at):
        for label in job.labels:
            found.setdefault(label, []).append(job)
    return found


def matching_jobs(batch: Batch, found: Mapping[str, Sequence[Job]]) -> list[Job]:
    """Return the jobs that carry the name of a batch or were created from its input file, oldest first."""
    named = [*found.get(batch.name, ()), *found.get(batch.job.remote_file or "", ())]
    return sorted({job.remote_id: job for job in named}.values(), key=lambda job: job.created_at)


def _was_created_with_current_key(session: Session, provider: Provider, batch: Batch) -> bool:
    """Return whether the current API key may have made the create call; otherwise record a trouble."""
    if batch.job.key_fingerprint in (session.key_fingerprint(provider), UNKNOWN_FINGERPRINT):
        return True
    session.trouble(
        NeedsPerson(
            f"{session.describe(batch)}: its create call was made with another key ({batch.job.key_fingerprint}).",
            do=f"Run a tick with that key in {provider.key_variable}.",
        )
    )
    return False


def _find_by_uploaded_file(session: Session, provider: Provider, batch: Batch, found: Mapping[str, list[Job]]) -> None:
    """Find the job of a batch by the name of its input file, because a rebuilt store does not know the file's id.

    Finding none proves nothing, so the user is asked to look for it.
    """
    try:
        uploads = session.remote(provider).inputs(f"{batch.name}.jsonl")
    except REFUSALS:
        uploads = []
    except BatchgenError as error:
        session.trouble(error)
        return
    for file_id in uploads:
        if matches := found.get(file_id):
            adopt(session, provider, session.store.update(batch, remote_file=file_id), matches)
            return
    session.store.update(batch, empty_listings=1)
    session.trouble(
        NeedsPerson(
            f"{session.describe(batch)}: the store was rebuilt and does not know whether this batch was submitted.",
            do=f"Look for a job with the input file {batch.name}.jsonl in the provider's console. If there is"
            " none: batchgen retry makes its conversations ready again.",
        )
    )


def _missing_from_listing(session: Session, provider: Provider, found: Mapping[str, list[Job]]) -> list[Batch]:
    """Return the batches whose jobs should be in a listing but are not.

    Batches in flight should be in it. If the listing is empty, those that ended recently should, too. A job that
    answered 404 may really be gone, so it is not expected.
    """
    shown = {job.remote_id for jobs in found.values() for job in jobs}
    expected = session.store.batches(BatchState.IN_FLIGHT)
    if not shown:
        since = session.now() - LISTED_AFTER_END_SECONDS
        ended = session.store.batches(BatchState.COLLECTED)
        expected += [
            one for one in ended if (one.job.collected_at or 0) > since and one.job.remote_state != JOB_DELETED
        ]
    return [
        batch
        for batch in expected
        if batch.provider == provider.name
        and batch.job.key_fingerprint == session.key_fingerprint(provider)
        and batch.job.remote_id
        and not batch.counters.not_found_count
        and batch.job.remote_id not in shown
    ]


def adopt(session: Session, provider: Provider, batch: Batch, matches: Sequence[Job]) -> Batch:
    """Take the oldest matching job as the job of the batch.

    The other jobs were created by accident: they are entered as duplicates and cancelled.
    """
    oldest, *others = matches
    settle.forget_ending(session, batch)
    log.info("%s: found its job %s", session.describe(batch), oldest.remote_id)
    # A rebuilt store does not know who cancelled a job: probably the user, whose jobs get a grace period.
    error = CANCELLATION_REQUESTED if oldest.state is JobState.CANCELLED else batch.job.error
    with session.store.transaction():  # after a kill, the other jobs must be in the ledger, too
        batch = session.store.update(
            batch,
            state=BatchState.IN_FLIGHT,
            remote_id=oldest.remote_id,
            key_fingerprint=session.key_fingerprint(provider),
            submitted_at=batch.job.intent_at,
            error=error,
            empty_listings=0,
            first_empty_listing_at=None,
        )
        entered = enter_duplicates(session, batch, others)
    failpoint("adopted")
    for duplicate, job in entered:
        _cancel_duplicate(session, provider, duplicate, job)
    return batch


def enter_duplicates(session: Session, batch: Batch, jobs: Sequence[Job]) -> list[tuple[Batch, Job]]:
    """Enter `jobs` into the ledger as duplicates of `batch`, and warn. Returns those that were new."""
    entered = [(duplicate, job) for job in jobs if (duplicate := duplicates.enter(session, batch, job))]
    for duplicate, job in entered:
        log.warning(
            "%s: bought twice; the later job %s %s; its cost (up to $%.4f) is booked as %s",
            session.describe(batch),
            job.remote_id,
            "has ended" if job.state.ended else "will be cancelled",
            batch.plan.reserved_usd or 0,
            duplicate.name,
        )
    return entered


def _cancel_duplicate(session: Session, provider: Provider, duplicate: Batch, job: Job) -> None:
    """Cancel a duplicate. If that fails, every tick tries again (see `late_results`)."""
    if job.state.ended:
        return
    try:
        session.remote(provider).cancel(job.remote_id)
        session.store.update(duplicate, error=CANCELLATION_REQUESTED)
    except BatchgenError as error:
        session.trouble(error)
    except REFUSALS as error:
        session.trouble(Temporary(f"{provider.name}: {job.remote_id} could not be cancelled: {error}."))


def _report_incomplete_listing(session: Session, batch: Batch, unlisted: Batch) -> None:
    """Record that the listing lacks the job of the batch `unlisted`, so that it proves nothing about `batch`."""
    session.trouble(
        Ambiguous(
            f"{session.describe(batch)}: the create call got no clear answer, and the provider's list is not complete:"
            f" it lacks the job of {unlisted.name}.",
            do="The next tick looks again. Nothing is bought twice meanwhile.",
        )
    )


def _count_empty_listing(session: Session, batch: Batch) -> None:
    """Count a complete listing without the job of a batch. Abandon the batch once that is proof enough."""
    now, grace = session.now(), session.settings.batches.reconcile_grace_seconds
    first = batch.counters.first_empty_listing_at if batch.counters.first_empty_listing_at is not None else now
    empty = batch.counters.empty_listings + 1
    waited = now - (batch.job.intent_at or now)
    if empty >= EMPTY_LISTINGS_NEEDED and waited >= grace and now - first >= grace / 3:
        log.warning("%s: did not reach the provider; its conversations are ready again", session.describe(batch))
        settle.abandon_batch(session, batch, "no job was found for an unanswered create call")
        failpoint("abandoned")
        return
    session.store.update(batch, empty_listings=min(empty, EMPTY_LISTINGS_NEEDED), first_empty_listing_at=first)
    session.trouble(
        Ambiguous(
            f"{session.describe(batch)}: the create call got no clear answer {max(waited, 0):.0f} s ago and no job is"
            f" listed yet. Ticks look for it until {grace:.0f} s have passed.",
            do="The next tick looks again. Nothing is bought twice meanwhile.",
        )
    )
