"""Planned batches -> batches in flight.

The order of the submission protocol: request file durable, upload, intent durable, exactly one create call, id durable.
Each boundary is a crash point; what a kill leaves behind is picked up here or in `reconcile`.

Batches are created one by one. The first batch of a model goes alone. After a clear yes to it, the files of the next
ones are uploaded in threads meanwhile: uploads cost nothing and may be repeated. Where something goes wrong, the model
stops.
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
from batchgen.engine.maintenance import clean_files
from batchgen.engine.reconcile import adopt, listed
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.submission.admission import held_back
from batchgen.ledger.holds import as_error, halt_scope, model_scope
from batchgen.ledger.rows import Batch, BatchState, Hold
from batchgen.providers import provider as provider_row
from batchgen.providers.base import (
    REFUSALS,
    FileFailed,
    FileGone,
    JobMissing,
    LinesRefused,
    ModelGone,
    RemoteFile,
    label,
)
from batchgen.runtime.concurrency import begin
from batchgen.runtime.failpoints import crashpoint
from batchgen.runtime.files import hash_file
from batchgen.runtime.logging_setup import log

AHEAD = 4  # files that are uploaded while the batches before them are created
AHEAD_BYTES = 32_000_000  # of them and of the one before them together: what is under way may lie in memory
UPLOADS = 3  # of a file that the provider cannot process, before somebody is called


class _Processing(NotReady):
    """An uploaded file may not be used yet. Says nothing about the next one."""


class _ModelHalted(Exception):
    """Nothing more of this model can be submitted in this command; the trouble is noted."""


class _Outgoing:
    """A planned batch on its way. `upload` is set where it was begun ahead. `kept`: an earlier command uploaded the
    file, and the provider should still have it.
    """

    __slots__ = ("batch", "kept", "upload")

    def __init__(self, batch: Batch) -> None:
        self.batch, self.kept = batch, False
        self.upload: Future[RemoteFile] | None = None


class Sender:
    """One command's submissions. `halted` are the models that have stopped in it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._granted = set[str]()  # models of which a batch was created in this command
        self.halted: set[str] = set()

    def send(self, batches: Iterable[Batch]) -> int:
        """Bring planned batches to their provider, in order. Returns how many of them are in flight now.

        `batches` is asked for no more than may be uploaded ahead. Every trouble is noted in the session.
        """
        source, waiting, sent = iter(batches), deque[_Outgoing](), 0
        while outgoing := self._next(source, waiting):
            self._upload_ahead(outgoing, source, waiting)
            with self._noting(outgoing.batch):
                self._deliver(outgoing)
                sent += 1
        return sent

    @contextmanager
    def _noting(self, batch: Batch) -> Iterator[None]:
        """A failure is noted and, where it concerns the model, stops that model for this command."""
        try:
            yield
        except _ModelHalted:
            self.halted.add(_model(batch))
        except BatchgenError as error:
            self._session.trouble(error, batch.provider)
            if not isinstance(error, _Processing):
                self.halted.add(_model(batch))

    # ---- which batch goes, and what is uploaded meanwhile

    def _next(self, source: Iterator[Batch], waiting: deque[_Outgoing]) -> _Outgoing | None:
        """The next batch that may be created. What may not go stays for another tick."""
        while waiting or _pull(source, waiting):
            outgoing = waiting.popleft()
            if self._may_go(outgoing.batch):
                return outgoing
            self._keep_upload(outgoing)
        return None

    def _may_go(self, batch: Batch) -> bool:
        scope = _model(batch)
        return scope not in self.halted and not held_back(self._session, scope, batch.step)

    def _upload_ahead(self, current: _Outgoing, source: Iterator[Batch], waiting: deque[_Outgoing]) -> None:
        """Begin the uploads of what comes behind `current`, for models that have said yes to something."""
        if _model(current.batch) not in self._granted:
            return
        while len(waiting) < AHEAD and _pull(source, waiting):
            pass
        size = current.batch.plan.bytes
        for outgoing in waiting:
            batch = outgoing.batch
            size += batch.plan.bytes
            if size > AHEAD_BYTES:
                return
            if _model(batch) in self._granted and outgoing.upload is None and self._may_go(batch):
                with self._noting(batch):
                    outgoing.upload = begin(self._upload_call(outgoing), f"uploading {batch.name}")

    def _keep_upload(self, outgoing: _Outgoing) -> None:
        """What was uploaded ahead of a batch that may not go now is kept for the tick that goes on."""
        if outgoing.upload is not None and not outgoing.kept:
            with suppress(BatchgenError, *REFUSALS):
                _note_upload(self._session, outgoing.batch, outgoing.upload.result())

    # ---- the protocol

    def _deliver(self, outgoing: _Outgoing) -> None:
        """Upload, look for what an earlier command may have created, create. Returns when the batch is in flight."""
        batch = self._uploaded(outgoing)
        if batch.job.intent_at is not None and self._found_again(batch):
            return
        if outgoing.kept:  # uploaded by an earlier command; the file is the evidence of what is bought now
            _check_file(self._session, batch)
        self._create(batch)

    def _upload_call(self, outgoing: _Outgoing) -> Callable[[], RemoteFile]:
        """The upload of a request file, or a look at it where the provider still has it."""
        session, batch = self._session, outgoing.batch
        provider = provider_row(batch.provider)
        remote, key = session.remote(provider), session.fingerprint(provider)
        age = session.now() - (batch.job.uploaded_at or 0)
        same_key = batch.state == BatchState.UPLOADED and batch.job.key_fingerprint == key
        outgoing.kept = same_key and 0 <= age < provider.upload_lives_seconds
        if outgoing.kept:
            return partial(remote.file, batch.job.remote_file or "")
        _check_file(session, batch)
        return partial(remote.upload, session.layout.requests(batch.step, batch.name), batch.plan.bytes)

    def _uploaded(self, outgoing: _Outgoing) -> Batch:
        """The batch once its file may be used."""
        session, batch = self._session, outgoing.batch
        call = outgoing.upload.result if outgoing.upload is not None else self._upload_call(outgoing)
        try:
            file = call()
        except QuotaReached as error:
            if freed := clean_files(session, provider_row(batch.provider)):
                log.info("%s: %d input files that were no longer needed are deleted", batch.provider, freed)
            self._pause(batch, error)
        except Temporary:
            # It may be this file alone: the next time others go first.
            session.store.update(batch, failed_uploads=max(batch.counters.failed_uploads, 1))
            raise
        except REFUSALS as error:
            _handle_refusal(session, batch, error)
        batch = batch if outgoing.kept else _note_upload(session, batch, file)
        if not file.ready:
            raise _Processing(
                f"{session.describe(batch)}: the provider is still processing the uploaded file.",
                do="The next tick goes on.",
            )
        return batch

    def _found_again(self, batch: Batch) -> bool:
        """Before a name that an earlier command tried is tried again: it may exist after all."""
        session, provider = self._session, provider_row(batch.provider)
        wanted = label(provider, name=batch.name, remote_file=batch.job.remote_file or "")
        matches = listed(session, provider).get(wanted)
        if matches:
            adopt(session, provider, batch, matches)
        return bool(matches)

    def _create(self, batch: Batch) -> None:
        """Intent durable, one create call, id durable. After a clear no the batch is back where it was, or released."""
        session = self._session
        remote = session.remote(provider_row(batch.provider))
        settle.forget_ending(session, batch)
        batch = session.store.intend(batch, session.now())
        crashpoint("intent_before_create")
        try:
            remote_id = remote.create(model=batch.model, file_id=batch.job.remote_file or "", name=batch.name)
        except Ambiguous as error:
            raise Ambiguous(
                f"{session.describe(batch)}: {error}", do="The next tick looks for it; nothing is bought twice."
            ) from None
        except QuotaReached as error:
            self._pause(session.store.update(batch, state=BatchState.UPLOADED), error)
        except (SetupError, Temporary):
            session.store.update(batch, state=BatchState.UPLOADED)  # a clear no, or never sent: nothing was bought
            raise
        except REFUSALS as error:
            _handle_refusal(session, batch, error)
        crashpoint("created_before_recorded")
        batch = session.store.update(batch, state=BatchState.IN_FLIGHT, remote_id=remote_id, submitted_at=session.now())
        self._granted.add(_model(batch))
        session.store.holds.end(_model(batch))
        crashpoint("created")
        log.info("%s: submitted as %s", session.describe(batch), remote_id)

    def _pause(self, batch: Batch, error: QuotaReached) -> NoReturn:
        """A quota: this model waits, with a back-off that is kept across ticks; attempts are not touched."""
        session = self._session
        hold = session.store.holds.pause(_model(batch), str(error), session.now(), error.retry_after_seconds)
        session.trouble(as_error(hold, session.now()))
        raise _ModelHalted


