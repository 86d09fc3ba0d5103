"""Jobs take time: they wait, run, get their rows answered, and end.

Nothing happens by itself: `settle` brings all jobs up to the world's time whenever somebody asks. Backends that take
real time are fed by Workers; what they have answered counts when the job is due.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

import orjson

from batchgen.local import gemini_rows, together_rows
from batchgen.local.backends import BackendError
from batchgen.local.results import render
from batchgen.local.rows import Row, RowFormat
from batchgen.local.world import PENDING_SHARE, Job, Progress, StoredFile, World

FORMATS: dict[str, RowFormat] = {"gemini": gemini_rows.FORMAT, "together": together_rows.FORMAT}
SUCCESS = {"gemini": "BATCH_STATE_SUCCEEDED", "together": "COMPLETED"}
FAILURE = {"gemini": "BATCH_STATE_FAILED", "together": "FAILED"}
CANCELLED = {"gemini": "BATCH_STATE_CANCELLED", "together": "CANCELLED"}
EXPIRED = {"gemini": "BATCH_STATE_EXPIRED", "together": "EXPIRED"}
WITH_RESULTS = frozenset({"SUCCEEDED", "COMPLETED"})  # how a state ends that has all rows unless a fault says otherwise

GEMINI_LIMIT_SECONDS = 48 * 3600.0  # pending or running for longer: EXPIRED
GEMINI_RESULT_SECONDS = 42 * 86400.0  # results are kept for six weeks
IDLE_SECONDS = 0.5  # how often an idle worker looks at the clock


def settle(world: World) -> None:
    """Bring every job up to the world's time. Hold the world's lock."""
    now = world.now()
    for job in world.active_jobs():
        if now >= job.created:
            _settle(world, job, now)


def _settle(world: World, job: Job, now: float) -> None:
    if job.phase == "cancelling":
        _settle_cancelled(world, job, now)
        return
    due = job.created + world.job_seconds
    if job.phase == "pending" and now >= job.created + world.job_seconds * PENDING_SHARE:
        job.error = job.error or FORMATS[job.provider].invalid(world.progress[job.id].lines, world.serves) or None
        if job.error:
            _end(world, job, FAILURE[job.provider], now, 0)
            return
        job.phase = "running"
        world.wake.notify_all()
    limit = job.created + GEMINI_LIMIT_SECONDS
    if job.provider == "gemini" and now >= limit and (due > limit or not _answered(world, job)):
        _end(world, job, EXPIRED["gemini"], limit, 0)
    elif job.phase == "running" and now >= due and _answered(world, job):
        _end(world, job, SUCCESS[job.provider], due if world.backend.instant else now, len(job.keys))


def _settle_cancelled(world: World, job: Job, now: float) -> None:
    if job.plan.cancel == "late":
        at = job.cancelled_at + job.plan.late_seconds
        if now >= at and _answered(world, job):
            _end(world, job, SUCCESS[job.provider], at, len(job.keys))
    elif now >= job.cancelled_at + world.cancelling_seconds:
        _end(world, job, CANCELLED[job.provider], job.cancelled_at + world.cancelling_seconds, job.served)


def wanted(job: Job) -> int:
    """How many rows are to be answered before the job ends by itself."""
    share = job.plan.share
    if share is None:
        share = 1.0 if not job.plan.end or job.plan.end.endswith(tuple(WITH_RESULTS)) else 0.0
    return round(len(job.keys) * share)


def _answered(world: World, job: Job) -> bool:
    return world.backend.instant or len(world.progress[job.id].answers) >= wanted(job)


def cancel(world: World, job: Job) -> None:
    """What the provider does when asked to stop a job, or what its plan says."""
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
        _end(world, job, SUCCESS[job.provider], now, served)
    else:
        _end(world, job, CANCELLED[job.provider], now, served if job.plan.share is not None else 0)


def _served_so_far(world: World, job: Job, now: float) -> int:
    if job.plan.share is not None:
        return wanted(job)
    if not world.backend.instant:
        return len(world.progress[job.id].answers)
    start = job.created + world.job_seconds * PENDING_SHARE
    running = max(world.job_seconds * (1 - PENDING_SHARE), 1e-9)
    return int(len(job.keys) * min(1.0, max(0.0, (now - start) / running)))


def _end(world: World, job: Job, state: str, at: float, served: int) -> None:
    """The job has ended in `state` (its plan may know better) with `served` of its rows answered."""
    natural = not job.cancelled_at or job.plan.cancel == "late"
    job.state = job.plan.end if job.plan.end and natural else state
    if natural and not job.error:
        served = wanted(job) if state != EXPIRED[job.provider] or job.plan.share is not None else served
    rows = _rows(world, job, served)
    if job.cancelled_at and state == SUCCESS[job.provider] and job.plan.cancel != "late":
        rows += _unserved(job, {index for index, _ in rows})
    if job.plan.error is not None:
        job.error = job.plan.error
    _publish(world, job, rows, at)
    job.phase, job.ended_at = "ended", at
    del world.progress[job.id]
    world.save(job)
    world.store.drop_answers(job.id)
    world.release_blob(job.sha256)


def _rows(world: World, job: Job, served: int) -> list[tuple[int, Row]]:
    progress = world.progress[job.id]
    if not world.backend.instant:
        return sorted(progress.answers.items())[:served]
    lines = enumerate(progress.lines[:served])
    return [(index, answer_row(job, index, line, world)) for index, line in lines]


def _unserved(job: Job, served: set[int]) -> list[tuple[int, Row]]:
    cancelled = FORMATS[job.provider].cancelled
    rows = ((index, cancelled(key)) for index, key in enumerate(job.keys) if index not in served)
    return [(index, row) for index, row in rows if row is not None]


def _publish(world: World, job: Job, rows: list[tuple[int, Row]], at: float) -> None:
    results = render(FORMATS[job.provider], job, rows, world.faults)
    job.served, job.failed = results.served, results.failed
    # Gemini always names a file after a success; a Together file exists only with a row in it.
    always = job.provider == "gemini" and job.state.endswith(tuple(WITH_RESULTS))
    if results.output or always:
        job.output = _result_file(world, job, "output.jsonl", results.output, at)
    if results.errors:
        job.errors = _result_file(world, job, "errors.jsonl", results.errors, at)


def _result_file(world: World, job: Job, name: str, data: bytes, at: float) -> str:
    gemini = job.provider == "gemini"
    file = StoredFile(
        id=f"batch-{job.id}" if gemini else f"file-{world.new_id(24)}",
        provider=job.provider,
        owner=job.owner,
        name=name,
        mime_type="application/jsonl",
        purpose="batch-api",
        size=len(data),
        sha256=sha256(data).hexdigest(),
        created=at,
        expires=at + GEMINI_RESULT_SECONDS if gemini else 0.0,
    )
    return world.add_file(file, data).id


def answer_row(job: Job, index: int, line: bytes, world: World) -> Row:
    """The result line of one request line. The lock is not needed."""
    form = FORMATS[job.provider]
    body = orjson.loads(line)[form.body_field]
    key = job.keys[index]
    refused = form.refusal(body, world.serves)
    if refused:
        return form.failure(key, refused)
    prompt = form.prompt(body)
    model = prompt.model.removeprefix("models/") or job.model
    try:
        return form.row(key, model, world.backend.answer(replace(prompt, model=model)))
    except BackendError as error:
        return form.failure(key, str(error))


def shown_state(world: World, job: Job) -> tuple[bool, str | None]:
    """(whether a state script is still on, the raw state it shows); asking is a poll and moves the script."""
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


class Task(NamedTuple):
    """One row for a worker."""

    job: Job
    row: int
    line: bytes


def next_task(world: World) -> Task | None:
    """The next row nobody has taken yet, of the oldest job that has one. Hold the world's lock."""
    settle(world)
    for job in world.active_jobs():
        if job.phase != "running" and not (job.phase == "cancelling" and job.plan.cancel == "late"):
            continue
        progress = world.progress[job.id]
        while progress.taken < wanted(job):
            index = progress.taken
            progress.taken += 1
            if index not in progress.answers:
                return Task(job, index, progress.lines[index])
    return None


