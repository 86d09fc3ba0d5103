"""Run jobs: each is pending, then running, gets its rows answered, and ends.

No timer runs: `advance_jobs` updates all jobs to the clock of the world whenever a request arrives. Slow backends are
called by `workers`; a job ends when it is due and they have answered its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import orjson

from batchgen.emulator.backends.builtin import BackendBusy, BackendError
from batchgen.emulator.backends.counts import INVALID
from batchgen.emulator.protocols.families import FAMILIES
from batchgen.emulator.protocols.row_format import Row
from batchgen.emulator.result_files import write_result_files
from batchgen.emulator.state import PENDING_SHARE, Job, StoredFile, World
from batchgen.emulator.storage import Blob

SUCCESS_ENDINGS = ("SUCCEEDED", "COMPLETED")  # of a state that has all rows unless a fault says otherwise
DELIVERING = frozenset({"late", "finishes"})  # cancels after which all rows are answered all the same

RowGetter = Callable[[int], Row]


def advance_jobs(world: World) -> None:
    """Update every job to the clock of the world. The caller holds the lock of the world."""
    for job in world.active_jobs():
        advance_job(world, job)


def advance_job(world: World, job: Job) -> None:
    """Update one job to the clock of the world. The caller holds the lock of the world."""
    now = world.now()
    if now >= job.created:
        _advance(world, job, now)


def _advance(world: World, job: Job, now: float) -> None:
    if job.phase == "cancelling":
        _advance_cancelling(world, job, now)
        return
    family = FAMILIES[job.provider]
    due = job.created + world.job_seconds
    if job.phase == "pending" and now >= job.created + world.job_seconds * PENDING_SHARE:
        found = family.rows.job_problem(world.progress[job.id].lines, world.serves, job.endpoint)
        job.error = job.error or found or None
        if job.error:
            _end_job(world, job, family.failure, now, 0)
            return
        job.phase = "running"
        world.wake.notify_all()
    limit = job.created + family.limit_seconds
    if now >= limit and (due > limit or not has_enough_answers(world, job)):
        _end_job(world, job, family.expired, limit, served_so_far(world, job, limit) if family.expired_rows else 0)
    elif job.phase == "running" and now >= due and has_enough_answers(world, job):
        _end_job(world, job, family.success, due if world.backend.instant else now, len(job.keys))


def _advance_cancelling(world: World, job: Job, now: float) -> None:
    family = FAMILIES[job.provider]
    if job.cancel in DELIVERING:
        due = job.created + world.job_seconds
        at = job.cancelled_at + job.plan.late_seconds if job.cancel == "late" else max(job.cancelled_at, due)
        if now >= at and has_enough_answers(world, job):
            _end_job(world, job, family.success, at, len(job.keys))
    elif now >= job.cancelled_at + world.cancelling_seconds:
        _end_job(world, job, family.cancelled, job.cancelled_at + world.cancelling_seconds, job.served)


def is_success(state: str) -> bool:
    """Return whether a job in this state has its rows: the word of any provider."""
    return state.upper().endswith(SUCCESS_ENDINGS)


def rows_to_answer(job: Job) -> int:
    """Return how many rows are answered before the job ends."""
    share = job.plan.share
    if share is None:
        share = 1.0 if not job.plan.end or is_success(job.plan.end) else 0.0
    return round(len(job.keys) * share)


def has_enough_answers(world: World, job: Job) -> bool:
    return world.backend.instant or len(world.progress[job.id].answers) >= rows_to_answer(job)


def wants_answers(job: Job) -> bool:
    """Return whether rows of the job are to be answered now."""
    return job.phase == "running" or (job.phase == "cancelling" and job.cancel in DELIVERING)


def cancel_job(world: World, job: Job) -> None:
    """Do what the provider does for a cancel request, or what the job's plan says."""
    now = world.now()
    family = FAMILIES[job.provider]
    running = job.phase == "running"
    how = job.plan.cancel or (family.cancel_running if running else "cancelled")
    if how == "ignored" or (job.phase != "pending" and not running):
        return
    served = served_so_far(world, job, now) if running or job.plan.share is not None else 0
    job.cancelled_at, job.cancel = now, how
    if how in DELIVERING or (how == "cancelled" and family.cancelling):
        job.phase = "cancelling"
        job.served = served
        world.save(job)
    elif how == "succeeded":
        _end_job(world, job, family.success, now, served)
    else:
        _end_job(world, job, family.cancelled, now, served if job.plan.share is not None else 0)


