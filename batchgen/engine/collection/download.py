"""Result files: from the provider to the disk, whole or not at all.

Silent truncation, and pages and errors of proxies with status 200 are real. So a download is believed only when it
answers every request; or else when it answers some, has as many lines as the provider has counted, does not end within
a line, and comes back twice the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import orjson

from batchgen.core.errors import NotReady
from batchgen.core.jsonl import as_object, read_lines
from batchgen.engine.session import Session
from batchgen.ledger.rows import Batch
from batchgen.providers import provider as provider_row
from batchgen.providers.base import REFUSALS, Job, JobMissing, JobState, Provider, Reader
from batchgen.providers.http_errors import patiently
from batchgen.runtime.failpoints import crashpoint
from batchgen.runtime.files import replacing

DOWNLOADS = 4  # of one file in one tick, before it is left to the next
SHORT_LOOKS = 2  # ticks in which a file is taken for a cut one that has too few lines or ends within one


class ShortResults(NotReady):
    """What was downloaded is a part of a result file, as far as can be told: the only look that counts as short."""


def fetch(  # noqa: PLR0913 - a batch, its job, and how far both are believed
    session: Session,
    remote: Reader,
    batch: Batch,
    job: Job,
    keys: Mapping[str, int],
    *,
    strict: bool,
    some: bool = False,
) -> bytes:
    """The raw result lines of an ended job: output file, error file and what came inline, each kept on disk.

    A file that lies on disk is whole and is not fetched again, but for an empty one: re-reading must never need the
    network. Raises NotReady when a file that the job names cannot be had yet, or is no result file; ShortResults when
    it (if `strict`) answers nothing or has fewer lines than the provider says there are, or than a success must have
    where it says nothing, or (if there must be `some`) has none, or (if `strict`) ends within a line.
    """
    output, errors = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    wanted = {output: job.output, errors: job.errors}
    if job.inline and not job.output and not _holds_something(output):
        _keep(output, b"".join(line + b"\n" for line in job.inline))
    on_disk = [path.read_bytes() for path in wanted if path.exists()]
    missing = {path: file_id for path, file_id in wanted.items() if file_id and not _holds_something(path)}
    counted = job.rows or (len(keys) if job.state is JobState.SUCCEEDED else 0) or 1
    lines = counted if strict else int(some)
    due = _Wanted(provider_row(batch.provider), frozenset(keys), lines, on_disk, strict)
    bodies = _believable(remote, list(missing.values()), due)
    for path, body in zip(missing, bodies, strict=True):
        if body is not None:
            _keep(path, body)
    return b"\n".join([*on_disk, *filter(None, bodies)])


def salvage(session: Session, remote: Reader, batch: Batch, job: Job | None) -> bytes:
    """What there is of a job that is given up (None: it is gone): files on disk, and those that can be had and hold
    result rows. They are kept on disk. b"" when there is nothing.
    """
    output, errors = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    wanted = _Wanted(provider_row(batch.provider), frozenset(), 0, [], strict=True)
    for path, file_id in ((output, job.output), (errors, job.errors)) if job else ():
        body = None if _holds_something(path) or not file_id else _had(remote, file_id)
        if isinstance(body, bytes) and next(_answers([body], wanted), None) is not None:
            _keep(path, body)
    return b"\n".join(path.read_bytes() for path in (output, errors) if path.exists())


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _keep(path: Path, raw: bytes) -> None:
    with replacing(path) as stream:
        stream.write(raw[: len(raw) // 2])
        crashpoint("result_half_written")
        stream.write(raw[len(raw) // 2 :])
    crashpoint("result_file_written")


class _Wanted(NamedTuple):
    """What files must hold to be believed: these keys, or so many lines; `on_disk` is there already."""

    provider: Provider
    keys: frozenset[str]
    lines: int
    on_disk: list[bytes]
    strict: bool


def _believable(remote: Reader, file_ids: list[str], wanted: _Wanted) -> Sequence[bytes | None]:
    """The files' bytes, once they are believable: all of the wanted keys, or twice the same and long enough.

    None for a file that cannot be had while the others answer every key: nothing is missing but that file.
    """
    if not file_ids:
        return []
    before: list[bytes] = []
    for _ in range(DOWNLOADS):
        had = [_had(remote, file_id) for file_id in file_ids]
        bodies = [body for body in had if isinstance(body, bytes)]
        if refused := [error for error in had if isinstance(error, Exception)]:
            if _answered([*wanted.on_disk, *bodies], wanted):
                return [body if isinstance(body, bytes) else None for body in had]
            raise refused[0]
        if not all(_looks_like_results(body, wanted) for body in bodies):
            before = []
            continue
        every = [*wanted.on_disk, *bodies]
        if _answered(every, wanted):
            return bodies
        if bodies == before:
            if flaw := _shortness(every, bodies, wanted):
                raise ShortResults(f"the results {', '.join(file_ids)} {flaw}.")
            return bodies
        before = bodies
    flaw = "come back different at every download" if before else "are no JSON lines"
    raise NotReady(f"the results {', '.join(file_ids)} {flaw}.")


def _shortness(every: Sequence[bytes], bodies: Sequence[bytes], wanted: _Wanted) -> str:
    """Why `bodies`, which came twice the same, seem to be parts of files; "" where they do not. `every` adds to them
    what is on disk.
    """
    found = sum(len(read_lines(body)) for body in every)
    if found < wanted.lines:
        return f"have {found} lines, {wanted.lines} or more are due"
    if wanted.strict and any(_is_broken(body, wanted) for body in bodies):
        return "are no JSON lines"
    if wanted.strict and any(_torn(body) for body in bodies):
        return "end within a line: a part is missing"
    return ""


def _had(remote: Reader, file_id: str) -> bytes | Exception:
    """The file's bytes, or why the provider does not give it."""
    try:
        return _once(remote, file_id)
    except (NotReady, *REFUSALS) as error:
        return error


