"""Gemini Developer API: the calls, with google-genai and its own HTTP client.

Imported only by commands that use Gemini. Facts come from the source of the SDK (google-genai 3.4.0); RUN marks what
was observed against a local server.
"""

from __future__ import annotations

import base64
import io
import re
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx2
from google import genai
from google.genai import errors, types

from batchgen.core.errors import Ambiguous, BatchgenError, Temporary
from batchgen.core.jsonl import dict_or_empty, text_or_empty
from batchgen.core.text import one_line
from batchgen.providers.base import (
    ConnectionOptions,
    CreateRefused,
    FileFailed,
    Job,
    JobNotFound,
    ModelGone,
    RemoteFile,
)
from batchgen.providers.gemini_codec import NAME, PROVIDER, parse_job
from batchgen.providers.http_errors import (
    HttpFailure,
    connection_error,
    error_from_create_response,
    error_from_response,
    no_api_error,
    parse_retry_after,
    retry_once_if_refused,
    retry_reads,
    strip_version,
    tls_context,
    translate_setup_errors,
    unreadable_response_error,
)
from batchgen.providers.read_deadline import response_deadline
from batchgen.runtime.files import hash_file
from batchgen.runtime.logging_setup import redact

API_URL = "https://generativelanguage.googleapis.com"
UPLOADING = "upload a request file"
PAGE_SIZE = 100  # most jobs on one page of a listing
MAX_PAGES = 1000
LIST_PAGE_FIELDS = {"operations", "nextPageToken", "unreachable"}  # fields that a page may have; an empty page has none


