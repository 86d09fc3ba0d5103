"""Send planned batches to their provider.

The steps of the submission protocol, in order: write the request file durably, upload it, write the intent durably,
make exactly one create call, write the job's id durably. The program may be killed between any two of them. This module
or `reconcile` then continues.

Batches are created one by one. The first batch of a model is sent alone. After it was accepted, the files of the next
batches are uploaded in threads: an upload costs nothing and may be repeated. After an error, this command sends no
more batches of the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from batchgen.core.errors import (
    Ambiguous,
    BatchgenError,
    NotReady,
    QuotaReached,
    SetupError,
    StageStopped,
    Temporary,
)
from batchgen.engine.maintenance import delete_input_files
from batchgen.engine.reconcile import adopt, jobs_by_label, matching_jobs
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.submission.admission import hold_reason
from batchgen.ledger.holds import halt_scope, hold_error, model_scope
from batchgen.ledger.rows import Batch, BatchState, Hold
from batchgen.providers import find_provider
from batchgen.providers.base import (
    REFUSALS,
    FileFailed,
    FileGone,
    JobNotFound,
    LinesRefused,
    ModelGone,
    RemoteFile,
)
from batchgen.runtime.concurrency import start_thread
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import hash_file
from batchgen.runtime.logging_setup import log

MAX_UPLOADS_AHEAD = 4  # files that are uploaded while the batches before them are created
MAX_UPLOAD_AHEAD_BYTES = 32_000_000  # of them and the current one together, because all may be in memory
MAX_FAILED_UPLOADS = 3  # of a file that the provider cannot process, before the step is halted


class _FileNotReady(NotReady):
    """An uploaded file may not be used yet. This says nothing about the next file."""


class _ModelHalted(Exception):
    """No more batches of this model can be sent in this command; the trouble is recorded."""


class _Submission:
    """A planned batch that is being sent.

    `upload` is set if its upload was started in advance. `kept` is true if an earlier command uploaded the file and the
    provider should still have it.
    """

    __slots__ = ("batch", "kept", "upload")

    def __init__(self, batch: Batch) -> None:
        self.batch, self.kept = batch, False
        self.upload: Future[RemoteFile] | None = None


class Sender:
    """Sends the batches of one command. `halted` are the models that stopped in it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._granted = set[str]()  # models that accepted a batch in this command
        self.halted: set[str] = set()

    def send(self, batches: Iterable[Batch]) -> int:
        """Send planned batches to their provider, in order. Returns how many of them are in flight now.

        Takes no more from `batches` than may be uploaded in advance. Every trouble is recorded in the session.
        """
        source, waiting, sent = iter(batches), deque[_Submission](), 0
        while outgoing := self._next(source, waiting):
            self._upload_ahead(outgoing, source, waiting)
            with self._recording_errors(outgoing.batch):
                self._deliver(outgoing)
                sent += 1
        return sent

    @contextmanager
    def _recording_errors(self, batch: Batch) -> Iterator[None]:
        """Record an error and, if it concerns the model, stop that model for this command."""
        try:
            yield
        except _ModelHalted:
            self.halted.add(_batch_scope(batch))
        except BatchgenError as error:
            self._session.trouble(error, batch.provider)
            if not isinstance(error, _FileNotReady):
                self.halted.add(_batch_scope(batch))

    # ---- which batch is sent next, and what is uploaded meanwhile

    def _next(self, source: Iterator[Batch], waiting: deque[_Submission]) -> _Submission | None:
        """Return the next batch that may be created. The others wait for a later tick."""
        while waiting or _queue_next(source, waiting):
            outgoing = waiting.popleft()
            if self._may_create(outgoing.batch):
                return outgoing
            self._record_unused_upload(outgoing)
        return None

    def _may_create(self, batch: Batch) -> bool:
        scope = _batch_scope(batch)
        return scope not in self.halted and not hold_reason(self._session, scope, batch.step)

    def _upload_ahead(self, current: _Submission, source: Iterator[Batch], waiting: deque[_Submission]) -> None:
        """Start the uploads of the batches behind `current`, for models that accepted a batch."""
        if _batch_scope(current.batch) not in self._granted:
            return
        while len(waiting) < MAX_UPLOADS_AHEAD and _queue_next(source, waiting):
            pass
        size = current.batch.plan.bytes
        for outgoing in waiting:
            batch = outgoing.batch
            size += batch.plan.bytes
            if size > MAX_UPLOAD_AHEAD_BYTES:
                return
            if _batch_scope(batch) in self._granted and outgoing.upload is None and self._may_create(batch):
                with self._recording_errors(batch):
                    outgoing.upload = start_thread(self._upload_call(outgoing), f"uploading {batch.name}")

    def _record_unused_upload(self, outgoing: _Submission) -> None:
        """Record the upload of a batch that may not be created now, so that a later tick can use it."""
        if outgoing.upload is not None and not outgoing.kept:
            with suppress(BatchgenError, *REFUSALS):
                _record_upload(self._session, outgoing.batch, outgoing.upload.result())

    # ---- the protocol

    def _deliver(self, outgoing: _Submission) -> None:
        """Upload the file, look for a job that an earlier command may have created, or create one.

        Returns when the batch is in flight.
        """
        batch = self._finish_upload(outgoing)
        if batch.job.intent_at is not None and self._adopt_existing_job(batch):
            return
        if outgoing.kept:  # uploaded by an earlier command: the file on disk must still be what is bought now
            _check_file(self._session, batch)
        self._create(batch)

    def _upload_call(self, outgoing: _Submission) -> Callable[[], RemoteFile]:
        """Return the call that uploads a request file, or that checks the file if the provider still has it."""
        session, batch = self._session, outgoing.batch
        provider = find_provider(batch.provider)
        remote, key = session.remote(provider), session.key_fingerprint(provider)
        age = session.now() - (batch.job.uploaded_at or 0)
        same_key = batch.state == BatchState.UPLOADED and batch.job.key_fingerprint == key
        outgoing.kept = same_key and 0 <= age < provider.upload_lifetime_seconds
        if outgoing.kept:
            return partial(remote.file, batch.job.remote_file or "")
        _check_file(session, batch)
        return partial(remote.upload, session.layout.requests(batch.step, batch.name), batch.plan.bytes)

    def _finish_upload(self, outgoing: _Submission) -> Batch:
        """Wait for the upload, record it, and return the batch. Raises _FileNotReady while the file is processed."""
        session, batch = self._session, outgoing.batch
        call = outgoing.upload.result if outgoing.upload is not None else self._upload_call(outgoing)
        try:
            file = call()
        except QuotaReached as error:
            if freed := delete_input_files(session, find_provider(batch.provider)):
                log.info("%s: %d input files that were no longer needed are deleted", batch.provider, freed)
            self._pause_model(batch, error)
        except Temporary:
            # Perhaps only this file fails: next time, other batches are sent first.
            session.store.update(batch, failed_uploads=max(batch.counters.failed_uploads, 1))
            raise
        except REFUSALS as error:
            _handle_refusal(session, batch, error)
        batch = batch if outgoing.kept else _record_upload(session, batch, file)
        if not file.ready:
            raise _FileNotReady(
                f"{session.describe(batch)}: the provider is still processing the uploaded file.",
                do="The next tick checks it again.",
            )
        return batch

    def _adopt_existing_job(self, batch: Batch) -> bool:
        """Adopt the job of an earlier create call for this batch, if there is one. Returns whether there was."""
        session, provider = self._session, find_provider(batch.provider)
        matches = matching_jobs(batch, jobs_by_label(session, provider))
        if matches:
            adopt(session, provider, batch, matches)
        return bool(matches)

    def _create(self, batch: Batch) -> None:
        """Write the intent durably, make one create call, write the job's id durably.

        After an explicit error response the batch is put back to its earlier state, or released.
        """
        session = self._session
        remote = session.remote(find_provider(batch.provider))
        settle.forget_ending(session, batch)
        batch = session.store.record_intent(batch, session.now())
        failpoint("intent_before_create")
        try:
            remote_id = remote.create(model=batch.model, file_id=batch.job.remote_file or "", name=batch.name)
        except Ambiguous as error:
            raise Ambiguous(
                f"{session.describe(batch)}: {error}", do="The next tick looks for its job; nothing is bought twice."
            ) from None
        except QuotaReached as error:
            self._pause_model(session.store.update(batch, state=BatchState.UPLOADED), error)
        except (SetupError, Temporary):
            session.store.update(batch, state=BatchState.UPLOADED)  # refused or never sent: nothing was bought
            raise
        except REFUSALS as error:
            _handle_refusal(session, batch, error)
        failpoint("created_before_recorded")
        batch = session.store.update(batch, state=BatchState.IN_FLIGHT, remote_id=remote_id, submitted_at=session.now())
        self._granted.add(_batch_scope(batch))
        session.store.holds.end(_batch_scope(batch))
        failpoint("created")
        log.info("%s: submitted as %s", session.describe(batch), remote_id)

    def _pause_model(self, batch: Batch, error: QuotaReached) -> NoReturn:
        """Pause a model after a quota error, across ticks. Attempts do not increase. Raises _ModelHalted."""
        session = self._session
        hold = session.store.holds.pause(_batch_scope(batch), str(error), session.now(), error.retry_after_seconds)
        session.trouble(hold_error(hold, session.now()))
        raise _ModelHalted


