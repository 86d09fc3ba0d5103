"""A provider's client that notes what the service shows. It makes the same calls, and changes no answer.

Only a rehearsal uses it. `ResponseLog` keeps the HTTP responses themselves: a client returns only what a run needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import orjson

from batchgen.core.errors import Ambiguous, BatchgenError, Temporary
from batchgen.core.jsonl import dict_or_empty, text_or_empty
from batchgen.core.text import one_line
from batchgen.providers.assumptions.evidence import Evidence, JobNotes, Outcome, UploadNotes
from batchgen.providers.base import REFUSALS, Job, JobState, ProviderClient, RemoteFile

T = TypeVar("T")

TOO_MANY_REQUESTS = 429
MOST_STATES = 50  # changes of one job that are noted
RESULT_PLACES = (
    *("response.responsesFile", "response.inlinedResponses"),
    *("metadata.output.responsesFile", "metadata.output.inlinedResponses"),
    *("output_file_id", "error_file_id"),
)


class LoggedResponse(NamedTuple):
    """One HTTP response: method, path, status, and its JSON (None: it has none)."""

    method: str
    path: str
    status: int
    value: Any


class ResponseLog:
    """Keeps the HTTP responses of one client, for each thread those of its last call."""

    def __init__(self) -> None:
        self._local = threading.local()
        self.headers = set[str]()

    def start(self) -> list[LoggedResponse]:
        """Return a list that this thread's responses are appended to from now on."""
        self._local.responses = []
        return self.responses()

    def responses(self) -> list[LoggedResponse]:
        """Return the list of this thread."""
        return cast("list[LoggedResponse]", getattr(self._local, "responses", []))

    def add(self, response: Any) -> None:
        """Note a response. This is a hook of httpx and httpx2."""
        value = None
        if "json" in response.headers.get("content-type", ""):
            try:
                value = orjson.loads(response.read())
            except orjson.JSONDecodeError:
                value = None
        self.headers.update(name.lower() for name in response.headers)
        request = response.request
        self.responses().append(LoggedResponse(request.method, request.url.path, response.status_code, value))