def record(world: World, task: Task, row: Row) -> None:
    """Keep what a worker found. Hold the world's lock."""
    progress: Progress | None = world.progress.get(task.job.id)
    if progress is not None:  # else the job has ended meanwhile and the row comes too late
        progress.answers[task.row] = row
        world.store.append_answer(task.job.id, orjson.dumps({"index": task.row, "row": row}))
        settle(world)
        world.wake.notify_all()


class Workers:
    """Threads that keep a slow backend busy with as many rows as it takes at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stopping = False
        count = 0 if world.backend.instant else world.backend.parallel
        self._threads = [threading.Thread(target=self._work, name=f"row-{i}", daemon=True) for i in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_seconds: float = 30.0) -> None:
        """Let rows under way come to their end; no new ones are taken."""
        with self._world.wake:
            self._stopping = True
            self._world.wake.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(patience_seconds)

    def _work(self) -> None:
        world = self._world
        while True:
            with world.wake:
                if self._stopping:
                    return
                task = next_task(world)
                if task is None:
                    world.wake.wait(IDLE_SECONDS)
                    continue
            try:
                row = answer_row(task.job, task.row, task.line, world)
            except Exception as error:  # noqa: BLE001 - a dead worker would leave its row unanswered for ever
                world.crashes.append(error)
                row = FORMATS[task.job.provider].failure(task.job.keys[task.row], repr(error))
            with world.lock:
                record(world, task, row)
