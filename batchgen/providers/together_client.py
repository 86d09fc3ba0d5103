"""Together AI: the calls, through the together SDK.

Imported only by the command that talks to Together. Facts come from the SDK's source (together 3.1.1); RUN marks what
was observed against a local server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import together

from batchgen.core.errors import Ambiguous, BatchgenError, Temporary
from batchgen.core.text import short
from batchgen.providers.base import Access, CreateRefused, Job, JobMissing, ModelGone, RemoteFile
from batchgen.providers.http_errors import (
    Refusal,
    believing_the_second,
    meaning,
    meaning_of_create,
    no_api,
    patiently,
    retry_after,
    setting_up,
    tls_context,
    unreachable,
    unreadable,
    without_version,
)
from batchgen.providers.read_deadline import whole_within
from batchgen.providers.together_codec import NAME, PROVIDER, job
from batchgen.runtime.logging_setup import redacted

ENDPOINT: Final = "/v1/chat/completions"
WINDOW = "24h"  # the only one there is
API_URL = "https://api.together.ai"
LISTING = {"object", "data", "first_id", "last_id"}  # what a list in one piece holds; any other value may mean more
UPLOADING = "upload a request file"


class TogetherRemote:
    """The calls, with the SDK's own retries off: by default it repeats a create up to three times (RUN)."""

    def __init__(self, access: Access) -> None:
        self._base = without_version(access.url or API_URL)
        with setting_up(NAME, self._base):
            self._http = together.DefaultHttpxClient(
                verify=tls_context(),
                timeout=access.timeout_seconds,
                event_hooks={"response": [whole_within(httpx, access.timeout_seconds)]},
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
        """Upload a request file, once more from the start where it is refused.

        When somebody in between swallows the bytes with a 200, it is the last of the three calls that fails.
        """

        def call() -> RemoteFile:
            with _calling(UPLOADING):
                file = self._upload(path)
            if not file.id or file.bytes not in (None, size):
                raise Temporary(
                    "together, upload a request file: what arrived is not what was sent.",
                    do="The next tick tries again.",
                )
            return _checked(file)

        return believing_the_second(lambda: patiently(call))

    def _upload(self, path: Path) -> Any:
        try:
            # The SDK's check reads the file twice more; what it looks for holds by construction.
            return self._client.files.upload(file=str(path), purpose="batch-api", check=False)
        except together.APIStatusError as error:
            # Later calls go to another address, or carry the file's id.
            begins = error.response.request.url.path.endswith("/files")
            if begins and error.status_code == httpx.codes.NOT_FOUND:
                raise no_api(_refusal(UPLOADING, error), self._base, PROVIDER.url_variable) from None
            raise

    def file(self, file_id: str) -> RemoteFile:
        def call() -> RemoteFile:
            with _calling("look at an uploaded file"):
                return _checked(self._client.files.retrieve(file_id))

        return patiently(call)

    def inputs(self, name: str) -> list[str]:
        def call() -> list[str]:
            with _calling("list uploaded files"):
                return [file.id for file in self._client.files.list().data or [] if file.filename == name and file.id]

        return patiently(call)

    def create(self, *, model: str, file_id: str, name: str) -> str:
        """One POST; anything but a clear answer is Ambiguous. `model` and `name` have no place in this call."""
        del model, name
        try:
            answer: Any = self._client.batches.create(
                endpoint=ENDPOINT, input_file_id=file_id, completion_window=WINDOW
            )
        except together.APIStatusError as error:
            raise meaning_of_create(_refusal("create a batch", error)) from None
        except together.APIConnectionError as error:
            if isinstance(error.__cause__, (httpx.ConnectError, httpx.ConnectTimeout)):
                raise unreachable(NAME, "create a batch", error) from None  # never sent: nothing can have been bought
            raise Ambiguous(f"together, create a batch: no clear answer ({type(error).__name__}).") from None
        except Exception as error:  # noqa: BLE001 - whatever it was, the job may exist
            raise Ambiguous(f"together, create a batch: no clear answer ({type(error).__name__}).") from None
        created = getattr(answer, "job", None)
        if created is None and getattr(answer, "input_file_id", None) == file_id:
            created = answer  # the job itself, as every other call answers
        if created is None or not getattr(created, "id", None):
            warning = short(redacted(str(getattr(answer, "warning", None) or "")))
            raise Ambiguous(f"together, create a batch: an answer without a job. {warning}".rstrip())
        return str(created.id)

    def get(self, remote_id: str) -> Job:
        def call() -> Job:
            with _calling("look at a batch"):
                found = _job(self._client.batches.retrieve(remote_id))
                if not found.remote_id:
                    raise TypeError("no batch")
                return found

        return patiently(call)

    def jobs(self) -> list[Job]:
        def call() -> list[Job]:
            with _calling("list batches"):
                return _whole_list(self._client.batches.list())

        return patiently(call)

    def download(self, file_id: str, destination: BinaryIO) -> None:
        with (
            _calling("download results"),
            self._client.files.with_streaming_response.content(file_id) as response,
        ):
            destination.writelines(response.iter_bytes())

    def cancel(self, remote_id: str) -> None:
        with _calling("cancel a batch"):
            try:
                self._client.batches.cancel(remote_id)
            except together.ConflictError:
                return  # it has ended already

    def delete_file(self, file_id: str) -> None:
        with _calling("delete an input file"):
            self._client.files.delete(file_id)

    def delete_job(self, remote_id: str) -> bool:  # noqa: ARG002 - the API has no call for it
        return False

    def probe(self, model: str) -> None:
        with _calling("ask the model for one token"):
            self._client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Say yes."}], max_tokens=1
            )