class Observed:
    """A `ProviderClient` that notes into `notes` what the client `remote` returns, and the responses in its `log`."""

    def __init__(self, remote: ProviderClient, log: ResponseLog, notes: Evidence, now: Callable[[], float]) -> None:
        self._remote, self._log, self.notes, self._now = remote, log, notes, now

    # ---- calls that are noted

    def upload(self, path: Path, size: int) -> RemoteFile:
        responses = self._log.start()
        file = self._noting(responses, lambda: self._remote.upload(path, size))
        answer = next((one.value for one in reversed(responses) if isinstance(one.value, dict)), {})
        found = dict_or_empty(answer.get("file")) or answer
        self.notes.uploads.append(
            UploadNotes(
                file=file.file_id,
                at=self._now(),
                kept_seconds=_kept_seconds(found),
                mime_type=text_or_empty(found.get("mimeType")),
                members=sorted(found),
            )
        )
        return file

    def create(self, *, model: str, file_id: str, name: str) -> str:
        began, responses = self._now(), self._log.start()
        try:
            remote_id = self._noting(responses, lambda: self._remote.create(model=model, file_id=file_id, name=name))
        except Ambiguous as error:
            self.notes.unclear_creates.append(one_line(error))
            raise
        except (BatchgenError, *REFUSALS) as error:
            self.notes.refused_creates.append(type(error).__name__)
            raise
        answer = dict_or_empty(responses[-1].value if responses else None)
        seconds = round(self._now() - began, 3)
        job = JobNotes(name=name, file=file_id, created_at=self._now(), create_seconds=seconds, members=sorted(answer))
        if word := _state_word(answer):
            job.states.append((0.0, word))
        self.notes.jobs[remote_id] = job
        return remote_id

    def get(self, remote_id: str) -> Job:
        responses = self._log.start()
        found = self._noting(responses, lambda: self._remote.get(remote_id))
        job = self.notes.jobs.setdefault(remote_id, JobNotes(created_at=self._now()))
        self._note_state(job, found)
        if found.state.ended and responses:
            job.ended, job.error, job.rows_told = found.state.value, found.error, found.rows
            job.results = [place for place in RESULT_PLACES if _has(responses[-1].value, place)]
            if not job.results and job.states:
                job.nameless_seconds = round(max(self._now() - job.created_at - job.states[-1][0], 0.0), 1)
        return found

    def jobs(self) -> list[Job]:
        responses = self._log.start()
        try:
            found = self._noting(responses, self._remote.jobs)
        except (BatchgenError, *REFUSALS) as error:
            self.notes.listing = outcome_of(responses, error)
            self.notes.listing_failures += 1
            raise
        self.notes.listing, self.notes.listing_failures = outcome_of(responses), 0
        self.notes.listing_pages = max(self.notes.listing_pages, len(responses))
        page = responses[-1].value if responses else None
        self.notes.listing_members = sorted(page) if isinstance(page, dict) else ["[]"] if page is not None else []
        self._note_listing(found)
        return found

    def probe(self, model: str) -> None:
        responses = self._log.start()
        try:
            self._noting(responses, lambda: self._remote.probe(model))
        except (BatchgenError, *REFUSALS) as error:
            self.notes.asked[model] = outcome_of(responses, error)
            raise
        self.notes.asked[model] = outcome_of(responses)

    def download(self, file_id: str, destination: BinaryIO) -> None:
        before = destination.tell()
        self._noting(self._log.start(), lambda: self._remote.download(file_id, destination))
        self.notes.downloads[file_id] = destination.tell() - before

    # ---- calls that are passed on

    def file(self, file_id: str) -> RemoteFile:
        return self._noting(self._log.start(), lambda: self._remote.file(file_id))

    def inputs(self, name: str) -> list[str]:
        return self._remote.inputs(name)

    def cancel(self, remote_id: str) -> None:
        self._noting(self._log.start(), lambda: self._remote.cancel(remote_id))

    def delete_file(self, file_id: str) -> None:
        self._noting(self._log.start(), lambda: self._remote.delete_file(file_id))

    def delete_job(self, remote_id: str) -> bool:
        deleted = self._noting(self._log.start(), lambda: self._remote.delete_job(remote_id))
        if deleted and remote_id in self.notes.jobs:
            self.notes.jobs[remote_id].deleted = True
        return deleted

    def close(self) -> None:
        self._remote.close()

    # ---- what only a rehearsal asks

    def tried(self, call: Callable[[], object]) -> Outcome:
        """Make one call and return what it led to. Raises nothing that a provider's answer can cause."""
        self._log.start()
        try:
            call()
        except (BatchgenError, *REFUSALS) as error:
            return outcome_of(self.responses(), error)
        return outcome_of(self.responses())

    def responses(self) -> list[LoggedResponse]:
        """Return the responses to this thread's last call."""
        return self._log.responses()

    def jobs_in_pages(self, size: int) -> tuple[list[Job], int]:
        """Return every job from a listing with `size` jobs on a page, and the number of pages that came."""
        remote = cast("Any", self._remote)
        usual, responses = remote.page_size, self._log.start()
        remote.page_size = size
        try:
            return self._noting(responses, self._remote.jobs), len(responses)
        finally:
            remote.page_size = usual

    # ----

    def _noting(self, responses: list[LoggedResponse], call: Callable[[], T]) -> T:
        """Make a call; note the names of headers, and refusals for a quota."""
        try:
            return call()
        finally:
            self.notes.headers = sorted(self._log.headers.union(self.notes.headers))
            self.notes.quotas += [_message(one.value) for one in responses if one.status == TOO_MANY_REQUESTS]

    def _note_state(self, job: JobNotes, found: Job) -> None:
        word = found.raw_state or "(none)"
        if (not job.states or job.states[-1][1] != word) and len(job.states) < MOST_STATES:
            job.states.append((round(self._now() - job.created_at, 1), word))
        if found.state is JobState.UNKNOWN and word not in job.unknown_states:
            job.unknown_states.append(word)

    def _note_listing(self, found: Iterable[Job]) -> None:
        listed = {job.remote_id: job for job in found}
        for remote_id, job in list(self.notes.jobs.items()):
            if job.deleted:
                continue
            age = round(self._now() - job.created_at, 1)
            shown = listed.get(remote_id)
            if shown is None:
                if job.listed_at is None:
                    job.missing_at = age
                else:
                    job.vanished_at = age
                continue
            job.listed_at = age if job.listed_at is None else job.listed_at
            labels = {"name": job.name, "file": job.file}
            job.labels = [label for label, value in labels.items() if value and value in shown.labels]
            self._note_state(job, shown)


def outcome_of(responses: list[LoggedResponse], error: Exception | None = None) -> Outcome:
    """Return what a call led to, from its responses and the error that was raised."""
    status = responses[-1].status if responses else 0
    if error is None:
        return Outcome(status)
    return Outcome(status, type(error).__name__, one_line(error), passing=isinstance(error, Temporary))


def _state_word(answer: dict[str, Any]) -> str:
    """Return the state in the answer to a create call, as the codecs write it; "" if it has none."""
    job = dict_or_empty(answer.get("job")) or dict_or_empty(answer.get("metadata")) or answer
    word = text_or_empty(job.get("state")) or text_or_empty(job.get("status")) or text_or_empty(answer.get("status"))
    return word.replace("BATCH_STATE_", "JOB_STATE_")


def _message(value: Any) -> str:
    """Return the message of an error body as one line."""
    body = dict_or_empty(value)
    told = body.get("error") or body.get("detail") or body
    return one_line(dict_or_empty(told).get("message") or told or "no message")


def _has(value: Any, place: str) -> bool:
    """Return whether a JSON value has something at a dotted place."""
    for name in place.split("."):
        value = dict_or_empty(value).get(name)
    return bool(value)


def _kept_seconds(file: dict[str, Any]) -> float | None:
    """Return how long an uploaded file is kept, as the answer says; None if it does not."""
    try:
        if "expirationTime" in file:
            created, expires = (datetime.fromisoformat(file[name]) for name in ("createTime", "expirationTime"))
            return (expires - created).total_seconds()
        return float(file["expires_at"] - file["created_at"])
    except (KeyError, TypeError, ValueError):
        return None