def served_so_far(world: World, job: Job, now: float) -> int:
    """Return how many rows of a job that has not ended are answered by now."""
    if job.plan.share is not None:
        return rows_to_answer(job)
    if not world.backend.instant:
        return len(world.progress[job.id].answers)
    start = job.created + world.job_seconds * PENDING_SHARE
    running = max(world.job_seconds * (1 - PENDING_SHARE), 1e-9)
    return int(len(job.keys) * min(1.0, max(0.0, (now - start) / running)))


def _end_job(world: World, job: Job, state: str, at: float, served: int) -> None:
    """End a job in `state` (unless its plan says otherwise) with `served` of its rows answered."""
    family = FAMILIES[job.provider]
    natural = not job.cancelled_at or job.cancel in DELIVERING
    job.state = job.plan.end if job.plan.end and natural else state
    if natural and not job.error:
        served = rows_to_answer(job) if state != family.expired or job.plan.share is not None else served
    indexes, row_of = _rows(world, job, served)
    if not natural and state == family.success:
        indexes, row_of = _with_unserved(job, indexes, row_of)
    if job.plan.error is not None:
        job.error = job.plan.error
    _write_results(world, job, indexes, row_of, at)
    job.phase, job.ended_at = "ended", at
    del world.progress[job.id]
    world.save(job)
    world.store.drop_answers(job.id)
    world.drop_unused_blob(job.sha256)


def _rows(world: World, job: Job, served: int) -> tuple[list[int], RowGetter]:
    """Return the indexes of the answered rows and a function that reads a row by its index."""
    progress = world.progress[job.id]
    if not world.backend.instant:
        return progress.answers.indexes()[:served], progress.answers.row
    rows = {index: answer_row(job, index, progress.lines[index], world) for index in range(served)}
    return list(rows), rows.__getitem__


def _with_unserved(job: Job, indexes: list[int], row_of: RowGetter) -> tuple[list[int], RowGetter]:
    """Return the answered rows and those that a cancel left unserved, if the provider has a line for them."""
    cancelled = FAMILIES[job.provider].rows.cancelled
    served = set(indexes)
    rows = {index: cancelled(key) for index, key in enumerate(job.keys) if index not in served}
    others = {index: row for index, row in rows.items() if row is not None}
    return [*indexes, *others], lambda index: row_of(index) if index in served else others[index]


def _write_results(world: World, job: Job, indexes: list[int], row_of: RowGetter, at: float) -> None:
    family = FAMILIES[job.provider]
    output, errors = world.store.new_blob(), world.store.new_blob()
    try:
        job.served, job.failed = write_result_files(family.rows, job, (indexes, row_of), world.faults, (output, errors))
    except BaseException:  # a full disk: the next look tries again
        output.drop()
        errors.drop()
        raise
    success = is_success(job.state)
    job.output = _result_file(world, job, "output", output, at, always=success and family.empty_output)
    job.errors = _result_file(world, job, "error", errors, at, always=success and family.empty_errors)


def _result_file(world: World, job: Job, kind: str, blob: Blob, at: float, *, always: bool) -> str:
    if not blob.size and not always:
        blob.drop()
        return ""
    family = FAMILIES[job.provider]
    written = blob.finish()
    kept = job.result_seconds or family.result_seconds
    file = StoredFile(
        id=family.result_ids.format(job=job.id, kind=kind, new=world.new_id(24)),
        provider=job.provider,
        owner=job.owner,
        name=f"{kind}.jsonl",
        mime_type="application/jsonl",
        purpose=family.result_purpose,
        size=written.size,
        sha256=written.sha256,
        created=at,
        expires=at + kept if kept else 0.0,
    )
    return world.register_file(file).id


def answer_row(job: Job, index: int, line: bytes, world: World) -> Row:
    """Return the result line of one request line. Raises BackendBusy if it may be sent again. Needs no lock."""
    form = FAMILIES[job.provider].rows
    body = orjson.loads(line)[form.body_field]
    key = job.keys[index]
    refused = form.refusal(body, world.serves)
    if refused:
        world.counts.add(INVALID)
        return form.failed_row(key, refused, 400)
    prompt = form.prompt(body)
    model = prompt.model.removeprefix("models/") or job.model
    try:
        return form.row(key, model, world.answer(replace(prompt, model=model)))
    except BackendBusy:
        raise
    except BackendError as error:
        return form.failed_row(key, str(error), 500)


def poll_scripted_state(world: World, job: Job) -> tuple[bool, str | None]:
    """Return (whether scripted states are left, the raw state to show now). Each call counts as a poll."""
    now = world.now()
    while job.shown < len(job.plan.states):
        step = job.plan.states[job.shown]
        if step is None or isinstance(step, str):
            job.shown += 1
            job.shown_since = now
            return True, step
        state, seconds = step
        since = job.shown_since or job.created
        if now < since + seconds:
            return True, state
        job.shown += 1
        job.shown_since = since + seconds
    return False, None
