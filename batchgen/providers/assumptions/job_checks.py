"""Look at what was seen of uploads, jobs and listings. The protocols have these checks in common. Pure."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

from batchgen.core.wording import pluralize
from batchgen.providers.assumptions.assumption import Finding, Seen, broken, held, unseen
from batchgen.providers.assumptions.evidence import JobNotes
from batchgen.providers.base import JobState

HOUR = 3600.0
NAMELESS_SECONDS = 600.0  # after its end a job may need so long until it names its results
MOST_FAILURES = 3  # listings that fail one after the other, before this is no accident
ARROW = "→"


def seconds_text(seconds: float) -> str:
    """Return a time as people say it: 3 s, 5 min, 2 h."""
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.0f} h"


def model_answers(seen: Seen) -> Finding:
    """Whether a model that writes a stage answered a request for one token."""
    asked = {model: seen.notes.asked[model] for model in seen.models if model in seen.notes.asked}
    for model, outcome in asked.items():
        if outcome.passing:
            return unseen(f"{model}: {outcome}")
        if outcome.error:
            return broken(f"{model}: {outcome}")
    return held(", ".join(asked)) if asked else unseen()


def upload_is_kept(seen: Seen) -> Finding:
    """Whether uploads live at least as long as the provider's row says, or as a batch may take."""
    lifetime = seen.provider.upload_lifetime_seconds
    needed = lifetime if isfinite(lifetime) else 24 * HOUR
    told = [file.kept_seconds for file in seen.notes.uploads if file.kept_seconds is not None]
    if told and min(told) < needed:
        return broken(f"kept for {seconds_text(min(told))} only")
    if told:
        return held(f"the answer says: kept for {seconds_text(min(told))}")
    outcome, age = seen.notes.probes.kept_file, seen.notes.probes.kept_seconds
    if outcome is None:
        return unseen()
    if outcome.error:
        return broken(f"gone {seconds_text(age)} after its upload ({outcome})")
    return held(f"no time is named; still there {seconds_text(age)} after its upload")


def create_is_answered(seen: Seen) -> Finding:
    """Whether every create call was answered with a job."""
    if seen.notes.unclear_creates:
        return broken(f"no clear answer, {pluralize(len(seen.notes.unclear_creates), 'time')}")
    times = [job.create_seconds for job in seen.jobs if job.create_seconds is not None]
    members = next((", ".join(job.members) for job in seen.jobs if job.members), "")
    return held(f"after {max(times):.1f} s at the latest; members: {members}") if times else unseen()


def job_is_listed(seen: Seen) -> Finding:
    """Whether jobs appear in a listing before the grace period is over."""
    jobs = [job for job in seen.jobs if job.create_seconds is not None]  # of the others the beginning is not known
    late = [job.missing_at for job in jobs if (job.missing_at or 0) >= seen.grace_seconds]
    if late:
        return broken(f"not in a listing {seconds_text(max(filter(None, late)))} after the create call")
    # A job that was found late, although no listing before showed its absence, proves nothing.
    times = [job.listed_at for job in jobs if job.listed_at is not None and job.listed_at <= seen.grace_seconds]
    if not times:
        return unseen("no listing was read soon enough" if any(job.listed_at for job in jobs) else "")
    missed = [job.missing_at for job in jobs if job.missing_at is not None]
    before = f"; not yet after {seconds_text(max(missed))}" if missed else ""
    return held(f"{pluralize(len(times), 'job')}, after {seconds_text(max(times))} at the latest{before}")


def label_is_listed(*labels: str) -> Callable[[Seen], Finding]:
    """Return the check whether a listing shows one of `labels` of each job."""

    def look(seen: Seen) -> Finding:
        listed = [job for job in seen.jobs if job.listed_at is not None and (job.name or job.file)]
        if not listed:
            return unseen()
        shown = {label for job in listed for label in job.labels}
        words = " and ".join({"name": "its batch's name", "file": "its input file"}[one] for one in sorted(shown))
        if all(set(labels) & set(job.labels) for job in listed):
            return held(f"of each job {words}")
        return broken(f"{words or 'neither name nor input file'}; a lost job cannot be found again")

    return look


def listing_is_whole(seen: Seen) -> Finding:
    """Whether each listing could be read and had every job that was listed before."""
    listing = seen.notes.listing
    if listing is None or (listing.passing and seen.notes.listing_failures < MOST_FAILURES):
        return unseen(str(listing) if listing else "")
    if listing.error:
        return broken(str(listing))
    gone = [job.vanished_at for job in seen.jobs if job.vanished_at is not None]
    if gone:
        return broken(f"a job was missing {seconds_text(gone[0])} after its create call, and was listed before")
    form = "an array" if seen.notes.listing_members == ["[]"] else f"members: {', '.join(seen.notes.listing_members)}"
    return held(f"{pluralize(seen.notes.listing_pages, 'page')}; {form}")


