"""Where the world's bytes live: in memory, or in a directory that survives a restart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Contents by their SHA-256, records by kind and id, and the answers of jobs under way, one line each."""

    def write_blob(self, name: str, data: bytes) -> None: ...
    def read_blob(self, name: str) -> bytes: ...
    def drop_blob(self, name: str) -> None: ...
    def save(self, kind: str, identity: str, record: bytes) -> None: ...
    def drop(self, kind: str, identity: str) -> None: ...
    def records(self, kind: str) -> Iterator[bytes]: ...
    def append_answer(self, job: str, line: bytes) -> None: ...
    def answers(self, job: str) -> list[bytes]: ...
    def drop_answers(self, job: str) -> None: ...


class MemoryStore:
    """Contents only: the world itself holds everything else."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def write_blob(self, name: str, data: bytes) -> None:
        self._blobs[name] = data

    def read_blob(self, name: str) -> bytes:
        return self._blobs[name]

    def drop_blob(self, name: str) -> None:
        self._blobs.pop(name, None)

    def save(self, kind: str, identity: str, record: bytes) -> None:
        pass

    def drop(self, kind: str, identity: str) -> None:
        pass

    def records(self, kind: str) -> Iterator[bytes]:
        _ = kind
        return iter(())

    def append_answer(self, job: str, line: bytes) -> None:
        pass

    def answers(self, job: str) -> list[bytes]:
        _ = job
        return []

    def drop_answers(self, job: str) -> None:
        pass


class DirectoryStore:
    """DIRECTORY/blobs/SHA256, DIRECTORY/KIND/ID.json, DIRECTORY/answers/JOB.jsonl; one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("blobs", "answers"):
            (directory / name).mkdir(parents=True, exist_ok=True)

    def write_blob(self, name: str, data: bytes) -> None:
        path = self._directory / "blobs" / name
        if not path.exists():
            _replace(path, data)

    def read_blob(self, name: str) -> bytes:
        return (self._directory / "blobs" / name).read_bytes()

    def drop_blob(self, name: str) -> None:
        (self._directory / "blobs" / name).unlink(missing_ok=True)

    def save(self, kind: str, identity: str, record: bytes) -> None:
        folder = self._directory / kind
        folder.mkdir(exist_ok=True)
        _replace(folder / f"{identity}.json", record)

    def drop(self, kind: str, identity: str) -> None:
        (self._directory / kind / f"{identity}.json").unlink(missing_ok=True)

    def records(self, kind: str) -> Iterator[bytes]:
        for path in sorted((self._directory / kind).glob("*.json")):
            yield path.read_bytes()

    def append_answer(self, job: str, line: bytes) -> None:
        # Not synced: an answer lost in a power cut is written again, which costs nobody anything.
        with self._answers(job).open("ab") as file:
            file.write(line + b"\n")

    def answers(self, job: str) -> list[bytes]:
        """Complete lines only: a torn last one is an answer that was never given, and is cut off."""
        path = self._answers(job)
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                os.truncate(path, len(whole))
            return whole.split(b"\n")[:-1]
        return []

    def drop_answers(self, job: str) -> None:
        self._answers(job).unlink(missing_ok=True)

    def _answers(self, job: str) -> Path:
        return self._directory / "answers" / f"{job}.jsonl"


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is there completely or not at all."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
