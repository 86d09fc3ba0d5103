"""Threads that send rows to a slow backend, and send refused rows again."""

from __future__ import annotations

import heapq
import threading
import time
from typing import NamedTuple

from batchgen.emulator.backends.builtin import BackendBusy
from batchgen.emulator.backends.counts import FAILED
from batchgen.emulator.backends.throttle import Throttle
from batchgen.emulator.engine import advance_job, advance_jobs, answer_row, rows_to_answer, wants_answers
from batchgen.emulator.protocols.families import FAMILIES
from batchgen.emulator.protocols.row_format import Row
from batchgen.emulator.state import Job, Progress, World

IDLE_SECONDS = 0.5  # how often an idle worker checks for rows that are due
MAX_TRIES = 10  # of a row while the server is busy; then the row fails


class Task(NamedTuple):
    """One row for a worker; `tries` counts its refusals."""

    job: Job
    row: int
    line: bytes
    tries: int = 0


def next_task(world: World) -> Task | None:
    """Return the next row to send, of the oldest job that has one: a refused row that is due, or else a new row.

    The caller holds the lock of the world.
    """
    advance_jobs(world)
    now = world.now()
    for job in world.active_jobs():
        if not wants_answers(job):
            continue
        progress = world.progress[job.id]
        # Read the line before the row counts as taken: if the read fails, the row must stay here.
        if progress.again and progress.again[0][0] <= now:
            _, index, tries = progress.again[0]
            task = Task(job, index, progress.lines[index], tries)
            heapq.heappop(progress.again)
            return task
        while (index := progress.next_index) < rows_to_answer(job):
            fresh = None if index in progress.answers else Task(job, index, progress.lines[index])
            progress.next_index += 1
            if fresh is not None:
                return fresh
    return None


class Workers:
    """The threads that call a slow backend: `backend.parallel` of them. A throttle limits how many send at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stopping = False
        count = 0 if world.backend.instant else world.backend.parallel
        self.throttle = Throttle(max(count, 1))
        self._threads = [threading.Thread(target=self._work, name=f"row-{i}", daemon=True) for i in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_seconds: float) -> None:
        """Finish the rows that are being answered, for `patience_seconds` at most, and start no new ones."""
        with self._world.wake:
            self._stopping = True
            self._world.wake.notify_all()
        end = time.monotonic() + patience_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(end - time.monotonic(), 0.0))

    def _work(self) -> None:
        while not self._stopping:
            task = self._wait_for_task()
            if task is not None:
                self._answer_task(task)

    def _wait_for_task(self) -> Task | None:
        world = self._world
        with world.wake:
            free = self.throttle.asked < world.backend.parallel and self.throttle.may_ask(world.now())
            task = self._next() if free and not self._stopping else None
            if task is not None:
                self.throttle.asked += 1
            elif not self._stopping:
                world.wake.wait(IDLE_SECONDS)
            return task

    def _next(self) -> Task | None:
        try:
            return next_task(self._world)
        except OSError as error:  # next_task reads request lines, and writes the result files of jobs that end
            self._world.log(f"a file could not be read or written, trying again: {error}")
            return None

    def _answer_task(self, task: Task) -> None:
        world = self._world
        form = FAMILIES[task.job.provider].rows
        busy: BackendBusy | None = None
        try:
            row = answer_row(task.job, task.row, task.line, world)
        except BackendBusy as error:
            busy, row = error, form.failed_row(task.job.keys[task.row], str(error), 500)
        except Exception as error:  # noqa: BLE001 - a dead worker would leave its row unanswered for ever
            if self._stopping:
                return  # the backend is closed already: the row is sent again after the restart
            world.crashes.append(error)
            row = form.failed_row(task.job.keys[task.row], repr(error), 500)
        with world.lock:
            self.throttle.asked -= 1
            if busy is None:
                self._record_success()
            elif busy.affects_all_rows:
                self._record_refusal(busy)
            if busy is not None and (self._stopping or task.tries + 1 < MAX_TRIES):
                self._put_back(task, busy.after_seconds)
            else:
                if busy is not None:
                    world.counts.add(FAILED)
                self._save_row(task, row)

    def _save_row(self, task: Task, row: Row) -> None:
        """Save the result of a row, and end its job if it was the last one."""
        world = self._world
        progress: Progress | None = world.progress.get(task.job.id)
        if progress is None:
            return  # the job has already ended
        try:
            progress.answers.add(task.row, row)
        except OSError as error:
            world.log(f"an answer could not be stored, its row is sent again: {error}")
            self._put_back(task, 0.0)
            return
        try:
            advance_job(world, task.job)
        except OSError as error:  # the next update of the job tries again
            world.log(f"a result file could not be written, trying again: {error}")
        world.wake.notify_all()

    def _record_success(self) -> None:
        if self.throttle.is_down:
            self._world.log("the model server answers again")
        self.throttle.record_success()

    def _record_refusal(self, error: BackendBusy) -> None:
        down = self.throttle.is_down
        self.throttle.refused(self._world.now())
        if self.throttle.is_down and not down:
            self._world.log(f"{error}; rows wait until it answers again")

    def _put_back(self, task: Task, wish_seconds: float) -> None:
        world = self._world
        progress = world.progress.get(task.job.id)
        if progress is not None:
            tries = task.tries + 1
            heapq.heappush(progress.again, (self.throttle.retry_at(world.now(), tries, wish_seconds), task.row, tries))
