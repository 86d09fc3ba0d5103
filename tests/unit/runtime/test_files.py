"""Test writes that fail (the file is the old one or the new one), the layout of a root, and the lock."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchgen.core.dialogue import Stage, Step
from batchgen.core.errors import Locked, SetupError, Temporary
from batchgen.runtime.files import (
    FileDigest,
    Layout,
    disk_error,
    exclusive_lock,
    hash_file,
    make_directory,
    write_durably,
)

OLD, NEW = b"old\n", [b"new ", b"and longer\n"]
WRITTEN = FileDigest(15, hashlib.sha256(b"".join(NEW)).hexdigest())


class Disk:
    """Fails the n-th effect on the disk: open, write, flush, fsync, rename, opening or syncing a directory."""

    def __init__(self, fail_at: int) -> None:
        self.left, self.done = fail_at, list[str]()

    def effect(self, name: str) -> None:
        self.done.append(name)
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync, rename, opening, opening_directory = os.fsync, Path.replace, Path.open, os.open
        disk = self

        class Stream:
            """A file whose writes may fail."""

            def __init__(self, stream: Any) -> None:
                self.stream = stream

            def write(self, chunk: bytes) -> int:
                disk.effect("write")
                return int(self.stream.write(chunk))

            def flush(self) -> None:
                disk.effect("flush")
                self.stream.flush()

            def fileno(self) -> int:
                return int(self.stream.fileno())

        @contextmanager
        def open_file(path: Path, mode: str = "r") -> Iterator[Any]:
            disk.effect("open")
            with opening(path, mode) as stream:
                yield Stream(stream)

        def failing_fsync(handle: int) -> None:
            disk.effect("fsync")
            fsync(handle)

        def failing_rename(path: Path, target: Path) -> Path:
            disk.effect("rename")
            return rename(path, target)

        def failing_open(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            disk.effect("open directory")
            return opening_directory(path, flags, *rest, **named)

        monkeypatch.setattr(os, "fsync", failing_fsync)
        monkeypatch.setattr(os, "open", failing_open)
        monkeypatch.setattr(Path, "replace", failing_rename)
        monkeypatch.setattr(Path, "open", open_file)


EFFECTS = ["open", "write", "write", "flush", "fsync", "rename", "open directory", "fsync"]


@pytest.mark.parametrize("fail_at", range(1, len(EFFECTS) + 2), ids=[*EFFECTS, "nothing"])
@pytest.mark.parametrize("before", [OLD, None], ids=["replaced", "created"])
def test_the_old_or_the_new_file_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int, before: bytes | None
) -> None:
    path = tmp_path / "file.jsonl"
    if before is not None:
        path.write_bytes(before)
    disk = Disk(fail_at)
    with monkeypatch.context() as patches:
        disk.patch(patches)
        if fail_at > len(EFFECTS):
            assert write_durably(path, NEW) == WRITTEN
        else:
            with pytest.raises(OSError, match="No space left") as raised:
                write_durably(path, NEW)
            assert isinstance(disk_error(raised.value), Temporary)
    assert disk.done == EFFECTS[:fail_at]
    renamed = fail_at > EFFECTS.index("rename") + 1
    found = path.read_bytes() if path.exists() else None
    assert found == (b"".join(NEW) if renamed else before)
    assert [entry.name for entry in tmp_path.iterdir()] == ([path.name] if found is not None else [])
    assert write_durably(path, NEW) == hash_file(path) == WRITTEN  # there is space again


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)], ids=lambda error: type(error).__name__
)
def test_a_writer_that_gives_up_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def half() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(type(error)):
        write_durably(path, half())
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_the_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.jsonl"
    assert write_durably(path, []) == FileDigest(0, hashlib.sha256().hexdigest())
    assert path.read_bytes() == b""
    make_directory(path.parent)


def test_a_left_over_part_file_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "file.part").write_bytes(b"torn by a kill")
    write_durably(path, NEW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_full_or_failing_disk_is_temporary(code: int) -> None:
    trouble = disk_error(OSError(code, os.strerror(code), "/x/file"))
    assert trouble is not None
    assert trouble.exit_code == 75
    assert "/x/file" in str(trouble)


def test_other_troubles_of_the_disk_are_not() -> None:
    assert disk_error(OSError(errno.EACCES, "Permission denied")) is None


def test_where_each_file_lies(tmp_path: Path) -> None:
    layout, step = Layout(tmp_path), Step(2, Stage.QUESTION)
    assert [
        str(path.relative_to(tmp_path))
        for path in (
            layout.requests(step, "b"),
            layout.results(step, "b"),
            layout.errors(step, "b"),
            layout.single_turn(1),
            layout.history(1),
            layout.single_turn(2),
            layout.history(2),
            layout.rejected,
            layout.store,
        )
    ] == [
        "requests/round2/question/b.jsonl",
        "results/round2/question/b.jsonl",
        "results/round2/question/b.errors.jsonl",
        "data/round1/round1_single_turn.jsonl",
        "data/round1/round1_history_seed.jsonl",
        "data/round2/round2_single_turn.jsonl",
        "data/round2/round2_history.jsonl",
        "data/rejected.jsonl",
        "data/batchgen.sqlite",
    ]


def test_one_command_at_a_time(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with exclusive_lock(layout), pytest.raises(Locked) as raised, exclusive_lock(layout):
        pass
    assert raised.value.exit_code == 0
    with exclusive_lock(layout):
        pass


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with pytest.raises(SetupError, match="not a directory"), exclusive_lock(Layout(path)):
        pass


def test_a_root_nobody_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SetupError, match="Permission denied"), exclusive_lock(Layout(tmp_path / "run")):
        pass