def _once(remote: Reader, file_id: str) -> bytes:
    def call() -> bytes:
        buffer = BytesIO()
        remote.download(file_id, buffer)
        return buffer.getvalue()

    try:
        return patiently(call)
    except JobMissing as error:
        raise NotReady(f"the result file {file_id} is not there ({error}).") from None


def _torn(raw: bytes) -> bool:
    """Whether a body ends within a line, as it does when a connection of no declared length was closed too early."""
    last = raw[raw.rfind(b"\n") + 1 :].strip()
    try:
        orjson.loads(last or b"{}")
    except orjson.JSONDecodeError:
        return True
    return False


def _looks_like_results(raw: bytes, wanted: _Wanted) -> bool:
    """Whether a body is a result file: some line answers a key, or it is a broken one. A page or an error of somebody
    in between is neither, however often it comes; an empty file is a result too.
    """
    return not _start(raw) or next(_answers([raw], wanted), None) is not None or _is_broken(raw, wanted)


def _is_broken(raw: bytes, wanted: _Wanted) -> bool:
    """Whether a body answers no key, but starts as a JSON object does and holds a row that is torn or lost its key."""
    rows = _start(raw) == b"{" and any(mark in raw for mark in wanted.provider.row_marks)
    return rows and next(_answers([raw], wanted), None) is None


def _start(raw: bytes) -> bytes:
    """The first byte of a body that is no white space, b"" for an empty one."""
    return raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _answered(bodies: Sequence[bytes], wanted: _Wanted) -> bool:
    return bool(wanted.keys) and wanted.keys <= set(_answers(bodies, wanted))


def _answers(bodies: Sequence[bytes], wanted: _Wanted) -> Iterator[str]:
    """The keys that whole lines of result files answer."""
    for body in bodies:
        for line in read_lines(body):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if key := wanted.provider.key(as_object(row)):
                yield key
