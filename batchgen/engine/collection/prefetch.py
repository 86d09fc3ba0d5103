"""Poll and download the next batches while one is settled.

Only network calls run in threads. A result fetched in advance is returned by the call that would have fetched it, and
an error is raised there. Nothing is fetched in advance until one batch came back complete, so that a provider that
fails gets few additional calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from io import BytesIO
from typing import BinaryIO, NamedTuple

from batchgen.providers.base import Job, ResultReader
from batchgen.runtime.concurrency import start_thread

MAX_PREFETCHED = 4  # batches that may wait in memory beside the one that is settled ...
MAX_PREFETCHED_BYTES = 32_000_000  # ... as long as their request files are no larger together; results are smaller


class _PrefetchedBatch(NamedTuple):
    """A job and its files by id. A file whose download failed is the exception."""

    job: Job
    files: dict[str, bytes | Exception]


class Prefetch:
    """Reads jobs and result files from a provider, some of them in advance."""

    def __init__(self, remote: ResultReader, sizes: Mapping[str, int]) -> None:
        """Wrap `remote`. `sizes` maps job ids to the sizes of their request files in bytes, in polling order.

        Other jobs may be polled in between.
        """
        self._remote, self._sizes = remote, sizes
        self._under_way: dict[str, Future[_PrefetchedBatch] | None] = {}  # None: `get` has returned it
        self._files: dict[str, bytes | Exception] = {}

    def start_after(self, remote_id: str) -> None:
        """Start to fetch the batches after `remote_id`, which came back complete and is settled next."""
        for following in self._following(remote_id):
            if following not in self._under_way:
                call = partial(_fetch, self._remote, following)
                self._under_way[following] = start_thread(call, f"fetching {following}")

    def _following(self, remote_id: str) -> Iterator[str]:
        """Yield the next jobs whose files may be in memory together, at least one if there is one."""
        order, size = list(self._sizes), 0
        at = order.index(remote_id) + 1 if remote_id in self._sizes else len(order)
        for following in order[at : at + MAX_PREFETCHED]:
            if size and size + self._sizes[following] > MAX_PREFETCHED_BYTES:
                return
            size += self._sizes[following]
            yield following

    def get(self, remote_id: str) -> Job:
        self._files = {}  # forget those of the batch before
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


def _fetch(remote: ResultReader, remote_id: str) -> _PrefetchedBatch:
    """Fetch the job of one batch and, if it has ended, its files."""
    job = remote.get(remote_id)
    named = filter(None, (job.output, job.errors)) if job.state.ended else ()
    return _PrefetchedBatch(job, {file_id: _try_download(remote, file_id) for file_id in named})


def _try_download(remote: ResultReader, file_id: str) -> bytes | Exception:
    buffer = BytesIO()
    try:
        remote.download(file_id, buffer)
    except Exception as error:  # noqa: BLE001 - it is raised where the call would have been made
        return error
    return buffer.getvalue()