def _checked(file: Any) -> RemoteFile:
    """Together needs no wait for processing, but says when it has refused a file."""
    status = str(getattr(file, "processing_status", None) or "")
    if status in ("INVALID_FORMAT", "FAILED"):
        raise CreateRefused(f"together refused the uploaded file: {status}")
    return RemoteFile(str(file.id), ready=True)


def _job(row: Any) -> Job:
    return job(row.to_dict() if hasattr(row, "to_dict") else row)


def _whole_list(answer: Any) -> list[Job]:
    """Every job of a listing. Raises TypeError for anything but a whole list of batches; null is an empty one."""
    if isinstance(answer, dict) and isinstance(answer.get("data"), list):  # as others with this protocol list them
        if any(value for name, value in answer.items() if name not in LISTING):
            raise TypeError("there may be more pages")
        answer = answer["data"]
    if answer is not None and not isinstance(answer, list):
        raise TypeError("no list")
    jobs = [_job(row) for row in answer or []]
    if not all(found.remote_id for found in jobs):
        raise TypeError("a row is no batch")
    return jobs


def _refusal(doing: str, error: together.APIStatusError) -> Refusal:
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    message = redacted(_message(error.body) or error.message)
    return Refusal(NAME, doing, error.status_code, message, retry_after(headers))


def _message(body: Any) -> str:
    """The words of an error body: batches answer {"error": text}, files {"error": {"message": ...}}."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return f"{error.get('message') or ''} {error.get('code') or ''}".strip() or str(error)
    return str(error or "")


@contextmanager
def _calling(doing: str) -> Iterator[None]:
    """Every exception that a call can leak (SDK, raw httpx from the PUT and from streams, parsing) as one of ours."""
    try:
        yield
    except (BatchgenError, CreateRefused, JobMissing, ModelGone):
        raise
    except together.APIStatusError as error:
        raise meaning(_refusal(doing, error)) from None
    except (together.APIConnectionError, httpx.HTTPError) as error:
        raise unreachable(NAME, doing, error) from None
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the SDK makes of a 200 that is no answer, of null or a page
        raise unreadable(NAME, doing, error) from None
