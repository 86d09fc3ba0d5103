"""Result files: from the provider to the disk, whole or not at all.

Silent truncation and pages of proxies with status 200 are real, so a download is believed only when it looks like JSON
lines and either answers every request or comes back twice the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import orjson

from batchgen.crash import crashpoint
from batchgen.errors import NotReady
from batchgen.files import replacing
from batchgen.providers.base import Job, JobMissing, Remote
from batchgen.providers.reading import as_object, read_lines
from batchgen.providers.transport import patiently
from batchgen.records import Batch
from batchgen.session import Session

DOWNLOADS = 4  # of one file in one tick, before it is left to the next


def fetch(session: Session, remote: Remote, batch: Batch, job: Job, keys: Mapping[str, int]) -> bytes:
    """The raw result lines of an ended job: output file, error file and what came inline, each kept on disk.

    A file that lies on disk is whole and is not fetched again: re-reading must never need the network. Raises NotReady
    when a file that the job names cannot be had yet, or is no result file.
    """
    output, errors = session.layout.results(batch.step, batch.name), session.layout.errors(batch.step, batch.name)
    wanted = {output: job.output, errors: job.errors}
    if job.inline and not job.output and not output.exists():
        _keep(output, b"".join(line + b"\n" for line in job.inline))
    on_disk = [path.read_bytes() for path in wanted if path.exists()]
    missing = {path: file_id for path, file_id in wanted.items() if file_id and not path.exists()}
    bodies = _believable(remote, list(missing.values()), frozenset(keys), on_disk)
    for path, body in zip(missing, bodies, strict=True):
        _keep(path, body)
    return b"\n".join([*on_disk, *bodies])


def _keep(path: Path, raw: bytes) -> None:
    with replacing(path) as stream:
        stream.write(raw[: len(raw) // 2])
        crashpoint("result_half_written")
        stream.write(raw[len(raw) // 2 :])
    crashpoint("result_file_written")


def _believable(remote: Remote, file_ids: list[str], expected: frozenset[str], on_disk: list[bytes]) -> list[bytes]:
    """The files' bytes, once they are believable: together all of the expected keys, or twice the same."""
    if not file_ids:
        return []
    before: list[bytes] = []
    for _ in range(DOWNLOADS):
        bodies = [_once(remote, file_id) for file_id in file_ids]
        if bodies == before or expected <= answered([*on_disk, *bodies]):
            return bodies
        before = bodies
    raise NotReady(
        f"the results {', '.join(file_ids)} come back different at every download.", do="The next tick tries again."
    )


def _once(remote: Remote, file_id: str) -> bytes:
    def call() -> bytes:
        buffer = BytesIO()
        remote.download(file_id, buffer)
        return buffer.getvalue()

    try:
        raw = patiently(call)
    except JobMissing as error:
        raise NotReady(
            f"the result file {file_id} is not there yet ({error}).", do="The next tick tries again."
        ) from None
    if not looks_like_results(raw):
        raise NotReady(f"the result file {file_id} is no JSON lines.", do="The next tick tries again.")
    return raw


def looks_like_results(raw: bytes) -> bool:
    """Whether the body starts as a JSON object does; an HTML page does not. An empty file is a result too."""
    start = raw.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return start in (b"", b"{")


def answered(bodies: Sequence[bytes]) -> set[str]:
    """The keys that whole lines of result files answer."""
    found = set()
    for body in bodies:
        for line in read_lines(body):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(row, dict):
                found.add(str(row.get("key") or row.get("custom_id") or as_object(row.get("metadata")).get("key")))
    return found
