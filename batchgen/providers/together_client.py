"""Together AI: the calls, with the together SDK.

Imported only by commands that use Together. Facts come from the source of the SDK (together 3.1.1); RUN marks what was
observed against a local server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import together

from batchgen.core.errors import Ambiguous, BatchgenError, Temporary
from batchgen.core.text import one_line
from batchgen.providers.base import ConnectionOptions, CreateRefused, Job, JobNotFound, ModelGone, RemoteFile
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
from batchgen.providers.together_codec import NAME, PROVIDER, parse_job
from batchgen.runtime.logging_setup import redact

ENDPOINT: Final = "/v1/chat/completions"
COMPLETION_WINDOW = "24h"  # the only one there is
API_URL = "https://api.together.ai"
LISTING = {"object", "data", "first_id", "last_id"}  # fields of a complete list; any other value may mean more pages
UPLOADING = "upload a request file"


class TogetherClient:
    """The calls, with the SDK's own retries off: by default it repeats a create call up to three times (RUN)."""

    def __init__(self, access: ConnectionOptions) -> None:
        self._base = strip_version(access.url or API_URL)
        with translate_setup_errors(NAME, self._base):
            self._http = together.DefaultHttpxClient(
                verify=tls_context(),
                timeout=access.timeout_seconds,
                event_hooks={"response": [response_deadline(httpx, access.timeout_seconds), *access.hooks]},
            )
            self._client = together.Together(
                api_key=access.key,
                base_url=self._base,
                timeout=access.timeout_seconds,
                max_retries=0,
                http_client=self._http,
            )

    def close(self) -> None:
        self._http.close()

    def upload(self, path: Path, size: int) -> RemoteFile:
        """Upload a request file; start once more from the beginning if it is refused.

        If a proxy drops the bytes and answers 200, the last of the three calls fails.
        """

        def call() -> RemoteFile:
            with _translate_errors(UPLOADING):
                file = self._upload(path)
            if not file.id or file.bytes not in (None, size):
                raise Temporary(
                    "together, upload a request file: the stored file differs from the one that was sent.",
                    do="The next tick tries again.",
                )
            return _to_remote_file(file)

        return retry_once_if_refused(lambda: retry_reads(call))

    def _upload(self, path: Path) -> Any:
        try:
            # Without the SDK's check, which would read the file twice more: our files always pass it.
            return self._client.files.upload(file=str(path), purpose="batch-api", check=False)
        except together.APIStatusError as error:
            # Later calls go to another address, or have the file's id.
            begins = error.response.request.url.path.endswith("/files")
            if begins and error.status_code == httpx.codes.NOT_FOUND:
                raise no_api_error(_http_failure(UPLOADING, error), self._base, PROVIDER.url_variable) from None
            raise

    def file(self, file_id: str) -> RemoteFile:
        def call() -> RemoteFile:
            with _translate_errors("look at an uploaded file"):
                return _to_remote_file(self._client.files.retrieve(file_id))

        return retry_reads(call)

    def inputs(self, name: str) -> list[str]:
        def call() -> list[str]:
            with _translate_errors("list uploaded files"):
                return [file.id for file in self._client.files.list().data or [] if file.filename == name and file.id]

        return retry_reads(call)

    def create(self, *, model: str, file_id: str, name: str) -> str:
        """Make one POST. Anything but a clear answer is Ambiguous. This call has no field for `model` and `name`."""
        del model, name
        try:
            answer: Any = self._client.batches.create(
                endpoint=ENDPOINT, input_file_id=file_id, completion_window=COMPLETION_WINDOW
            )
        except together.APIStatusError as error:
            raise error_from_create_response(_http_failure("create a batch", error)) from None
        except together.APIConnectionError as error:
            if isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout)):
                raise connection_error(NAME, "create a batch", error) from None  # never sent: no job was created
            raise Ambiguous(f"together, create a batch: no clear answer ({type(error).__name__}).") from None
        except Exception as error:  # noqa: BLE001 - whatever it was, the job may exist
            raise Ambiguous(f"together, create a batch: no clear answer ({type(error).__name__}).") from None
        created = getattr(answer, "job", None)
        if created is None and getattr(answer, "input_file_id", None) == file_id:
            created = answer  # the job itself, as in the answers to other calls
        if created is None or not getattr(created, "id", None):
            warning = one_line(redact(str(getattr(answer, "warning", None) or "")))
            raise Ambiguous(f"together, create a batch: the answer has no job. {warning}".rstrip())
        return str(created.id)

    def get(self, remote_id: str) -> Job:
        def call() -> Job:
            with _translate_errors("look at a batch"):
                found = _to_job(self._client.batches.retrieve(remote_id))
                if not found.remote_id:
                    raise TypeError("not a batch")
                return found

        return retry_reads(call)

    def jobs(self) -> list[Job]:
        def call() -> list[Job]:
            with _translate_errors("list batches"):
                return _whole_list(self._client.batches.list())

        return retry_reads(call)

    def download(self, file_id: str, destination: BinaryIO) -> None:
        with (
            _translate_errors("download results"),
            self._client.files.with_streaming_response.content(file_id) as response,
        ):
            destination.writelines(response.iter_bytes())

    def cancel(self, remote_id: str) -> None:
        with _translate_errors("cancel a batch"):
            try:
                self._client.batches.cancel(remote_id)
            except together.ConflictError:
                return  # it has ended already

    def delete_file(self, file_id: str) -> None:
        with _translate_errors("delete an input file"):
            self._client.files.delete(file_id)

    def delete_job(self, remote_id: str) -> bool:  # noqa: ARG002 - the API has no call for it
        return False

    def probe(self, model: str) -> None:
        with _translate_errors("ask the model for one token"):
            self._client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Say yes."}], max_tokens=1
            )


