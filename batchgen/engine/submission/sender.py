"""Planned batches -> batches in flight.

The order of the submission protocol: request file durable, upload, intent durable, exactly one create call, id durable.
Each boundary is a crash point; what a kill leaves behind is picked up here or in `reconcile`.

Round trips overlap as far as trust goes. The first batch of a model goes alone. After a clear yes to it, the files of
the next ones are uploaded meanwhile: uploads cost nothing and may be repeated. After SURE of them, WIDTH batches are
created at the same time, each with its own intent and its own single call. Where something goes wrong, the model stops.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from batchgen.core.errors import (
    Ambiguous,
    BatchgenError,
    NotReady,
    QuotaReached,
    SetupError,
    Temporary,
)
from batchgen.engine.maintenance import clean_files
from batchgen.engine.reconcile import adopt, listed
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.submission.admission import held_back
from batchgen.engine.submission.refusals import Stop, take_no
from batchgen.ledger.holds import as_error, model_scope
from batchgen.ledger.rows import Batch, BatchState
from batchgen.providers import provider as provider_row
from batchgen.providers.base import REFUSALS, Job, RemoteFile, label
from batchgen.runtime.concurrency import at_once, begin
from batchgen.runtime.failpoints import crashpoint
from batchgen.runtime.files import hash_file
from batchgen.runtime.logging_setup import log

AHEAD = 4  # files that are uploaded while the batches before them are created
AHEAD_BYTES = 32_000_000  # of them together: what is under way may lie in memory
SURE = 16  # batches of a model that were created one by one, before several are at once ...
WIDTH = 4  # ... and so many are


class _Processing(NotReady):
    """An uploaded file may not be used yet. Says nothing about the next one."""


class _Outgoing:
    """A planned batch on its way, and its upload once that has begun. `kept`: its file is believed to be there yet."""

    __slots__ = ("batch", "kept", "upload")

    def __init__(self, batch: Batch) -> None:
        self.batch, self.kept = batch, False
        self.upload: Future[RemoteFile] | None = None


class Sender:
    """One command's submissions. `halted` are the models that have stopped in it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._created: Counter[str] = Counter()  # clear yeses, by model
        self._paused = set[str]()  # models that a quota refused in this command
        self._jobs: dict[str, Mapping[str, list[Job]]] = {}  # by provider, as they were listed in this command
        self.halted: set[str] = set()

    def send(self, batches: Iterable[Batch]) -> int:
        """Bring planned batches to their provider, in order. Returns how many of them are in flight now.

        `batches` is asked for no more than may be uploaded ahead. Every trouble is noted in the session.
        """
        source, waiting, sent = iter(batches), deque[_Outgoing](), 0
        while window := self._window(source, waiting):
            self._look_ahead(window, source, waiting)
            sent += self._deliver(window)
        return sent

    @contextmanager
    def _noting(self, batch: Batch) -> Iterator[None]:
        """A failure is noted and, where it concerns the model, stops that model for this command."""
        try:
            yield
        except Stop:
            self.halted.add(_model(batch))
        except BatchgenError as error:
            self._session.trouble(error, batch.provider)
            if not isinstance(error, _Processing):
                self.halted.add(_model(batch))

    # ---- how many at a time

    def _window(self, source: Iterator[Batch], waiting: deque[_Outgoing]) -> list[_Outgoing]:
        """The batches to be created next: one, or several of a model that has earned it. What is halted stays."""
        window: list[_Outgoing] = []
        while len(window) < self._width(window) and (waiting or _pull(source, waiting)):
            if window and not _fits(window, waiting[0]):
                break
            outgoing = waiting.popleft()
            if self._may_go(outgoing.batch):
                window.append(outgoing)
            else:
                self._keep_upload(outgoing)
        return window

    def _width(self, window: list[_Outgoing]) -> int:
        return WIDTH if window and self._created[_model(window[0].batch)] >= SURE else 1

    def _may_go(self, batch: Batch) -> bool:
        scope = _model(batch)
        return scope not in self.halted and not held_back(self._session, scope, batch.step)

    def _look_ahead(self, window: list[_Outgoing], source: Iterator[Batch], waiting: deque[_Outgoing]) -> None:
        """Begin the uploads of what comes behind `window`, for models that have said yes to something."""
        if not self._created[_model(window[0].batch)]:
            return
        while len(waiting) < AHEAD and _pull(source, waiting):
            pass
        size = _bytes(window)
        for outgoing in waiting:
            size += outgoing.batch.plan.bytes
            if size > AHEAD_BYTES:
                return
            granted = self._created[_model(outgoing.batch)]
            if granted and outgoing.upload is None and self._may_go(outgoing.batch):
                with self._noting(outgoing.batch):
                    outgoing.upload = begin(self._upload_call(outgoing), f"uploading {outgoing.batch.name}")

    # ---- the protocol

    def _deliver(self, window: list[_Outgoing]) -> int:
        """Upload, look for what an earlier command may have created, create. Returns how many are in flight."""
        self._upload(window)
        adopted, ready = 0, list[Batch]()
        for outgoing in window:
            with self._noting(outgoing.batch):
                batch = self._uploaded(outgoing)
                if batch.job.intent_at is not None and self._found_again(batch):
                    adopted += 1
                    continue
                if outgoing.kept:  # uploaded by an earlier command; the file is the evidence of what is bought now
                    _check_file(self._session, batch)
                ready.append(batch)
        return adopted + self._create([batch for batch in ready if _model(batch) not in self.halted])

    def _upload(self, window: list[_Outgoing]) -> None:
        """Begin the uploads that were not begun ahead."""
        calls: dict[_Outgoing, Callable[[], RemoteFile]] = {}
        for outgoing in window:
            if outgoing.upload is None:
                with self._noting(outgoing.batch):
                    calls[outgoing] = self._upload_call(outgoing)
        for outgoing, upload in zip(calls, at_once(list(calls.values()), "uploading"), strict=True):
            outgoing.upload = upload

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
        if outgoing.upload is None:
            raise Stop
        try:
            file = outgoing.upload.result()
        except QuotaReached as error:
            if freed := clean_files(session, provider_row(batch.provider)):
                log.info("%s: %d input files that were no longer needed are deleted", batch.provider, freed)
            self._pause(batch, error)
        except Temporary:
            # It may be this file alone: the next time others go first.
            session.store.update(batch, failed_uploads=max(batch.counters.failed_uploads, 1))
            raise
        except REFUSALS as error:
            take_no(session, batch, error)
        batch = batch if outgoing.kept else _note_upload(session, batch, file)
        if not file.ready:
            raise _Processing(
                f"{session.describe(batch)}: the provider is still processing the uploaded file.",
                do="The next tick goes on.",
            )
        return batch

    def _keep_upload(self, outgoing: _Outgoing) -> None:
        """What was uploaded ahead of a batch that may not go now is kept for the tick that goes on."""
        if outgoing.upload is not None and not outgoing.kept:
            with suppress(BatchgenError, *REFUSALS):
                _note_upload(self._session, outgoing.batch, outgoing.upload.result())

    def _create(self, batches: list[Batch]) -> int:
        """Every intent durable, one create call each, every id durable. Returns how many were created."""
        session, created = self._session, 0
        calls = [_create_call(session, batch) for batch in batches]
        for batch in batches:
            settle.forget_ending(session, batch)
        batches = session.store.intend(batches, session.now())
        crashpoint("intent_before_create")
        answers = dict(zip(at_once(calls, "creating"), batches, strict=True))
        for answer in as_completed(answers):
            with self._noting(answers[answer]):
                self._created_as(answers[answer], answer)
                created += 1
        return created

    def _created_as(self, batch: Batch, answer: Future[str]) -> None:
        """Write down what came of a create call. After a clear no the batch is back where it was, or released."""
        session = self._session
        try:
            remote_id = answer.result()
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
            take_no(session, batch, error)
        crashpoint("created_before_recorded")
        batch = session.store.update(batch, state=BatchState.IN_FLIGHT, remote_id=remote_id, submitted_at=session.now())
        self._created[_model(batch)] += 1
        if _model(batch) not in self._paused:  # a yes that was under way when the quota's no came says nothing
            session.store.holds.end(_model(batch))
        crashpoint("created")
        log.info("%s: submitted as %s", session.describe(batch), remote_id)

    def _found_again(self, batch: Batch) -> bool:
        """Before a name that an earlier command tried is tried again: it may exist after all. One listing does for all
        of them, because their calls were made before this command began.
        """
        session, provider = self._session, provider_row(batch.provider)
        if provider.name not in self._jobs:
            self._jobs[provider.name] = listed(session, provider)
        wanted = label(provider, name=batch.name, remote_file=batch.job.remote_file or "")
        matches = self._jobs[provider.name].get(wanted, [])
        if matches:
            adopt(session, provider, batch, matches)
        return bool(matches)

    def _pause(self, batch: Batch, error: QuotaReached) -> NoReturn:
        """A quota: this model waits, with a back-off that is kept across ticks; attempts are not touched."""
        session, scope = self._session, _model(batch)
        if scope not in self._paused:  # several at once may be refused by one quota
            self._paused.add(scope)
            wait = session.store.holds.pause(scope, str(error), session.now(), error.retry_after_seconds)
            session.trouble(as_error(wait, session.now()))
        raise Stop


def _model(batch: Batch) -> str:
    """What is stopped, trusted and paused as one."""
    return model_scope(batch.provider, batch.model)


def _pull(source: Iterator[Batch], waiting: deque[_Outgoing]) -> bool:
    """Put the next batch in line. Returns whether there was one."""
    batch = next(source, None)
    if batch is not None:
        waiting.append(_Outgoing(batch))
    return batch is not None


def _fits(window: list[_Outgoing], outgoing: _Outgoing) -> bool:
    """Whether a batch may be created at the same time: of the same model, and not too much in all."""
    same = _model(window[0].batch) == _model(outgoing.batch)
    return same and _bytes(window) + outgoing.batch.plan.bytes <= AHEAD_BYTES


def _bytes(batches: Iterable[_Outgoing]) -> int:
    return sum(outgoing.batch.plan.bytes for outgoing in batches)


def _create_call(session: Session, batch: Batch) -> Callable[[], str]:
    remote = session.remote(provider_row(batch.provider))
    return partial(remote.create, model=batch.model, file_id=batch.job.remote_file or "", name=batch.name)


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
