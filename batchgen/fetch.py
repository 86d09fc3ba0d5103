"""Result files: from the provider to the disk, whole or not at all.

Silent truncation, and pages and errors of proxies with status 200 are real. So a download is believed only when it
answers every request; or else when it answers some, has as many lines as the provider has counted, and comes back twice
the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import orjson

from batchgen.crash import crashpoint
from batchgen.errors import NotReady
from batchgen.files import replacing
from batchgen.providers import provider as provider_row
from batchgen.providers.base import Job, JobMissing, Provider, Reader
from batchgen.providers.reading import as_object, read_lines
from batchgen.providers.transport import patiently
from batchgen.records import Batch
from batchgen.session import Session

DOWNLOADS = 4  # of one file in one tick, before it is left to the next


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

    A file that lies on disk is whole and is not fetched again: re-reading must never need the network. Raises NotReady
    when a file that the job names cannot be had yet, or is no result file, or (if `strict`) answers nothing or has
    fewer lines than the provider says there are, or (if there must be `some`) has none.
    """
    output, errors = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    wanted = {output: job.output, errors: job.errors}
    if job.inline and not job.output and not output.exists():
        _keep(output, b"".join(line + b"\n" for line in job.inline))
    on_disk = [path.read_bytes() for path in wanted if path.exists()]
    missing = {path: file_id for path, file_id in wanted.items() if file_id and not path.exists()}
    lines = (job.rows or 1) if strict else int(some)
    due = _Wanted(provider_row(batch.provider), frozenset(keys), lines, on_disk, strict)
    bodies = _believable(remote, list(missing.values()), due)
    for path, body in zip(missing, bodies, strict=True):
        _keep(path, body)
    return b"\n".join([*on_disk, *bodies])


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


def _believable(remote: Reader, file_ids: list[str], wanted: _Wanted) -> list[bytes]:
    """The files' bytes, once they are believable: all of the wanted keys, or twice the same and long enough."""
    if not file_ids:
        return []
    before: list[bytes] = []
    for _ in range(DOWNLOADS):
        bodies = [_once(remote, file_id) for file_id in file_ids]
        if not all(_looks_like_results(body, wanted) for body in bodies):
            before = []
            continue
        every = [*wanted.on_disk, *bodies]
        if wanted.keys and wanted.keys <= set(_answers(every, wanted)):
            return bodies
        if bodies == before:
            found = sum(len(read_lines(body)) for body in every)
            if found < wanted.lines:
                raise NotReady(f"the results {', '.join(file_ids)} have {found} lines, {wanted.lines} or more are due.")
            return bodies
        before = bodies
    flaw = "come back different at every download" if before else "are no JSON lines"
    raise NotReady(f"the results {', '.join(file_ids)} {flaw}.")


def _once(remote: Reader, file_id: str) -> bytes:
    def call() -> bytes:
        buffer = BytesIO()
        remote.download(file_id, buffer)
        return buffer.getvalue()

    try:
        return patiently(call)
    except JobMissing as error:
        raise NotReady(f"the result file {file_id} is not there ({error}).") from None


def _looks_like_results(raw: bytes, wanted: _Wanted) -> bool:
    """Whether a body is a result file: some line answers a key; or (if not strict) it starts as a JSON object does and
    some row of it is torn or has lost its key. A page or an error of somebody in between does neither, however often it
    comes; an empty file is a result too.
    """
    start = raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if not start or next(_answers([raw], wanted), None) is not None:
        return True
    return start == b"{" and not wanted.strict and any(mark in raw for mark in wanted.provider.row_marks)


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
