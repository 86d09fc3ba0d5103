"""OpenAI's batch protocol, as several services speak it: the calls, with httpx2.

Imported only by commands that use such a service. Facts come from the documents named in `openai_services`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import httpx2
import orjson

from batchgen.core.errors import Ambiguous, BatchgenError, Temporary
from batchgen.core.jsonl import dict_or_empty, text_or_empty
from batchgen.core.text import one_line
from batchgen.providers.base import (
    ConnectionOptions,
    CreateRefused,
    FileFailed,
    Job,
    JobNotFound,
    JobState,
    ModelGone,
    RemoteFile,
)
from batchgen.providers.http_errors import (
    HttpFailure,
    connection_error,
    error_from_create_response,
    error_from_response,
    no_api_error,
    parse_retry_after,
    retry_once_if_refused,
    retry_reads,
    tls_context,
    translate_setup_errors,
    unreadable_response_error,
)
from batchgen.providers.openai_codec import ENDPOINT, NAME_FIELD, parse_job
from batchgen.providers.openai_services import Service
from batchgen.providers.read_deadline import response_deadline
from batchgen.runtime.logging_setup import redact

PURPOSE: Final = "batch"
PAGE_JOBS = 100  # most jobs on one page of a listing
MAX_PAGES = 1000
UPLOADING, CREATING = "upload a request file", "create a batch"


class OpenAIClient:
    """The calls to one service. httpx2 repeats no call by itself."""

    def __init__(self, service: Service, access: ConnectionOptions) -> None:
        self._service, self._name = service, service.name
        self._base = _base_url(access.url, service.base_url)
        self.page_size = PAGE_JOBS
        with translate_setup_errors(self._name, self._base):
            self._http = httpx2.Client(
                headers={"Authorization": f"Bearer {access.key}"},
                verify=tls_context(),
                timeout=access.timeout_seconds,
                event_hooks={"response": [response_deadline(httpx2, access.timeout_seconds), *access.hooks]},
            )

    def close(self) -> None:
        self._http.close()

    def upload(self, path: Path, size: int) -> RemoteFile:
        """Upload a request file; start once more from the beginning if it is refused."""

        def call() -> RemoteFile:
            with self._translate_errors(UPLOADING), path.open("rb") as stream:
                files = {"file": (path.name, stream, "application/jsonl")}
                response = self._http.post(f"{self._base}/files", data={"purpose": PURPOSE}, files=files)
                if response.status_code == httpx2.codes.NOT_FOUND:
                    variable = self._service.provider.url_variable
                    raise no_api_error(self._failure(UPLOADING, response), self._base, variable)
                found = self._object(UPLOADING, response)
            if found.get("bytes") not in (None, size):
                raise Temporary(
                    f"{self._name}, {UPLOADING}: what arrived is not what was sent.", do="The next tick tries again."
                )
            return _to_remote_file(self._name, found)

        return retry_once_if_refused(lambda: retry_reads(call))

    def file(self, file_id: str) -> RemoteFile:
        found = self._read("look at an uploaded file", f"/files/{file_id}")
        return _to_remote_file(self._name, found)

    def inputs(self, name: str) -> list[str]:
        listed = self._read("list uploaded files", "/files").get("data")
        if not isinstance(listed, list):
            raise CreateRefused(f"{self._name} does not list files")
        files = [dict_or_empty(row) for row in listed]
        return [text_or_empty(file.get("id")) for file in files if file.get("filename") == name and file.get("id")]

    def create(self, *, model: str, file_id: str, name: str) -> str:
        """Make one POST. Anything but a clear answer is Ambiguous. The lines of the file name the model."""
        del model
        wanted = {
            "input_file_id": file_id,
            "endpoint": ENDPOINT,
            "completion_window": self._service.window,
            "metadata": {NAME_FIELD: name},
        }
        try:
            response = self._http.post(f"{self._base}/batches", json=wanted)
            created = parse_job(orjson.loads(response.content)) if response.is_success else None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:  # never sent: nothing can have been bought
            raise connection_error(self._name, CREATING, error) from None
        except Exception as error:  # noqa: BLE001 - whatever it was, the job may exist
            raise Ambiguous(f"{self._name}, {CREATING}: no clear answer ({type(error).__name__}).") from None
        if created is None:
            raise error_from_create_response(self._failure(CREATING, response))
        ours = file_id in created.labels or name in created.labels or created.state is not JobState.UNKNOWN
        if not (created.remote_id and ours):
            raise Ambiguous(f"{self._name}, {CREATING}: an answer without a batch.")
        return created.remote_id

    def get(self, remote_id: str) -> Job:
        found = parse_job(self._read("look at a batch", f"/batches/{remote_id}"))
        if not found.remote_id:
            raise unreadable_response_error(self._name, "look at a batch", TypeError("no batch"))
        return found

    def jobs(self) -> list[Job]:
        """Return every job of this key, from all pages. The next page is asked for by the last job of this one."""
        doing, jobs, after = "list batches", list[Job](), ""
        for _ in range(MAX_PAGES):
            page = self._read(doing, "/batches", {"limit": str(self.page_size), **({"after": after} if after else {})})
            with self._translate_errors(doing):
                found = _jobs_of_page(page)
            jobs += found
            if not page.get("has_more"):
                return jobs
            after = found[-1].remote_id if found else ""
            if not after or after in {job.remote_id for job in jobs[: -len(found)]}:
                break
        raise Temporary(f"{self._name}, {doing}: the list does not end.", do="The next tick tries again.")

    def download(self, file_id: str, destination: BinaryIO) -> None:
        doing, address = "download results", f"{self._base}/files/{file_id}/content"
        # A service may send the client on to a file store. httpx2 does not send the key to another host.
        with (
            self._translate_errors(doing),
            self._http.stream("GET", address, follow_redirects=True) as response,
        ):
            if not response.is_success:
                response.read()
                raise error_from_response(self._failure(doing, response))
            destination.writelines(response.iter_bytes())

    def cancel(self, remote_id: str) -> None:
        doing = "cancel a batch"
        with self._translate_errors(doing):
            response = self._http.post(f"{self._base}/batches/{remote_id}/cancel")
            if response.status_code != httpx2.codes.CONFLICT:  # which says that it has ended already
                self._object(doing, response)

    def delete_file(self, file_id: str) -> None:
        doing = "delete an input file"
        with self._translate_errors(doing):
            self._object(doing, self._http.delete(f"{self._base}/files/{file_id}"))

    def delete_job(self, remote_id: str) -> bool:  # noqa: ARG002 - the protocol has no call for it
        return False

    def probe(self, model: str) -> None:
        doing = "ask the model for one token"
        wanted = {"model": model, "messages": [{"role": "user", "content": "Say yes."}], self._service.limit_field: 1}
        with self._translate_errors(doing):
            self._object(doing, self._http.post(f"{self._base}/chat/completions", json=wanted))

    # ----

    def _read(self, doing: str, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the answer to a GET, tried again after temporary errors."""

        def call() -> dict[str, Any]:
            with self._translate_errors(doing):
                return self._object(doing, self._http.get(f"{self._base}{path}", params=query))

        return retry_reads(call)

    def _object(self, doing: str, response: httpx2.Response) -> dict[str, Any]:
        """Return the JSON object of an answer. Raises for any other answer."""
        if not response.is_success:
            raise error_from_response(self._failure(doing, response))
        found = orjson.loads(response.content)
        if not isinstance(found, dict):
            raise TypeError("no object")
        return found

    def _failure(self, doing: str, response: httpx2.Response) -> HttpFailure:
        headers = {name.lower(): value for name, value in response.headers.items()}
        message = redact(_error_message(response.content))
        return HttpFailure(self._name, doing, response.status_code, message, parse_retry_after(headers))

    @contextmanager
    def _translate_errors(self, doing: str) -> Iterator[None]:
        """Turn every exception that a call can raise (httpx2, parsing) into one of ours."""
        try:
            yield
        except (BatchgenError, CreateRefused, JobNotFound, ModelGone):
            raise
        except httpx2.HTTPError as error:
            raise connection_error(self._name, doing, error) from None
        except (MemoryError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a 200 that is no answer leads to
            raise unreadable_response_error(self._name, doing, error) from None


def _base_url(url: str | None, default: str) -> str:
    """Return the address that paths are appended to. An address without a path gets the path of the default one."""
    base = (url or default).rstrip("/")
    return base if urlsplit(base).path else f"{base}{urlsplit(default).path}"


def _to_remote_file(provider: str, file: Mapping[str, Any]) -> RemoteFile:
    """Return the uploaded file. Raises FileFailed if the service could not process it."""
    status = text_or_empty(file.get("status")).lower()
    if status in ("error", "failed"):
        why = one_line(file.get("status_details") or status)
        raise FileFailed(f"{provider} could not process the uploaded file: {why}")
    if not text_or_empty(file.get("id")):
        raise unreadable_response_error(provider, "look at an uploaded file", TypeError("no file"))
    return RemoteFile(text_or_empty(file["id"]), ready=status not in ("pending", "processing", "uploading"))


def _jobs_of_page(page: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of one page of a listing. Raises TypeError for anything but a list of jobs."""
    rows = page.get("data")
    if not isinstance(rows, list):
        raise TypeError("not a list")
    jobs = [parse_job(row) for row in rows]
    if not all(job.remote_id for job in jobs):
        raise TypeError("a row that is not a batch")
    return jobs


def _error_message(raw: bytes) -> str:
    """Return the message of an error body: {"error": {...}}, {"error": text}, {"detail": text, object or list}."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw[:2000].decode("utf-8", "replace")
    told = body
    for name in ("detail", "error"):
        told = told.get(name) or told if isinstance(told, dict) else told
    if isinstance(told, list):
        told = "; ".join(_message_of(one) for one in told)
    return _message_of(told)


def _message_of(told: Any) -> str:
    if not isinstance(told, dict):
        return str(told or "")
    message = text_or_empty(told.get("message")) or text_or_empty(told.get("msg"))
    code = told.get("code")
    return f"{message} {code if isinstance(code, str) else ''}".strip() or str(told)