def _batch_scope(batch: Batch) -> str:
    """Return the scope of a batch's model: all batches of one model are paused and halted together."""
    return model_scope(batch.provider, batch.model)


def _queue_next(source: Iterator[Batch], waiting: deque[_Submission]) -> bool:
    """Add the next batch to the queue. Returns whether there was one."""
    batch = next(source, None)
    if batch is not None:
        waiting.append(_Submission(batch))
    return batch is not None


def _record_upload(session: Session, batch: Batch, file: RemoteFile) -> Batch:
    failpoint("uploaded_before_recorded")
    key = session.key_fingerprint(find_provider(batch.provider))
    batch = session.store.update(
        batch,
        state=BatchState.UPLOADED,
        remote_file=file.file_id,
        key_fingerprint=key,
        uploaded_at=session.now(),
    )
    failpoint("uploaded")
    return batch


def _check_file(session: Session, batch: Batch) -> None:
    """Check that the request file is still the one that was planned. Otherwise release the batch, raise Temporary."""
    path = session.layout.requests(batch.step, batch.name)
    try:
        same = hash_file(path).sha256 == batch.plan.sha256
    except FileNotFoundError:
        same = False
    if not same:
        batch = session.store.update(batch, intent_at=None)  # nothing was bought with this file
        settle.release_batch(session, batch, BatchState.REFUSED, error="the request file was changed after planning")
        raise Temporary(
            f"{path}: not the file that was planned; it was not sent.", do="The next tick writes a new one."
        )