def _model(batch: Batch) -> str:
    """What is stopped, trusted and paused as one."""
    return model_scope(batch.provider, batch.model)


def _pull(source: Iterator[Batch], waiting: deque[_Outgoing]) -> bool:
    """Put the next batch in line. Returns whether there was one."""
    batch = next(source, None)
    if batch is not None:
        waiting.append(_Outgoing(batch))
    return batch is not None


def _note_upload(session: Session, batch: Batch, file: RemoteFile) -> Batch:
    crashpoint("uploaded_before_recorded")
    key = session.fingerprint(provider_row(batch.provider))
    batch = session.store.update(
        batch,
        state=BatchState.UPLOADED,
        remote_file=file.file_id,
        key_fingerprint=key,
        uploaded_at=session.now(),
    )
    crashpoint("uploaded")
    return batch


def _check_file(session: Session, batch: Batch) -> None:
    """The bytes about to be sent, or bought with, must be the bytes that were planned."""
    path = session.layout.requests(batch.step, batch.name)
    try:
        same = hash_file(path).sha256 == batch.plan.sha256
    except FileNotFoundError:
        same = False
    if not same:
        batch = session.store.update(batch, intent_at=None)  # nothing was bought with it, and nothing will be
        settle.release(session, batch, BatchState.REFUSED, error="the request file is not what was planned")
        raise Temporary(
            f"{path}: not the file that was planned; it was not sent.", do="The next tick writes a new one."
        )


