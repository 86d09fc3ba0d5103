"""The provider interface: one row of data with pure functions, and a client.

The functions of a row belong to its codec. Only a `ProviderClient` uses the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, Protocol

from batchgen.core.outcomes import Reply
from batchgen.core.prompts import Prompt
from batchgen.core.tokens import TokenFormula


class JobState(StrEnum):
    """The state of a remote job. A word that is not in a provider's table is UNKNOWN, which never means ended."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED)


class Job(NamedTuple):
    """A remote job at one moment.

    `labels` are what a job can be found by without its id: the name of its batch, its input file, or both. `output`
    and `errors` are remote file ids ("" if none), `inline_rows` are result lines inside the job itself, `rows` is the
    number of result rows that the provider reports (None: not reported). `line_errors` are the request lines, from 1,
    because of which the whole job was refused, with the provider's messages.
    """

    remote_id: str
    state: JobState
    raw_state: str
    labels: tuple[str, ...] = ()
    output: str = ""
    errors: str = ""
    inline_rows: tuple[bytes, ...] = ()
    rows: int | None = None
    error: str = ""
    created_at: str = ""
    line_errors: Mapping[int, str] = MappingProxyType({})


class RemoteFile(NamedTuple):
    """An uploaded file; a batch may be created from it when it is `ready`."""

    file_id: str
    ready: bool


class Parameters(NamedTuple):
    """The generation parameters of a request."""

    model: str
    max_output_tokens: int
    temperature: float


class ParsedRequest(NamedTuple):
    """A request line read back.

    Its key, model ("" if the line does not name it), requested JSON fields, messages, and output limit in tokens.
    """

    key: str
    model: str
    fields: tuple[str, ...]
    texts: tuple[str, ...]
    max_output_tokens: int
    echoes: bool = False  # its schema fixes an echo


class ConnectionOptions(NamedTuple):
    """How to reach a provider. `url` None is the provider's own address; the time-out is in seconds.

    `hooks` are called with each HTTP response (of httpx or httpx2) before its body is read; only a rehearsal has any.
    """

    key: str
    url: str | None
    timeout_seconds: float
    api_version: str = ""
    hooks: tuple[Callable[[Any], None], ...] = ()


class ResultReader(Protocol):
    """The calls that collecting a batch needs."""

    def get(self, remote_id: str) -> Job: ...

    def download(self, file_id: str, destination: BinaryIO) -> None: ...


class ProviderClient(Protocol):
    """All calls to a provider. Every failure is a BatchgenError or one of the refusals below."""

    def upload(self, path: Path, size: int) -> RemoteFile: ...

    def file(self, file_id: str) -> RemoteFile: ...

    def inputs(self, name: str) -> list[str]:
        """Return the ids of uploaded files called `name`, for providers where a lost job is found by its input file."""
        ...

    def create(self, *, model: str, file_id: str, name: str) -> str:
        """Make exactly one POST. Returns the new job's id. Raises Ambiguous for anything but a clear answer."""
        ...

    def get(self, remote_id: str) -> Job: ...

    def jobs(self) -> list[Job]:
        """Return every job of this key, from all pages. Raises Temporary if the list is not complete."""
        ...

    def download(self, file_id: str, destination: BinaryIO) -> None: ...

    def cancel(self, remote_id: str) -> None: ...

    def delete_file(self, file_id: str) -> None: ...

    def delete_job(self, remote_id: str) -> bool:
        """Delete an ended job from the provider's list. Returns False if the provider has no such call."""
        ...

    def probe(self, model: str) -> None:
        """Ask for one token. Raises ModelGone if the error response says that `model` is not served."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the provider table. Limits are in bytes of the encoded request file.

    `line` encodes a request. `asked` reads such a line back, once it is decoded as JSON; None for a line of another
    provider. `key` returns the key of a decoded result row, "" if it has none. `reply` reads a result line, given the
    JSON fields that were requested. A result row, even a part of one, contains one of `result_row_markers`; an error
    response in place of a file contains none.
    """

    name: str
    key_variable: str
    url_variable: str
    sdk_variables: tuple[str, ...]  # beginnings of the names that its SDK reads by itself
    max_file_bytes: int
    max_line_bytes: int
    max_file_requests: int
    upload_lifetime_seconds: float
    names_come_back: bool  # a listing shows the name of a job's batch for certain; otherwise its input file is needed
    sdk: str  # the distribution that makes the calls
    tokens: TokenFormula
    line: Callable[[str, Prompt, Parameters], bytes]
    asked: Callable[[Mapping[str, Any]], ParsedRequest | None]
    key: Callable[[Mapping[str, Any]], str]
    result_row_markers: tuple[bytes, ...]
    reply: Callable[[bytes, Sequence[str]], Reply]
    evidence: str = ""  # what its facts were taken from, if no run of this program has shown them yet
    echoes: bool = False  # `line` writes the echo of a prompt into the schema of the reply

    def is_foreign(self, variable: str) -> bool:
        """Return whether the SDK, but not this program, reads an environment variable."""
        return variable.startswith(self.sdk_variables) and variable not in {self.key_variable, self.url_variable}


class JobNotFound(Exception):
    """The provider answered 404 to a call for one job."""


class ModelGone(Exception):
    """The provider's error response says that it does not serve this model."""


class CreateRefused(Exception):
    """An explicit error response to a create call: no job was created."""


class FileGone(CreateRefused):
    """The input file no longer exists: it must be uploaded again."""


class FileFailed(CreateRefused):
    """The provider could not process the input file. This may be temporary: it is uploaded again a few times."""


class LinesRefused(CreateRefused):
    """An error response because of single lines; `lines` maps the line number (from 1) to the provider's message."""

    def __init__(self, message: str, lines: Mapping[int, str]) -> None:
        super().__init__(message)
        self.lines = lines


REFUSALS = (JobNotFound, ModelGone, CreateRefused)  # what a call may raise besides a BatchgenError