def listing_has_pages(seen: Seen) -> Finding:
    """Whether a listing in small pages brought every job."""
    paged = seen.notes.probes.paged
    if paged is None:
        return unseen()
    if paged.problem or paged.found < paged.expected:
        return broken(paged.problem or f"{paged.found} of {paged.expected} jobs, in pages of {paged.size}")
    if paged.pages == 1 and paged.expected > paged.size:
        return held(f"{pluralize(paged.expected, 'job')} on one page, although {paged.size} were asked for")
    return held(f"{pluralize(paged.expected, 'job')} in {pluralize(paged.pages, 'page')} of {paged.size}")


def states_are_known(seen: Seen) -> Finding:
    """Whether every word for a state is in the table. What was seen is one job's words with their times."""
    unknown = sorted({word for job in seen.jobs for word in job.unknown_states})
    if unknown:
        return broken(f"unknown: {', '.join(unknown)}")
    ended = [job for job in seen.run_jobs if job.ended]
    if not ended:
        return unseen()
    return held(max((states_text(job) for job in ended), key=len))


def states_text(job: JobNotes) -> str:
    """Return the states of a job with the seconds after its create call: pending 0 s -> succeeded 30 s."""
    return f" {ARROW} ".join(f"{_bare(word)} {seconds_text(at)}" for at, word in job.states)


def _bare(word: str) -> str:
    return word.removeprefix("JOB_STATE_").removeprefix("BATCH_STATE_").lower()


def states_go_forward(seen: Seen) -> Finding:
    """Whether no state came back after another one. An unknown word has no place in the order."""
    for job in (job for job in seen.jobs if not job.unknown_states):
        words = [word for _, word in job.states]
        if back := next((word for at, word in enumerate(words) if word in words[:at]), ""):
            return broken(f"{_bare(back)} came back")
    ended = [job for job in seen.jobs if job.ended]
    return held(f"{pluralize(len(ended), 'job')}, none went back") if ended else unseen()


def results_are_named(seen: Seen) -> Finding:
    """Whether jobs that succeeded name their results, and where."""
    done = [job for job in seen.run_jobs if job.ended == JobState.SUCCEEDED]
    if not done:
        return unseen()
    nameless = [job.nameless_seconds for job in done if not job.results]
    if nameless:
        words = f"a job names no results {seconds_text(max(nameless))} after its end"
        return broken(words) if max(nameless) >= NAMELESS_SECONDS else unseen(words)
    places = sorted({place for job in done for place in job.results})
    form = "inline, in the job itself" if all("inlined" in place for place in places) else "as files"
    late = max(job.nameless_seconds for job in done)
    return held(f"{form}: {', '.join(places)}{f'; after {seconds_text(late)}' if late else ''}")


def rows_are_counted(seen: Seen) -> Finding:
    """Whether a job reports as many rows as its files have."""
    told = [(job.rows_told, _row_count(seen, remote_id)) for remote_id, job in seen.notes.jobs.items()]
    known = [(count, rows) for count, rows in told if count is not None and rows is not None]
    wrong = [pair for pair in known if pair[0] != pair[1]]
    if wrong:
        return broken(f"{wrong[0][0]} rows reported, {wrong[0][1]} came")
    return held(f"{sum(count for count, _ in known)} reported, as many came") if known else unseen()


def _row_count(seen: Seen, remote_id: str) -> int | None:
    return next((len(batch.rows) for batch in seen.rows if batch.remote_id == remote_id), None)


def error_file(seen: Seen) -> Finding:
    """Where rows that failed are: any way is read, so that only what was seen counts."""
    done = [job for job in seen.run_jobs if job.ended == JobState.SUCCEEDED]
    if not done:
        return unseen()
    named = sum("error_file_id" in job.results for job in done)
    rows = sum(batch.error_rows for batch in seen.rows)
    return held(f"named by {named} of {pluralize(len(done), 'job')}, with {pluralize(rows, 'row')}")


def expired_job(seen: Seen) -> Finding:
    """What an expired job brings. Any way is read."""
    ended = [job for job in seen.jobs if job.ended == JobState.EXPIRED]
    return held(", ".join(ended[0].results) or "no results") if ended else unseen("no job expired")


def quota_refusal(seen: Seen) -> Finding:
    """What a refusal for a quota says."""
    return held(f"HTTP 429: {seen.notes.quotas[0]}") if seen.notes.quotas else unseen("no quota was reached")