# ---- after a clear no to an upload or a create call: nothing was bought, so nothing is waited for


def _handle_refusal(session: Session, batch: Batch, error: Exception) -> NoReturn:
    """Release `batch`, or put it back to before its upload. Raises _ModelHalted; Temporary if the next tick goes on."""
    if isinstance(error, FileGone | JobMissing):
        _upload_again(session, batch, f"the uploaded file is gone ({error})")
    if isinstance(error, FileFailed) and batch.counters.failed_uploads < UPLOADS:
        _upload_again(session, batch, str(error), failed=1)
    if isinstance(error, LinesRefused):
        _refuse_lines(session, batch, error)
    if isinstance(error, ModelGone):
        _model_gone(session, batch, str(error))
    _halt(session, batch, str(error))


def _upload_again(session: Session, batch: Batch, why: str, *, failed: int = 0) -> NoReturn:
    tried = batch.counters.failed_uploads + failed
    session.store.update(batch, state=BatchState.PLANNED, remote_file=None, uploaded_at=None, failed_uploads=tried)
    raise Temporary(f"{session.describe(batch)}: {why}.", do="The next tick uploads it again.")


def _refuse_lines(session: Session, batch: Batch, error: LinesRefused) -> NoReturn:
    """The provider named bad lines: those conversations are left behind, the others go in a new batch."""
    rows = session.store.held(batch.number)
    refused = {rows[line - 1].number: text for line, text in error.lines.items() if 0 < line <= len(rows)}
    if not refused:
        _halt(session, batch, str(error))
    settle.release(session, batch, BatchState.REFUSED, error=str(error), refused=refused)
    raise Temporary(
        f"{session.describe(batch)}: {len(refused)} of its requests were refused ({error}).",
        do="See data/rejected.jsonl; the others are submitted again.",
    )


def _model_gone(session: Session, batch: Batch, message: str) -> NoReturn:
    settle.release(
        session, batch, BatchState.REFUSED, error=f"{batch.provider} does not serve {batch.model}: {message}"
    )
    session.model_gone(batch.provider, batch.model, message)
    raise _ModelHalted


def _halt(session: Session, batch: Batch, message: str) -> NoReturn:
    """A refusal that would come again: the step waits for a person instead of asking at every tick."""
    settle.release(session, batch, BatchState.REFUSED, error=message)
    session.store.holds.put(Hold(halt_scope(batch.position), None, 1, f"{batch.step} was refused: {message}"))
    session.trouble(StageStopped(f"{session.describe(batch)}: {message}", do="Mend the cause, then: batchgen retry"))
    raise _ModelHalted
