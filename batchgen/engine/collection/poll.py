"""Poll batches in flight, download the results of those that ended, and settle them.

A poll that fails never changes a state. A job counts as lost only after repeated 404 answers over a long time, to calls
for the job itself with the key that created it. A job that ended may have answered only some requests: every file that
it offers is read, whatever its state is, and every request gets an outcome. Results may become available some time
after the end of a job, so one poll without results proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.core.errors import BatchgenError, BatchLost, NeedsPerson, NotReady, QuotaClosed, SetupError, Temporary
from batchgen.core.outcomes import Reason
from batchgen.engine.collection.download import download_results, salvage
from batchgen.engine.collection.late_results import look_for_late_results
from batchgen.engine.collection.prefetch import Prefetch
from batchgen.engine.reconcile import MIN_BATCHES_TO_LIST
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.settlement.settle import Ending
from batchgen.ledger.holds import model_scope
from batchgen.ledger.rows import CANCELLATION_REQUESTED, Batch, BatchState
from batchgen.providers import find_provider
from batchgen.providers.base import REFUSALS, Job, JobNotFound, JobState, Provider, ResultReader
from batchgen.providers.http_errors import is_model_error
from batchgen.providers.quotas import PLAN_ADVICE, is_permanent_quota, is_quota_error
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.logging_setup import log

LOST_AFTER_NOT_FOUND = 5  # consecutive 404 answers, over at least LOST_AFTER_GRACE_PERIODS
LOST_AFTER_GRACE_PERIODS = 8  # 2 h by default
OVERDUE_SECONDS = 24 * 3600.0  # providers promise or aim at 24 h
NEEDS_PERSON_AFTER_SECONDS = 6 * 3600.0  # with an unknown state or without results; then the user must act
# So long after the user was told, a job whose results are not available counts as lost: 72 h after its end, if ticks
# run. The end alone is not enough: the clock may jump, and no tick may have run for days.
GIVE_UP_SECONDS = 66 * 3600.0


def collect(session: Session) -> int:
    """Poll every batch in flight and settle those that ended. Returns the number of batches collected."""
    collected = 0
    in_flight = session.store.batches(BatchState.IN_FLIGHT)
    for name in dict.fromkeys(batch.provider for batch in in_flight):
        mine = [batch for batch in in_flight if batch.provider == name]
        try:
            collected += _collect_provider(session, find_provider(name), mine)
        except SetupError as error:
            session.trouble(error, name)  # the results of other providers must not expire meanwhile
    look_for_late_results(session)
    return collected


def _collect_provider(session: Session, provider: Provider, batches: Sequence[Batch]) -> int:
    collected = 0
    own = [batch for batch in batches if _was_created_with_current_key(session, provider, batch)]
    if not own:
        return 0
    listed = _jobs_by_id(session, provider, own)
    own = _rotate_past_failed_batch(session, provider, own)
    remote = _prefetch(session, provider, own, listed)
    stopped = ""
    for batch in own:
        try:
            collected += _poll_batch(session, provider, remote, batch, listed.get(batch.job.remote_id or ""))
        except SetupError:
            raise
        except (NotReady, NeedsPerson) as error:
            session.trouble(error)
        except BatchgenError as error:
            session.trouble(error)
            stopped = batch.name
            break  # the provider has a problem; the next poll would probably wait and fail, too
    if stopped or session.store.fact(_failed_batch_fact(provider)):
        session.store.set_fact(_failed_batch_fact(provider), stopped)
    return collected


def _failed_batch_fact(provider: Provider) -> str:
    """Return the name of the fact that stores at which batch the provider failed in the last poll."""
    return f"stopped:{provider.name}"


def _rotate_past_failed_batch(session: Session, provider: Provider, batches: Sequence[Batch]) -> list[Batch]:
    """Return the batches, with the one that failed in the last poll at the end.

    One batch may fail every time; the batches behind it must still be polled.
    """
    stopped = session.store.fact(_failed_batch_fact(provider))
    at = next((at for at, batch in enumerate(batches, start=1) if batch.name == stopped), 0)
    return [*batches[at:], *batches[:at]]


def _was_created_with_current_key(session: Session, provider: Provider, batch: Batch) -> bool:
    """Return whether the current key created this batch: the jobs of other keys answer 404, which must not count."""
    if batch.job.key_fingerprint == session.key_fingerprint(provider):
        return True
    if not batch.requests:  # no conversation needs it; its cost is recorded once the key is back
        return False
    session.trouble(
        NeedsPerson(
            f"{session.describe(batch)} was submitted with another key ({batch.job.key_fingerprint}); it was not"
            " polled.",
            do=f"Run a tick with that key in {provider.key_variable} to collect it.",
        )
    )
    return False


def _jobs_by_id(session: Session, provider: Provider, batches: Sequence[Batch]) -> dict[str, Job]:
    """Return jobs by id from one listing, if that saves calls. Jobs that are not listed are polled one by one."""
    if len(batches) < MIN_BATCHES_TO_LIST:
        return {}
    try:
        return {job.remote_id: job for job in session.remote(provider).jobs()}
    except SetupError:
        raise
    except (BatchgenError, *REFUSALS) as error:
        log.info("%s: could not list its jobs (%s); each batch is polled separately", provider.name, error)
        return {}


def _prefetch(session: Session, provider: Provider, batches: Sequence[Batch], listed: Mapping[str, Job]) -> Prefetch:
    """Return a reader that fetches results in advance, for batches that ended or are not in the listing."""
    sizes = {
        batch.job.remote_id: batch.plan.bytes
        for batch in batches
        if batch.job.remote_id and ((job := listed.get(batch.job.remote_id)) is None or job.state.ended)
    }
    return Prefetch(session.remote(provider), sizes)


def _poll_batch(session: Session, provider: Provider, remote: Prefetch, batch: Batch, job: Job | None) -> bool:
    """Poll one batch and settle it if it has ended. Returns whether it was collected."""
    # A listing does not show the results of a job; a call for the job itself does.
    if job is None or job.state.ended:
        try:
            job = remote.get(batch.job.remote_id or "")
        except JobNotFound:
            return _handle_not_found(session, remote, batch)
        except REFUSALS as error:
            raise NotReady(f"{session.describe(batch)}: {error}", do="The next tick tries again.") from None
    # 0 at the first poll that sees the end, although this poll itself takes time.
    waited = 0.0 if batch.job.ended_at is None else session.now() - batch.job.ended_at
    batch = _record_job_state(session, batch, job)
    if not job.state.ended:
        return False
    return _download_and_settle(session, provider, remote, batch, job, waited)


def _record_job_state(session: Session, batch: Batch, job: Job) -> Batch:
    """Record the state of a job if it is new, and log a warning if it is unexpected."""
    now = session.now()
    started = batch.job.started_at or (now if job.state is not JobState.PENDING else None)
    changes: dict[str, Any] = {"remote_state": job.raw_state, "started_at": started}
    if job.state.ended:
        changes["ended_at"] = batch.job.ended_at or now
    elif job.state is not JobState.UNKNOWN:  # an end that was shown too early does not count
        changes |= {"ended_at": None, "overdue_since": None}
    batch = session.store.update(batch, **changes, not_found_count=0, not_found_since=None)
    age = now - (batch.job.submitted_at or now)
    if job.state is JobState.UNKNOWN:
        what = f"the unknown state {job.raw_state!r}" if job.raw_state else "no state at all"
        log.warning("%s: the job shows %s; it stays in flight", session.describe(batch), what)
        if age > NEEDS_PERSON_AFTER_SECONDS:
            session.trouble(
                NeedsPerson(
                    f"{session.describe(batch)}: the job shows {what}, {age / 3600:.0f} h after it was submitted.",
                    do=f"Look at {batch.job.remote_id} in the provider's console; `batchgen cancel` cancels it.",
                )
            )
    elif not job.state.ended and age > OVERDUE_SECONDS:
        log.warning("%s: in flight for %.0f h", session.describe(batch), age / 3600)
    return batch


def _handle_not_found(session: Session, remote: ResultReader, batch: Batch) -> bool:
    """Count a 404 answer for the job itself. The job is lost after several of them over a long time."""
    now = session.now()
    since = min(batch.counters.not_found_since or now, now)
    batch = session.store.update(batch, not_found_count=batch.counters.not_found_count + 1, not_found_since=since)
    enough = LOST_AFTER_GRACE_PERIODS * session.settings.batches.reconcile_grace_seconds
    if batch.counters.not_found_count < LOST_AFTER_NOT_FOUND or now - since < enough:
        times = batch.counters.not_found_count
        raise NotReady(
            f"{session.describe(batch)}: the provider does not know it at the moment ({times} times).",
            do="The next tick polls it again; nothing is given up yet.",
        )
    raw = salvage(session, remote, batch, None)
    _settle_as_lost(session, batch, raw, f"the provider has lost the job {batch.job.remote_id}")
    return True


def _late_results_until(session: Session, raw: bytes) -> float | None:
    """Return until when ticks look for late results (seconds since 1970 UTC), None for a batch that has results."""
    return None if raw.strip() else session.now() + settle.LATE_RESULTS_SECONDS


def _download_and_settle(
    session: Session, provider: Provider, remote: Prefetch, batch: Batch, job: Job, waited: float
) -> bool:
    """Download and settle what a job offers. It was first seen as ended `waited` seconds ago."""
    if (
        job.state is JobState.FAILED
        and not (job.output or job.inline_rows)
        and _release_refused_lines(session, batch, job)
    ):
        return True
    keys = session.keys(batch)
    try:
        _require_results(session, batch, job, waited)
        raw = download_results(session, remote, batch, job, keys)
    except (NotReady, *REFUSALS) as error:
        _raise_until_given_up(session, batch, str(error), waited)
        why = f"no results in {waited / 3600:.0f} h ({str(error).rstrip('.')})"
        _settle_as_lost(session, batch, salvage(session, remote, batch, job), why)
        return True
    remote.start_after(batch.job.remote_id or "")
    failpoint("results_read")
    settle_ended_job(session, provider, batch, job, raw, keys)
    return True


def _release_refused_lines(session: Session, batch: Batch, job: Job) -> bool:
    """Release a batch that the provider refused because of single lines. Returns whether it named any."""
    refused = settle.release_except_refused(session, batch, job.line_errors, job.error)
    if refused:
        message = f"{session.describe(batch)}: {refused} of its requests were refused ({job.error})."
        session.trouble(Temporary(message, do="See data/rejected.jsonl; the others are submitted again."))
    return bool(refused)


def _require_results(session: Session, batch: Batch, job: Job, waited: float) -> None:
    """Raise NotReady for an ended job that names no results, if they may still come.

    A successful job always has results. A cancellation that the user requested is not final: some such jobs deliver
    everything later, so that they get one grace period. A job that the provider cancelled is given up at the second
    poll; so is an expired one: at Gemini it has no results, elsewhere it may have some.
    """
    if job.output or job.errors or job.inline_rows:
        return
    if job.state is JobState.CANCELLED and not batch.requests:
        return  # no conversation needs them; if they come later, their cost is recorded
    asked = batch.job.error == CANCELLATION_REQUESTED
    patience = session.settings.batches.reconcile_grace_seconds if asked else 0
    early = not waited or waited < patience
    if job.state is JobState.SUCCEEDED or (job.state in (JobState.CANCELLED, JobState.EXPIRED) and early):
        raise NotReady(f"the job has ended ({job.raw_state}), but names no results.")


def _raise_until_given_up(session: Session, batch: Batch, why: str, waited: float) -> None:
    """Raise NotReady for an ended job whose results are not available; NeedsPerson after some hours.

    Returns once they are given up (GIVE_UP_SECONDS).
    """
    message = f"{session.describe(batch)}: {why}"
    if waited <= NEEDS_PERSON_AFTER_SECONDS:
        raise NotReady(message, do="The next tick tries again.")
    now = session.now()
    since = min(batch.counters.overdue_since or now, now)
    session.store.update(batch, overdue_since=since)
    left = GIVE_UP_SECONDS - (now - since)
    if left > 0:
        raise NeedsPerson(
            f"{message} It ended {waited / 3600:.0f} h ago.",
            do=f"Look at {batch.job.remote_id} in the provider's console. Ticks go on trying; in {left / 3600:.0f} h"
            " its requests are sent again.",
        )


def _settle_as_lost(session: Session, batch: Batch, raw: bytes, why: str) -> None:
    """Settle a batch by the results that exist. The other requests get the reason LOST."""
    keys, flags = session.keys(batch), session.settings.stage(batch.step.stage).retry_flags
    replies = settle.parse_results(session, find_provider(batch.provider), batch, raw, keys, flags)
    until = _late_results_until(session, raw)
    ending = Ending(Reason.LOST, why, state=BatchState.LOST, error=why, retry_flags=flags, awaited_until=until)
    settle.settle(session, batch, keys, replies, ending)
    session.trouble(
        BatchLost(
            f"{session.describe(batch)}: {why}; it is given up, and what it cost is unknown.",
            do="Conversations without a result are ready again; the next tick submits them.",
        )
    )


def settle_ended_job(
    session: Session, provider: Provider, batch: Batch, job: Job, raw: bytes, keys: Mapping[str, int]
) -> None:
    """Settle every request (`keys`) of an ended batch by its raw result lines. Makes no network call."""
    flags = session.settings.stage(batch.step.stage).retry_flags
    replies = settle.parse_results(session, provider, batch, raw, keys, flags)
    # A cancellation is not final: some cancelled jobs have delivered everything hours later. An expired job may also
    # name its results later.
    until = _late_results_until(session, raw) if job.state in (JobState.CANCELLED, JobState.EXPIRED) else None
    ending = _ending(session, batch, job, bool(replies))._replace(retry_flags=flags, awaited_until=until)
    settle.settle(session, batch, keys, replies, ending)


_DEFAULT_REASONS = {
    JobState.FAILED: (Reason.PROVIDER_ERROR, "the job failed: {error}"),
    JobState.EXPIRED: (Reason.MISSING, "the job expired"),
    JobState.CANCELLED: (Reason.CANCELLED, "the job was cancelled"),
}


def _ending(session: Session, batch: Batch, job: Job, has_rows: bool) -> Ending:  # noqa: FBT001 - a fact of the job
    """Return the ending of a batch: what the end of its job means for requests without a row.

    If the job failed as a whole because of its model or a quota, the model is halted or paused.
    """
    if job.state is JobState.FAILED and not has_rows:
        scope = model_scope(batch.provider, batch.model)
        if is_model_error(job.error):
            session.halt_model(batch.provider, batch.model, job.error)
            why = f"{batch.provider} does not serve {batch.model}: {job.error}"
            return Ending(Reason.NOT_SENT, why, error=job.error)
        if is_quota_error(job.error):
            why = f"{batch.provider}: the job failed for a quota: {job.error}"
            session.store.holds.pause(scope, why, session.now())
            if is_permanent_quota(job.error):
                session.trouble(QuotaClosed(why, do=PLAN_ADVICE))
            return Ending(Reason.NOT_SENT, job.error, error=job.error)
    if job.state is JobState.FAILED or job.error:
        log.warning("%s: %s: %s", session.describe(batch), job.raw_state, job.error or "no reason given")
    reason_absent, why = _DEFAULT_REASONS.get(job.state, (Reason.MISSING, "no line came back"))
    return Ending(reason_absent, why.format(error=job.error or "no reason given"), error=job.error or None)
