"""Look at the calls that only a rehearsal makes: dead model, unknown job, second upload, cancel, delete. Pure."""

from __future__ import annotations

from collections.abc import Callable

from batchgen.providers.assumptions.assumption import Finding, Seen, broken, held, unseen
from batchgen.providers.assumptions.evidence import ENDED_BEFORE, CreatedJob, JobNotes, Outcome
from batchgen.providers.assumptions.job_checks import states_text
from batchgen.providers.base import FileGone, JobNotFound, JobState, ModelGone
from batchgen.providers.http_errors import is_model_error

GONE = (JobNotFound.__name__, FileGone.__name__)  # errors by which this program knows that something does not exist


def unknown_job(seen: Seen) -> Finding:
    """Whether a job id that does not exist is answered with a clear 404."""
    outcome = seen.notes.probes.unknown_job
    if outcome is None:
        return unseen()
    return held(_short(outcome)) if outcome.error == JobNotFound.__name__ else broken(_short(outcome))


def dead_model_probe(seen: Seen) -> Finding:
    """Whether a one-token call to a model that is not served is refused, in words that name the model."""
    outcome = seen.notes.probes.dead_model
    if outcome is None:
        return unseen()
    if not outcome.error:
        return broken("a model that does not exist answered")
    return (
        held(_short(outcome)) if outcome.error == ModelGone.__name__ else broken(f"not understood: {_short(outcome)}")
    )


def dead_model_create(seen: Seen) -> Finding:
    """Whether a batch for a model that is not served is refused, or fails, in words that name the model."""
    made = seen.notes.probes.dead_create
    job = seen.notes.jobs.get(made.job)
    if made.state == "refused" and made.outcome:
        known = made.outcome.error == ModelGone.__name__
        words = _short(made.outcome)
        return held(f"refused at once: {words}") if known else broken(f"refused, not understood: {words}")
    if job is None or not job.ended:
        return unseen(_unclear(made))
    if job.ended == JobState.FAILED:
        words = f"accepted, then failed: {job.error or 'no reason given'}"
        return held(words) if is_model_error(job.error) else broken(words)
    return broken(f"accepted, and the job ended {job.ended} ({states_text(job)})")


def second_upload(seen: Seen) -> Finding:
    """Whether the same bytes can be uploaded twice, as after a lost answer."""
    outcome, notes = seen.notes.probes.second_upload, seen.notes.probes
    if outcome is None:
        return unseen()
    if outcome.error:
        return broken(_short(outcome))
    same = notes.second_file == notes.cancel.file
    return held("taken; the same file again" if same else "taken as another file")


def cancel_is_taken(seen: Seen) -> Finding:
    """Whether a new job can be cancelled, and ends."""
    outcome, job = seen.notes.probes.cancel_call, _cancelled_job(seen)
    if outcome is None:
        return unseen(_unclear(seen.notes.probes.cancel))
    if outcome.error == ENDED_BEFORE:
        return unseen("the job had ended before it could be cancelled")
    if outcome.error:
        return broken(_short(outcome))
    return held(states_text(job)) if job and job.ended else unseen("the job has not ended yet")


def cancel_ends_as(*ends: JobState) -> Callable[[Seen], Finding]:
    """Return the check how a cancelled job ends, and whether it brings results, which are billed."""

    def look(seen: Seen) -> Finding:
        job = _cancelled_job(seen)
        call = seen.notes.probes.cancel_call
        if job is None or not job.ended or call is None or call.error:
            return unseen()
        words = f"{job.ended}, {'with' if job.results else 'without'} results"
        return held(words) if job.ended in ends else broken(words)

    return look


def delete_file(seen: Seen) -> Finding:
    """Whether a deleted input file is gone."""
    return _deleted(seen.notes.probes.delete_file, seen.notes.probes.file_after)


def delete_job(seen: Seen) -> Finding:
    """Whether a deleted job is gone."""
    return _deleted(seen.notes.probes.delete_job, seen.notes.probes.job_after)


def _deleted(call: Outcome | None, after: Outcome | None) -> Finding:
    if call is None or after is None:
        return unseen()
    if call.error:
        return broken(_short(call))
    if not after.error:
        return broken("still there after it was deleted")
    return held(f"then {_short(after)}") if after.error in GONE else broken(f"not understood: {_short(after)}")


def result_size(seen: Seen) -> Finding:
    """Whether the service names the size of a result file, and whether it is right."""
    sizes = seen.notes.probes.result_bytes
    if sizes is None:
        return unseen()
    words = f"{sizes[0]:,} bytes named, {sizes[1]:,} downloaded"
    return held(words) if sizes[0] == sizes[1] else broken(words)


def _cancelled_job(seen: Seen) -> JobNotes | None:
    return seen.notes.jobs.get(seen.notes.probes.cancel.job)


def _unclear(made: CreatedJob) -> str:
    if made.state == "unclear":
        return "its create call got no clear answer, and no job was found"
    return f"the job was not created ({made.outcome})" if made.state == "refused" and made.outcome else ""


def _short(outcome: Outcome) -> str:
    """Return an outcome without the words that this program puts before a provider's message."""
    message = outcome.message
    if "HTTP " in message:
        message = message.partition("HTTP ")[2].partition(": ")[2]
    return str(Outcome(outcome.status, outcome.error, message.partition(" (nothing was changed")[0]))
