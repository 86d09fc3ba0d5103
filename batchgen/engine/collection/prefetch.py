"""The next ended batches are looked at and downloaded while one is booked.

Only what the network does goes on beside the booking, and only its waiting is saved: what was fetched ahead is handed
out at the very call that would have fetched it, and so is what went wrong. Nothing is fetched ahead of a batch before
one has come back whole, so a provider in trouble is hardly asked more often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batchgen.providers.base import Job, Reader
from batchgen.runtime.concurrency import begin

DEPTH = 4  # batches that may wait in memory beside the one that is booked ...
DEPTH_BYTES = 32_000_000  # ... as long as their request files are no larger together; results are smaller


class Wanted(NamedTuple):
    """A batch to be fetched ahead, and where its output and its errors will lie: what lies there is not fetched.

    `size` is that of its request file, in bytes.
    """

    remote_id: str
    output: Path
    errors: Path
    size: int


class _Fetched(NamedTuple):
    """A job, and the files it names by their id; for each the exception, where it could not be had."""

    job: Job
    files: dict[str, bytes | Exception]


class Ahead:
    """A provider's reads; some have been made already when they are asked for."""

    def __init__(self, remote: Reader, batches: Sequence[Wanted]) -> None:
        """`batches` in the order in which they will be asked for; others may be asked for in between."""
        self._remote, self._batches = remote, batches
        self._under_way: dict[str, Future[_Fetched] | None] = {}  # None: it was handed out
        self._files: dict[str, bytes | Exception] = {}

    def go_on(self, remote_id: str) -> None:
        """The batch `remote_id` has come back whole and will be booked: fetch those behind it."""
        for one in self._behind(remote_id):
            if one.remote_id not in self._under_way:
                call = partial(_fetch, self._remote, one)
                self._under_way[one.remote_id] = begin(call, f"fetching {one.remote_id}")

    def _behind(self, remote_id: str) -> Iterator[Wanted]:
        """As many of the next batches as may lie in memory, the very next one in any case."""
        at = next((at for at, one in enumerate(self._batches) if one.remote_id == remote_id), len(self._batches))
        size = 0
        for one in self._batches[at + 1 : at + 1 + DEPTH]:
            if size and size + one.size > DEPTH_BYTES:
                return
            size += one.size
            yield one

    def get(self, remote_id: str) -> Job:
        self._files = {}  # of the batch before
        under_way = self._under_way.get(remote_id)
        if under_way is None:
            return self._remote.get(remote_id)
        self._under_way[remote_id] = None
        found = under_way.result()
        self._files = found.files
        return found.job

    def download(self, file_id: str, destination: BinaryIO) -> None:
        found = self._files.pop(file_id, None)
        if found is None:
            self._remote.download(file_id, destination)
        elif isinstance(found, Exception):
            raise found
        else:
            destination.write(found)


def _fetch(remote: Reader, wanted: Wanted) -> _Fetched:
    """The calls of one batch."""
    job = remote.get(wanted.remote_id)
    if not job.state.ended:
        return _Fetched(job, {})
    named = ((job.output, wanted.output), (job.errors, wanted.errors))
    return _Fetched(job, {file_id: _body(remote, file_id) for file_id, path in named if file_id and not path.exists()})


def _body(remote: Reader, file_id: str) -> bytes | Exception:
    buffer = BytesIO()
    try:
        remote.download(file_id, buffer)
    except Exception as error:  # noqa: BLE001 - it is raised where the call would have been made
        return error
    return buffer.getvalue()