# ---- after an explicit error response to an upload or a create call: nothing was bought


def _handle_refusal(session: Session, batch: Batch, error: Exception) -> NoReturn:
    """Release `batch`, or put it back to before its upload. Raises Temporary if the next tick may go on, else
    _ModelHalted.
    """
    if isinstance(error, FileGone | JobNotFound):
        _upload_again(session, batch, f"the provider no longer has the uploaded file ({error})")
    if isinstance(error, FileFailed) and batch.counters.failed_uploads < MAX_FAILED_UPLOADS:
        _upload_again(session, batch, str(error), failed=1)
    if isinstance(error, LinesRefused):
        _handle_refused_lines(session, batch, error)
    if isinstance(error, ModelGone):
        _handle_model_gone(session, batch, str(error))
    _halt_step(session, batch, str(error))


def _upload_again(session: Session, batch: Batch, why: str, *, failed: int = 0) -> NoReturn:
    tried = batch.counters.failed_uploads + failed
    session.store.update(batch, state=BatchState.PLANNED, remote_file=None, uploaded_at=None, failed_uploads=tried)
    raise Temporary(f"{session.describe(batch)}: {why}.", do="The next tick uploads it again.")


def _handle_refused_lines(session: Session, batch: Batch, error: LinesRefused) -> NoReturn:
    """Reject the conversations of the lines that the provider named; the others go in a new batch."""
    refused = settle.release_except_refused(session, batch, error.lines, str(error))
    if not refused:
        _halt_step(session, batch, str(error))
    raise Temporary(
        f"{session.describe(batch)}: {refused} of its requests were refused ({error}).",
        do="See data/rejected.jsonl; the others are submitted again.",
    )


def _handle_model_gone(session: Session, batch: Batch, message: str) -> NoReturn:
    settle.release_batch(
        session, batch, BatchState.REFUSED, error=f"{batch.provider} does not serve {batch.model}: {message}"
    )
    session.halt_model(batch.provider, batch.model, message)
    raise _ModelHalted


def _halt_step(session: Session, batch: Batch, message: str) -> NoReturn:
    """Halt a step until the user acts, because every tick would get the same refusal. Raises _ModelHalted."""
    settle.release_batch(session, batch, BatchState.REFUSED, error=message)
    session.store.holds.put(Hold(halt_scope(batch.position), None, 1, f"{batch.step} was refused: {message}"))
    session.trouble(StageStopped(f"{session.describe(batch)}: {message}", do="Fix the cause, then: batchgen retry"))
    raise _ModelHalted
