"""Run jobs: each is pending, then running, gets its rows answered, and ends.

No timer runs: `advance_jobs` updates all jobs to the clock of the world whenever a request arrives. Slow backends are
called by `workers`; a job ends when it is due and they have answered its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import orjson

from batchgen.emulator.backends.builtin import BackendBusy, BackendError
from batchgen.emulator.protocols import gemini_rows, together_rows
from batchgen.emulator.protocols.row_format import Row, RowFormat
from batchgen.emulator.result_files import write_result_files
from batchgen.emulator.state import PENDING_SHARE, Job, StoredFile, World
from batchgen.emulator.storage import Blob

FORMATS: dict[str, RowFormat] = {"gemini": gemini_rows.FORMAT, "together": together_rows.FORMAT}
SUCCESS = {"gemini": "BATCH_STATE_SUCCEEDED", "together": "COMPLETED"}
FAILURE = {"gemini": "BATCH_STATE_FAILED", "together": "FAILED"}
CANCELLED = {"gemini": "BATCH_STATE_CANCELLED", "together": "CANCELLED"}
EXPIRED = {"gemini": "BATCH_STATE_EXPIRED", "together": "EXPIRED"}
# A state that ends so has all rows, unless a fault says otherwise.
SUCCESS_ENDINGS = frozenset({"SUCCEEDED", "COMPLETED"})

RowGetter = Callable[[int], Row]

GEMINI_LIMIT_SECONDS = 48 * 3600.0  # a job that is unfinished for longer becomes EXPIRED
GEMINI_RESULT_SECONDS = 42 * 86400.0  # results are kept for six weeks


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
    due = job.created + world.job_seconds
    if job.phase == "pending" and now >= job.created + world.job_seconds * PENDING_SHARE:
        job.error = job.error or FORMATS[job.provider].job_problem(world.progress[job.id].lines, world.serves) or None
        if job.error:
            _end_job(world, job, FAILURE[job.provider], now, 0)
            return
        job.phase = "running"
        world.wake.notify_all()
    limit = job.created + GEMINI_LIMIT_SECONDS
    if job.provider == "gemini" and now >= limit and (due > limit or not _has_enough_answers(world, job)):
        _end_job(world, job, EXPIRED["gemini"], limit, 0)
    elif job.phase == "running" and now >= due and _has_enough_answers(world, job):
        _end_job(world, job, SUCCESS[job.provider], due if world.backend.instant else now, len(job.keys))


def _advance_cancelling(world: World, job: Job, now: float) -> None:
    if job.plan.cancel == "late":
        at = job.cancelled_at + job.plan.late_seconds
        if now >= at and _has_enough_answers(world, job):
            _end_job(world, job, SUCCESS[job.provider], at, len(job.keys))
    elif now >= job.cancelled_at + world.cancelling_seconds:
        _end_job(world, job, CANCELLED[job.provider], job.cancelled_at + world.cancelling_seconds, job.served)


def rows_to_answer(job: Job) -> int:
    """Return how many rows are answered before the job ends."""
    share = job.plan.share
    if share is None:
        share = 1.0 if not job.plan.end or job.plan.end.endswith(tuple(SUCCESS_ENDINGS)) else 0.0
    return round(len(job.keys) * share)


def _has_enough_answers(world: World, job: Job) -> bool:
    return world.backend.instant or len(world.progress[job.id].answers) >= rows_to_answer(job)


def cancel_job(world: World, job: Job) -> None:
    """Do what the provider does for a cancel request, or what the job's plan says."""
    now = world.now()
    running = job.phase == "running"
    served = _served_so_far(world, job, now) if running or job.plan.share is not None else 0
    how = job.plan.cancel
    if how == "ignored" or (job.phase != "pending" and not running):
        return
    job.cancelled_at = now
    if how == "late" or (job.provider == "together" and how in {"", "cancelled"}):
        job.phase = "cancelling"
        job.served = served
        world.save(job)
    elif how == "succeeded" or (not how and running):
        _end_job(world, job, SUCCESS[job.provider], now, served)
    else:
        _end_job(world, job, CANCELLED[job.provider], now, served if job.plan.share is not None else 0)


def _served_so_far(world: World, job: Job, now: float) -> int:
    if job.plan.share is not None:
        return rows_to_answer(job)
    if not world.backend.instant:
        return len(world.progress[job.id].answers)
    start = job.created + world.job_seconds * PENDING_SHARE
    running = max(world.job_seconds * (1 - PENDING_SHARE), 1e-9)
    return int(len(job.keys) * min(1.0, max(0.0, (now - start) / running)))


def _end_job(world: World, job: Job, state: str, at: float, served: int) -> None:
    """End a job in `state` (unless its plan says otherwise) with `served` of its rows answered."""
    natural = not job.cancelled_at or job.plan.cancel == "late"
    job.state = job.plan.end if job.plan.end and natural else state
    if natural and not job.error:
        served = rows_to_answer(job) if state != EXPIRED[job.provider] or job.plan.share is not None else served
    indexes, row_of = _rows(world, job, served)
    if job.cancelled_at and state == SUCCESS[job.provider] and job.plan.cancel != "late":
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
    """Add the rows that a cancel left unserved, if the provider writes a line for them."""
    cancelled = FORMATS[job.provider].cancelled
    served = set(indexes)
    rows = {index: cancelled(key) for index, key in enumerate(job.keys) if index not in served}
    others = {index: row for index, row in rows.items() if row is not None}
    return [*indexes, *others], lambda index: row_of(index) if index in served else others[index]


def _write_results(world: World, job: Job, indexes: list[int], row_of: RowGetter, at: float) -> None:
    output, errors = world.store.new_blob(), world.store.new_blob()
    try:
        job.served, job.failed = write_result_files(
            FORMATS[job.provider], job, (indexes, row_of), world.faults, (output, errors)
        )
    except BaseException:  # for example a full disk: the next update of the job tries again
        output.drop()
        errors.drop()
        raise
    # Gemini always names a result file after a success; Together names a file only if it has a row.
    always = job.provider == "gemini" and job.state.endswith(tuple(SUCCESS_ENDINGS))
    job.output = _result_file(world, job, "output.jsonl", output, at, always=always)
    job.errors = _result_file(world, job, "errors.jsonl", errors, at)


def _result_file(world: World, job: Job, name: str, blob: Blob, at: float, *, always: bool = False) -> str:
    if not blob.size and not always:
        blob.drop()
        return ""
    gemini = job.provider == "gemini"
    written = blob.finish()
    file = StoredFile(
        id=f"batch-{job.id}" if gemini else f"file-{world.new_id(24)}",
        provider=job.provider,
        owner=job.owner,
        name=name,
        mime_type="application/jsonl",
        purpose="batch-api",
        size=written.size,
        sha256=written.sha256,
        created=at,
        expires=at + GEMINI_RESULT_SECONDS if gemini else 0.0,
    )
    return world.register_file(file).id


def answer_row(job: Job, index: int, line: bytes, world: World) -> Row:
    """Return the result line of one request line. Raises BackendBusy if it can be sent again. Needs no lock."""
    form = FORMATS[job.provider]
    body = orjson.loads(line)[form.body_field]
    key = job.keys[index]
    refused = form.refusal(body, world.serves)
    if refused:
        return form.failed_row(key, refused)
    prompt = form.prompt(body)
    model = prompt.model.removeprefix("models/") or job.model
    try:
        return form.row(key, model, world.backend.answer(replace(prompt, model=model)))
    except BackendBusy:
        raise
    except BackendError as error:
        return form.failed_row(key, str(error))


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