class GeminiClient:
    """The calls, through google-genai with its own retries off and a time-out (it has none by default)."""

    MIME_TYPES = ("application/jsonl", "jsonl", "application/json", "text/plain")

    def __init__(self, access: ConnectionOptions) -> None:
        self._base = strip_version(access.url or API_URL)
        self._version = access.api_version
        self._headers = {"x-goog-api-key": access.key}
        self._mime = self.MIME_TYPES[0]
        self.page_size = PAGE_SIZE
        # The SDK warns about a state that it does not know; the answer can still be read. Set once for all threads.
        warnings.filterwarnings("ignore", message=".* is not a valid ", module="google")
        with translate_setup_errors(NAME, self._base):
            trust = tls_context()
            self._http = self._make_http_client(access, trust)
            self._client = genai.Client(
                vertexai=False,
                api_key=access.key,
                http_options=types.HttpOptions(
                    api_version=access.api_version,
                    base_url=self._base,
                    timeout=max(int(access.timeout_seconds * 1000), 1),
                    httpx_client=self._http,
                    # Clients that are never used; without this the SDK reads the trust store for each of them (60 ms).
                    client_args={"verify": trust},
                    async_client_args={"verify": trust, "ssl": trust},
                ),
            )

    def _make_http_client(self, access: ConnectionOptions, trust: ssl.SSLContext) -> httpx2.Client:
        own_host = httpx2.URL(self._base).host

        def keep_key_at_home(request: httpx2.Request) -> None:
            # The SDK's client follows redirects and would send the key to another host (RUN).
            if request.url.host != own_host:
                request.headers.pop("x-goog-api-key", None)

        return httpx2.Client(
            verify=trust,
            timeout=access.timeout_seconds,
            follow_redirects=True,
            event_hooks={
                "request": [keep_key_at_home],
                "response": [response_deadline(httpx2, access.timeout_seconds), *access.hooks],
            },
        )

    def close(self) -> None:
        self._http.close()

    def upload(self, path: Path, size: int) -> RemoteFile:
        """Upload a request file; start once more from the beginning if it is refused.

        If the answer to a chunk is lost, the SDK sends the chunk again at its old offset, which the service refuses.
        """
        return retry_once_if_refused(lambda: self._upload_with_accepted_type(path, size))

    def _upload_with_accepted_type(self, path: Path, size: int) -> RemoteFile:
        """Try the known MIME types in turn while the service refuses one."""
        for mime in self.MIME_TYPES[self.MIME_TYPES.index(self._mime) :]:
            try:
                file = retry_reads(partial(self._upload, path, size, mime))
            except _MimeRefused:
                continue
            self._mime = mime  # several uploads may set this at the same time
            return file
        raise Temporary("gemini, upload a request file: every MIME type was refused.", do="The next tick tries again.")

    def _upload(self, path: Path, size: int, mime: str) -> RemoteFile:
        with _translate_errors(UPLOADING):
            try:
                file = self._client.files.upload(file=str(path), config={"mime_type": mime, "display_name": path.stem})
            except Exception as error:
                if _is_mime_refusal(error):
                    raise _MimeRefused from None
                if _finds_no_api(error):
                    raise no_api_error(_http_failure(UPLOADING, error), self._base, PROVIDER.url_variable) from None
                raise
        sent = self._check_upload(path, size, file.name or "", file.size_bytes, file.sha256_hash)
        return RemoteFile(sent, ready=_file_state(file) == "ACTIVE")

    @staticmethod
    def _check_upload(path: Path, size: int, name: str, sent: int | None, digest: str | None) -> str:
        """Check that the stored file is ours, byte for byte; sha256Hash is the base64 of the text of the hex digest."""
        same = sent in (None, size)
        if digest and same:
            try:
                told = base64.b64decode(digest)
            except ValueError:
                told = b""
            mine = hash_file(path).sha256
            # Documented as text of the hex digest; a plain digest in base64 is accepted, any other form is ignored.
            same = told in (mine.encode(), bytes.fromhex(mine)) or len(told) not in (64, 32)
        if not name or not same:
            raise Temporary(
                "gemini, upload a request file: the stored file differs from the one that was sent.",
                do="The next tick tries again.",
            )
        return name

    def file(self, file_id: str) -> RemoteFile:
        def call() -> RemoteFile:
            with _translate_errors("look at an uploaded file"):
                file = self._client.files.get(name=file_id)
                # An answer without a name is not a file: a proxy may answer 200 with an empty body.
                return RemoteFile(file_id, ready=bool(file.name) and _file_state(file) == "ACTIVE")

        return retry_reads(call)

    def inputs(self, name: str) -> list[str]:  # noqa: ARG002 - its jobs are found by their own names
        return []

    def create(self, *, model: str, file_id: str, name: str) -> str:
        """Make one POST. Anything but a clear answer is Ambiguous, because the SDK does not protect a create call."""
        try:
            created = self._client.batches.create(model=model, src=file_id, config={"display_name": name})
        except errors.APIError as error:
            raise error_from_create_response(_http_failure("create a batch", error)) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise connection_error(NAME, "create a batch", error) from None  # never sent: no job was created
        except Exception as error:  # noqa: BLE001 - whatever it was, the job may exist
            raise Ambiguous(f"gemini, create a batch: no clear answer ({type(error).__name__}).") from None
        if not created.name:
            raise Ambiguous("gemini, create a batch: the answer has no job.")
        return created.name

    def get(self, remote_id: str) -> Job:
        """Return the raw operation: the SDK drops its error, counts and `response`."""
        found = parse_job(self._read(remote_id, "look at a batch"))
        if not found.remote_id:
            raise Temporary("gemini, look at a batch: the answer is not a batch.", do="The next tick tries again.")
        return found

    def jobs(self) -> list[Job]:
        found: list[Job] = []
        token, seen = "", set[str]()
        while len(seen) < MAX_PAGES:
            page = dict_or_empty(self._read("batches", "list batches", pageSize=str(self.page_size), pageToken=token))
            operations = page.get("operations")
            if not isinstance(operations, list | None) or (page and not page.keys() & LIST_PAGE_FIELDS):
                break  # an error or something else in place of a list: do not treat it as an empty list
            if page.get("unreachable"):
                raise Temporary(
                    f"gemini, list batches: the list is not complete, it lacks {one_line(page['unreachable'])}.",
                    do="The next tick tries again.",
                )
            rows = [parse_job(operation) for operation in operations or []]
            if not all(row.remote_id for row in rows):
                break
            found += rows
            token = page.get("nextPageToken") or ""
            if not token:
                return found
            if not isinstance(token, str) or token in seen:
                break
            seen.add(token)
        raise Temporary(
            "gemini, list batches: the answer is not a list, or the list does not end.", do="The next tick tries again."
        )

    def _read(self, path: str, doing: str, **query: str) -> Any:
        parameters = {name: value for name, value in query.items() if value}

        def call() -> Any:
            with _translate_errors(doing):
                response = self._http.get(
                    f"{self._base}/{self._version}/{path}", params=parameters, headers=self._headers
                )
                errors.APIError.raise_for_response(response)
                value = response.json()
                if not isinstance(value, dict):
                    raise TypeError("not a JSON object")
                return value

        return retry_reads(call)

    def download(self, file_id: str, destination: BinaryIO) -> None:
        with _translate_errors("download results"):
            # The annotation requires io.IOBase; the code accepts anything with write().
            self._client.files.download(file=file_id, destination=cast("io.IOBase", destination))

    def cancel(self, remote_id: str) -> None:
        with _translate_errors("cancel a batch"):
            self._client.batches.cancel(name=remote_id)

    def delete_file(self, file_id: str) -> None:
        with _translate_errors("delete an input file"):
            self._client.files.delete(name=file_id)

    def delete_job(self, remote_id: str) -> bool:
        with _translate_errors("delete a finished batch"):
            self._client.batches.delete(name=remote_id)
        return True

    def probe(self, model: str) -> None:
        with _translate_errors("ask the model for one token"):
            self._client.models.generate_content(
                model=model,
                contents="Say yes.",
                config={"max_output_tokens": 1, "automatic_function_calling": {"disable": True}},
            )


