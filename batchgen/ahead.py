"""The next ended batches are looked at and downloaded while one is booked.

Only what the network does goes on beside the booking, and only its waiting is saved: what was fetched ahead is handed
out at the very call that would have fetched it, and so is what went wrong. Nothing is fetched ahead of a batch before
one has come back whole, so a provider in trouble is not asked more often. The clients may be used by several threads at
once (httpx and httpx2, `Client`: "It can be shared between threads"; their pools change under a lock), and the SDKs
keep nothing of a read beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import BinaryIO, NamedTuple

from batchgen.providers.base import Job, Reader

DEPTH = 2  # batches that may wait in memory beside the one that is booked


class Wanted(NamedTuple):
    """A batch to be fetched ahead, and where its output and its errors will lie: what lies there is not fetched."""

    remote_id: str
    output: Path
    errors: Path


class Ahead:
    """A provider's reads; some have been made already when they are asked for."""

    def __init__(self, remote: Reader, batches: Sequence[Wanted]) -> None:
        """`batches` in the order in which they will be asked for; others may be asked for in between."""
        self._remote, self._batches = remote, batches
        self._under_way: dict[str, _Fetching] = {}
        self._files: dict[str, bytes | Exception] = {}

    def go_on(self, remote_id: str) -> None:
        """The batch `remote_id` has come back whole and will be booked: fetch those behind it."""
        at = next((at for at, one in enumerate(self._batches) if one.remote_id == remote_id), len(self._batches))
        for one in self._batches[at + 1 : at + 1 + DEPTH]:
            if one.remote_id not in self._under_way:
                self._under_way[one.remote_id] = _Fetching(self._remote, one)
                self._under_way[one.remote_id].start()

    def get(self, remote_id: str) -> Job:
        self._files = {}  # of the batch before
        fetching = self._under_way.get(remote_id)
        if fetching is None:
            return self._remote.get(remote_id)
        fetching.join()
        found, fetching.found = fetching.found, None
        if found is None:
            return self._remote.get(remote_id)
        self._files, fetching.files = fetching.files, {}
        if isinstance(found, Exception):
            raise found
        return found

    def download(self, file_id: str, destination: BinaryIO) -> None:
        found = self._files.pop(file_id, None)
        if found is None:
            self._remote.download(file_id, destination)
        elif isinstance(found, Exception):
            raise found
        else:
            destination.write(found)


class _Fetching(Thread):
    """The calls of one batch. A daemon: Ctrl-C does not wait for what nobody will book."""

    def __init__(self, remote: Reader, wanted: Wanted) -> None:
        super().__init__(name=f"fetching {wanted.remote_id}", daemon=True)
        self._remote, self._wanted = remote, wanted
        self.found: Job | Exception | None = None
        self.files: dict[str, bytes | Exception] = {}

    def run(self) -> None:
        try:
            job = self._remote.get(self._wanted.remote_id)
        except Exception as error:  # noqa: BLE001 - it is raised where the call would have been made
            self.found = error
            return
        if job.state.ended:
            named = ((job.output, self._wanted.output), (job.errors, self._wanted.errors))
            self.files = {file_id: self._body(file_id) for file_id, path in named if file_id and not path.exists()}
        self.found = job

    def _body(self, file_id: str) -> bytes | Exception:
        buffer = BytesIO()
        try:
            self._remote.download(file_id, buffer)
        except Exception as error:  # noqa: BLE001 - likewise
            return error
        return buffer.getvalue()
