"""Store the bytes of the service: in memory, or in a directory that survives a restart."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from errno import ENOSPC
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, overload

import orjson


class BlobDigest(NamedTuple):
    """The SHA-256 of written contents, which is also their name, and their size in bytes."""

    sha256: str
    size: int


class Blob(Protocol):
    """Contents that are written piece by piece. They exist only after `finish`."""

    size: int

    def write(self, data: bytes) -> None: ...
    def finish(self) -> BlobDigest: ...
    def drop(self) -> None: ...


class Answers(Protocol):
    """The finished rows of one job, by index in its input."""

    def add(self, index: int, row: dict[str, Any]) -> None: ...
    def row(self, index: int) -> dict[str, Any]: ...
    def indexes(self) -> list[int]: ...
    def __contains__(self, index: object) -> bool: ...
    def __len__(self) -> int: ...


class Store(Protocol):
    """Contents by their SHA-256, records by kind and id, and the answers of running jobs."""

    def write_blob(self, name: str, data: bytes) -> None: ...
    def new_blob(self) -> Blob: ...
    def read_blob(self, name: str) -> bytes: ...
    def drop_blob(self, name: str) -> None: ...
    def path(self, name: str) -> Path | None: ...
    def lines(self, name: str) -> Sequence[bytes]: ...
    def save(self, kind: str, identity: str, record: bytes) -> None: ...
    def drop(self, kind: str, identity: str) -> None: ...
    def records(self, kind: str) -> Iterator[bytes]: ...
    def answers(self, job: str) -> Answers: ...
    def drop_answers(self, job: str) -> None: ...


def request_lines(data: bytes) -> list[bytes]:
    """Return the lines of a request file without blank ones."""
    return [line for line in data.split(b"\n") if line.strip()]


class MemoryStore:
    """Stores contents in memory. Records are not stored: the world holds them."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def write_blob(self, name: str, data: bytes) -> None:
        self._blobs[name] = data

    def new_blob(self) -> Blob:
        return _MemoryBlob(self)

    def read_blob(self, name: str) -> bytes:
        return self._blobs[name]

    def drop_blob(self, name: str) -> None:
        self._blobs.pop(name, None)

    def path(self, name: str) -> Path | None:
        _ = name
        return None

    def lines(self, name: str) -> Sequence[bytes]:
        return request_lines(self._blobs[name])

    def save(self, kind: str, identity: str, record: bytes) -> None:
        pass

    def drop(self, kind: str, identity: str) -> None:
        pass

    def records(self, kind: str) -> Iterator[bytes]:
        _ = kind
        return iter(())

    def answers(self, job: str) -> Answers:
        _ = job
        return _MemoryAnswers()

    def drop_answers(self, job: str) -> None:
        pass


class _MemoryBlob:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._pieces: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)

    def finish(self) -> BlobDigest:
        data = b"".join(self._pieces)
        name = sha256(data).hexdigest()
        self._store.write_blob(name, data)
        return BlobDigest(name, self.size)

    def drop(self) -> None:
        self._pieces.clear()


class _MemoryAnswers:
    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def add(self, index: int, row: dict[str, Any]) -> None:
        self._rows[index] = row

    def row(self, index: int) -> dict[str, Any]:
        return self._rows[index]

    def indexes(self) -> list[int]:
        return sorted(self._rows)

    def __contains__(self, index: object) -> bool:
        return index in self._rows

    def __len__(self) -> int:
        return len(self._rows)


class DirectoryStore:
    """DIRECTORY/blobs/SHA256, DIRECTORY/KIND/ID.json, DIRECTORY/answers/JOB.jsonl; one process at a time.

    Lines and answers stay on disk; only their positions are in memory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("blobs", "answers"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        for unfinished in (directory / "blobs").glob("*.part"):
            unfinished.unlink()

    def write_blob(self, name: str, data: bytes) -> None:
        path = self._blob(name)
        if not path.exists():
            _write_atomically(path, data)

    def new_blob(self) -> Blob:
        return _FileBlob(self._directory / "blobs")

    def read_blob(self, name: str) -> bytes:
        return self._blob(name).read_bytes()

    def drop_blob(self, name: str) -> None:
        self._blob(name).unlink(missing_ok=True)

    def path(self, name: str) -> Path | None:
        return self._blob(name)

    def lines(self, name: str) -> Sequence[bytes]:
        return FileLines(self._blob(name))

    def save(self, kind: str, identity: str, record: bytes) -> None:
        folder = self._directory / kind
        folder.mkdir(exist_ok=True)
        _write_atomically(folder / f"{identity}.json", record)

    def drop(self, kind: str, identity: str) -> None:
        (self._directory / kind / f"{identity}.json").unlink(missing_ok=True)

    def records(self, kind: str) -> Iterator[bytes]:
        for path in sorted((self._directory / kind).glob("*.json")):
            yield path.read_bytes()

    def answers(self, job: str) -> Answers:
        return _FileAnswers(self._answers(job))

    def drop_answers(self, job: str) -> None:
        self._answers(job).unlink(missing_ok=True)

    def _answers(self, job: str) -> Path:
        return self._directory / "answers" / f"{job}.jsonl"

    def _blob(self, name: str) -> Path:
        return self._directory / "blobs" / name


class _FileBlob:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{os.urandom(8).hex()}.part"
        self._digest = sha256()
        self._file = self._path.open("wb")
        self.size = 0

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)

    def finish(self) -> BlobDigest:
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        name = self._digest.hexdigest()
        self._path.replace(self._folder / name)
        return BlobDigest(name, self.size)

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class FileLines(Sequence[bytes]):
    """The lines of a request file on disk without blank ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts, self._sizes = array("Q"), array("L")
        with path.open("rb") as file:
            start = 0
            for line in file:
                if line.strip():
                    self._starts.append(start)
                    self._sizes.append(len(line.removesuffix(b"\n")))
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return _read(self._path, self._starts[index], self._sizes[index])

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from (line.removesuffix(b"\n") for line in file if line.strip())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        _ = memo
        return self


class _FileAnswers:
    """A file with one line for each answer; lines of an earlier process are loaded.

    An incomplete last line was not used for any result, and is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts, self._sizes = array("Q"), array("L")  # by index; size 0: not answered
        self._count = self._end = 0
        if path.exists():
            self._load_existing()

    def _load_existing(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self._index_line(orjson.loads(line)["index"], len(line))
        os.truncate(self._path, self._end)

    def _index_line(self, index: int, size: int) -> None:
        missing = index + 1 - len(self._sizes)
        if missing > 0:
            self._starts.extend([0] * missing)
            self._sizes.extend([0] * missing)
        self._count += not self._sizes[index]
        self._starts[index], self._sizes[index] = self._end, size
        self._end += size

    def add(self, index: int, row: dict[str, Any]) -> None:
        """Add an answer. Raises OSError if the write fails; then nothing was added."""
        line = orjson.dumps({"index": index, "row": row}) + b"\n"
        # No fsync: if a power failure loses an answer, the backend answers the row again, at no cost.
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._end)  # removes the rest of a line that did not fit on the disk
            if file.write(line) != len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC), str(self._path))
        self._index_line(index, len(line))

    def row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = orjson.loads(_read(self._path, self._starts[index], self._sizes[index]))["row"]
        return row

    def indexes(self) -> list[int]:
        return [index for index, size in enumerate(self._sizes) if size]

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index < len(self._sizes) and self._sizes[index] > 0

    def __len__(self) -> int:
        return self._count


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, start)


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