class _MimeRefused(Exception):
    """The service does not accept the MIME type of this file."""


def _is_mime_refusal(error: Exception) -> bool:
    """Return whether an error is a 400 that names the type, or the KeyError of the SDK on a 200 with an error body"""
    return "mime" in str(error).lower() or (isinstance(error, KeyError) and "file" in error.args)


def _finds_no_api(error: Any) -> bool:
    """Return whether an error is a 404 to the start of an upload. Later calls have an upload id, which may
    have expired.
    """
    return (
        isinstance(error, errors.APIError)
        and error.code == httpx2.codes.NOT_FOUND
        and "upload_id" not in cast("httpx2.Response", error.response).request.url.params
    )


def _file_state(file: Any) -> str:
    state = getattr(file, "state", None)
    word = str(getattr(state, "value", state) or "ACTIVE")
    if word == "FAILED":
        raise FileFailed("gemini could not process the uploaded file")
    return word


def _http_failure(doing: str, error: Any) -> HttpFailure:
    headers = {name.lower(): value for name, value in getattr(error.response, "headers", {}).items()}
    message = f"{error.message or ''} {error.status or ''} {one_line(error.details) if error.message is None else ''}"
    if "API_KEY_INVALID" in str(error.details):
        message += " API_KEY_INVALID"
    if "file_storage" in str(error.details):
        message += " file_storage_bytes"
    message += "".join(f" {quota}" for quota in _quotas(error.details) if quota not in message)
    wish = parse_retry_after(headers)
    return HttpFailure(
        NAME, doing, int(error.code), redact(message.strip()), _retry_delay(error.details) if wish is None else wish
    )


def _details(body: Any) -> Iterator[dict[str, Any]]:
    """Return the details of Google's error object: RetryInfo, QuotaFailure, ..."""
    found = dict_or_empty(dict_or_empty(body).get("error")).get("details")
    for detail in found if isinstance(found, list) else ():
        yield dict_or_empty(detail)


def _quotas(body: Any) -> Iterator[str]:
    """Return the ids of the quotas in a google.rpc.QuotaFailure."""
    for detail in _details(body):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if quota := text_or_empty(dict_or_empty(violation).get("quotaId")):
                yield f"quotaId: {quota}"


def _retry_delay(body: Any) -> float | None:
    """Return the delay of a google.rpc.RetryInfo ("34s"), in seconds."""
    for detail in _details(body):
        number = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay")))
        if number:
            return float(number[1])
    return None


@contextmanager
def _translate_errors(doing: str) -> Iterator[None]:
    """Turn every exception that a call can raise (SDK, httpx2, parsing) into one of ours."""
    try:
        yield
    except (BatchgenError, CreateRefused, JobNotFound, ModelGone, _MimeRefused):
        raise
    except errors.APIError as error:
        raise error_from_response(_http_failure(doing, error)) from None
    except httpx2.HTTPError as error:
        raise connection_error(NAME, doing, error) from None
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the SDK makes of a 200 that is no answer, of null or a page
        raise unreadable_response_error(NAME, doing, error) from None