def _to_remote_file(file: Any) -> RemoteFile:
    """Return the uploaded file. Together needs no processing time, but says when it has refused a file."""
    status = str(getattr(file, "processing_status", None) or "")
    if status in ("INVALID_FORMAT", "FAILED"):
        raise CreateRefused(f"together refused the uploaded file: {status}")
    return RemoteFile(str(file.id), ready=True)


def _to_job(row: Any) -> Job:
    return parse_job(row.to_dict() if hasattr(row, "to_dict") else row)


def _whole_list(answer: Any) -> list[Job]:
    """Return every job of a listing; null is an empty list. Raises TypeError for anything but a complete list."""
    if isinstance(answer, dict) and isinstance(
        answer.get("data"), list
    ):  # as other services with this protocol list jobs
        if any(value for name, value in answer.items() if name not in LISTING):
            raise TypeError("there may be more pages")
        answer = answer["data"]
    if answer is not None and not isinstance(answer, list):
        raise TypeError("not a list")
    jobs = [_to_job(row) for row in answer or []]
    if not all(found.remote_id for found in jobs):
        raise TypeError("a row is not a batch")
    return jobs


def _http_failure(doing: str, error: together.APIStatusError) -> HttpFailure:
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    message = redact(_error_message(error.body) or error.message)
    return HttpFailure(NAME, doing, error.status_code, message, parse_retry_after(headers))


def _error_message(body: Any) -> str:
    """Return the message of an error body: batches answer {"error": text}, files {"error": {"message": ...}}."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return f"{error.get('message') or ''} {error.get('code') or ''}".strip() or str(error)
    return str(error or "")


@contextmanager
def _translate_errors(doing: str) -> Iterator[None]:
    """Turn every exception that a call can raise (SDK, raw httpx, parsing) into one of ours."""
    try:
        yield
    except (BatchgenError, CreateRefused, JobNotFound, ModelGone):
        raise
    except together.APIStatusError as error:
        raise error_from_response(_http_failure(doing, error)) from None
    except (together.APIConnectionError, httpx.HTTPError) as error:
        raise connection_error(NAME, doing, error) from None
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the SDK makes of a 200 that is no answer, of null or a page
        raise unreadable_response_error(NAME, doing, error) from None
