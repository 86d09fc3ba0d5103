"""Download result files from the provider to the disk, complete or not at all.

Providers and proxies sometimes send a part of a file, or an error page with HTTP status 200. A download is accepted if
it answers every request. Otherwise it must answer some requests, have as many lines as the provider reports, end with a
line feed, and be the same in two downloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import orjson

from batchgen.core.errors import NotReady
from batchgen.core.jsonl import dict_or_empty, split_lines
from batchgen.engine.session import Session
from batchgen.ledger.rows import Batch
from batchgen.providers import find_provider
from batchgen.providers.base import REFUSALS, Job, JobNotFound, JobState, Provider, ResultReader
from batchgen.providers.http_errors import retry_reads
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import atomic_write

DOWNLOADS_PER_TICK = 4  # of one file; the next tick tries again
MAX_INCOMPLETE_DOWNLOADS = 2  # ticks that reject a file with too few lines or a cut last line, however far apart


class _Incomplete(NotReady):
    """A download seems to be only a part of a result file."""


def download_results(session: Session, remote: ResultReader, batch: Batch, job: Job, keys: Mapping[str, int]) -> bytes:
    """Return the raw result lines of an ended job (output file, error file, inline results), and write each to disk.

    A file on disk is complete and is not downloaded again, unless it is empty: reading results a second time must not
    need the network. Raises NotReady if a file that the job names is not available yet, is not a result file, or seems
    to be only a part of one. Incomplete downloads are counted in the ledger; such a file is accepted after
    MAX_INCOMPLETE_DOWNLOADS downloads and the grace period.
    """
    output, errors = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    wanted = {output: job.output, errors: job.errors}
    if job.inline_rows and not job.output and not _holds_something(output):
        _write_result_file(output, b"".join(line + b"\n" for line in job.inline_rows))
    on_disk = [path.read_bytes() for path in wanted if path.exists()]
    missing = {path: file_id for path, file_id in wanted.items() if file_id and not _holds_something(path)}
    lines = _least_lines(session, batch, job, len(keys))
    expected = _Expected(find_provider(batch.provider), frozenset(keys), on_disk, lines)
    try:
        bodies = _download_until_trusted(remote, list(missing.values()), expected) if missing else []
    except _Incomplete:
        looks = min(batch.counters.incomplete_downloads + 1, MAX_INCOMPLETE_DOWNLOADS)
        session.store.update(batch, incomplete_downloads=looks)
        raise
    for path, body in zip(missing, bodies, strict=True):
        if body is not None:
            _write_result_file(path, body)
    return b"\n".join([*on_disk, *filter(None, bodies)])


def _least_lines(session: Session, batch: Batch, job: Job, requests: int) -> int:
    """Return how many lines the files of a job must have at least.

    This is the number that the provider reports; without one, all `requests` for a successful job, 1 for another. It is
    0 after MAX_INCOMPLETE_DOWNLOADS incomplete downloads over at least the grace period: the missing lines will not
    come. The number of downloads alone is not enough, because with `--wait` they follow each other within seconds and a
    fault may last minutes.
    """
    now = session.now()
    early = now - (batch.job.ended_at or now) < session.settings.batches.reconcile_grace_seconds
    if early or batch.counters.incomplete_downloads < MAX_INCOMPLETE_DOWNLOADS:
        return job.rows or (requests if job.state is JobState.SUCCEEDED else 0) or 1
    return 0


def salvage(session: Session, remote: ResultReader, batch: Batch, job: Job | None) -> bytes:
    """Return the results that exist of a job that is given up (None: the job is gone), b"" if there are none.

    Takes the files on disk, and those that can still be downloaded and have result rows; writes these to disk.
    """
    output, errors = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    provider = find_provider(batch.provider)
    for path, file_id in ((output, job.output), (errors, job.errors)) if job else ():
        body = None if _holds_something(path) or not file_id else _download(remote, file_id)
        if isinstance(body, bytes) and any(_answered_keys(provider, [body])):
            _write_result_file(path, body)
    return b"\n".join(path.read_bytes() for path in (output, errors) if path.exists())


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _write_result_file(path: Path, raw: bytes) -> None:
    with atomic_write(path) as stream:
        stream.write(raw[: len(raw) // 2])
        failpoint("result_half_written")
        stream.write(raw[len(raw) // 2 :])
    failpoint("result_file_written")


def _download(remote: ResultReader, file_id: str) -> bytes | Exception:
    """Return the bytes of a file, or the error with which the provider refuses it."""

    def call() -> bytes:
        buffer = BytesIO()
        remote.download(file_id, buffer)
        return buffer.getvalue()

    try:
        return retry_reads(call)
    except JobNotFound as error:
        return NotReady(f"the result file {file_id} does not exist ({error}).")
    except (NotReady, *REFUSALS) as error:
        return error


class _Expected(NamedTuple):
    """What the files of a job must have, together with the files `on_disk`.

    They must answer each of `keys`, or else have `least_lines` lines; if it is 0, parts of files are accepted, too.
    """

    provider: Provider
    keys: frozenset[str]
    on_disk: list[bytes]
    least_lines: int

    def complete(self, bodies: Sequence[bytes]) -> bool:
        """Return whether every key is answered."""
        return bool(self.keys) and self.keys <= set(_answered_keys(self.provider, [*self.on_disk, *bodies]))

    def flaw(self, bodies: Sequence[bytes]) -> str:
        """Return why `bodies` seem to be parts of files, "" if they do not. Two downloads brought the same `bodies`."""
        found = sum(len(split_lines(body)) for body in (*self.on_disk, *bodies))
        if found < self.least_lines:
            return f"have {found} lines, but at least {self.least_lines} are expected"
        if self.least_lines and any(_is_broken(self.provider, body) for body in bodies):
            return "are not JSON lines"
        if self.least_lines and any(map(_ends_within_a_line, bodies)):
            return "end within a line: a part is missing"
        return ""


def _download_until_trusted(
    remote: ResultReader, file_ids: Sequence[str], expected: _Expected
) -> Sequence[bytes | None]:
    """Return the bytes of the files once they are complete, or the same in two downloads and without a flaw.

    A file that is not available is None if the others answer every key. Raises NotReady otherwise.
    """
    names, before = ", ".join(file_ids), list[bytes]()
    for _ in range(DOWNLOADS_PER_TICK):
        answers = [_download(remote, file_id) for file_id in file_ids]
        bodies = [answer for answer in answers if isinstance(answer, bytes)]
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        if not refused and not all(_is_result_file(expected.provider, body) for body in bodies):
            before = []
            continue
        if expected.complete(bodies):
            return [answer if isinstance(answer, bytes) else None for answer in answers]
        if refused:
            raise refused[0]
        if bodies == before:
            if flaw := expected.flaw(bodies):
                raise _Incomplete(f"the results {names} {flaw}.")
            return bodies
        before = bodies
    flaw = "are different at every download" if before else "are not JSON lines"
    raise NotReady(f"the results {names} {flaw}.")


def _is_result_file(provider: Provider, raw: bytes) -> bool:
    """Return whether a body is a result file: it answers a key, is empty, or has broken result rows.

    A page or an error message of a proxy is none of these.
    """
    return not _start(raw) or any(_answered_keys(provider, [raw])) or _is_broken(provider, raw)


def _is_broken(provider: Provider, raw: bytes) -> bool:
    """Return whether a body answers no key, but starts like a JSON object and has a row that is cut or has no key."""
    rows = _start(raw) == b"{" and any(mark in raw for mark in provider.result_row_markers)
    return rows and not any(_answered_keys(provider, [raw]))


def _start(raw: bytes) -> bytes:
    """Return the first byte of a body that is not white space, b"" for an empty body."""
    return raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _ends_within_a_line(raw: bytes) -> bool:
    """Return whether the last line has no line feed, as when a connection closes too early."""
    last = raw[raw.rfind(b"\n") + 1 :].strip()
    try:
        orjson.loads(last or b"{}")
    except orjson.JSONDecodeError:
        return True
    return False


def _answered_keys(provider: Provider, bodies: Iterable[bytes]) -> Iterator[str]:
    """Return the keys that complete lines of result files answer."""
    for body in bodies:
        for line in split_lines(body):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if key := provider.key(dict_or_empty(row)):
                yield key
