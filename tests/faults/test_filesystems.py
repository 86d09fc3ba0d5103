"""Test file systems that cannot sync folders or lock files, and system errors that name no file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from batchgen.cli.commands import run
from batchgen.runtime import files
from tests.support.bench import Bench, seeds
from tests.support.invariants import ROUNDS, Make, end, start

WITHOUT_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


def refuse(number: int) -> None:
    raise OSError(number, os.strerror(number))


def refuse_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let fsync fail for folders, but not for files."""
    sync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refuse(number)
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.fault(
    33,
    "the file system cannot sync a folder (shared folders, SMB, WSL)",
    injected="fsync of a folder: EINVAL, ENOTSUP, ENOSYS",
    seen="the same result; `doctor` says it",
)
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_33_a_file_system_that_cannot_sync_folders(
    number: int, expected: dict[str, bytes], make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_folders(monkeypatch, number)
    bench = start(make_bench())
    said = bench.run("doctor")
    assert (said.code, said.out.count("cannot sync a folder")) == (0, 1)
    assert bench.run("doctor", "--json").json["root"]["folders_synced"] is False
    end(bench, expected)


def test_a_file_system_that_syncs_folders_needs_no_word(bench: Bench) -> None:
    assert "sync" not in bench.run("doctor").out
    assert bench.run("doctor", "--json").json["root"]["folders_synced"] is True


def test_33_a_failing_disk_is_no_file_system_that_cannot_sync(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_folders(monkeypatch, errno.EIO)
    assert bench.run("collect", "--advance").code == 75


@pytest.mark.fault(
    33,
    "the file system has no locks (NFS without lockd, Lustre, FUSE)",
    injected="flock, or the POSIX locks that SQLite takes: ENOLCK, ENOSYS, EOPNOTSUPP, EACCES, EINVAL",
    seen="status 2 at once, and the word to use a local disk; nothing was sent",
)
@pytest.mark.parametrize(
    ("call", "number"),
    [
        *(("flock", number) for number in WITHOUT_LOCKS),
        *(("lockf", number) for number in (*WITHOUT_LOCKS, errno.EACCES, errno.EINVAL)),
    ],
)
def test_33_a_root_without_locks(call: str, number: int, make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()
    bench.configure(ROUNDS)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, call, lambda *_: refuse(number))
        refused = bench.prepare(seeds(2))
    assert (refused.code, refused.err.count("\n")) == (2, 2), refused
    assert "local disk" in refused.err
    assert bench.prepare(seeds(2)).code == 0
    monkeypatch.setattr(fcntl, call, lambda *_: refuse(number))
    assert bench.run("collect", "--advance").code == 2
    assert bench.service.world.posts == []
    for command in ("status", "receipt"):
        done = bench.run(command)
        assert done.code == (2 if call == "lockf" else 0), done  # readers take only the locks of SQLite


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_any_error_of_the_system_is_one_line_and_a_status(number: int) -> None:
    for error in (OSError(number, os.strerror(number)), OSError(number, os.strerror(number), "a/file")):
        trouble = files.system_error(error)
        assert trouble.exit_code in {2, 75}
        assert "None" not in str(trouble)
        assert ("a/file" in str(trouble)) == (error.filename is not None)
        assert trouble.do


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), 2, "batchgen: Permission denied.\n"),
        (OSError(errno.ESTALE, "Stale file handle", "/mnt/x"), 75, "/mnt/x: Stale file handle"),
        (OSError("the words of a library"), 75, "the words of a library"),
        (TimeoutError(), 75, "TimeoutError"),
    ],
)
def test_an_error_that_names_no_file(
    error: OSError, code: int, words: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(run, "require_prepared", fail)
    done = bench.run("collect")
    assert (done.code, words in done.err, "None" in done.err) == (code, True, False), done


def test_no_folder_for_temporary_files(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_one(*_: object) -> None:
        monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter(()))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
        tempfile.gettempdir()

    monkeypatch.setattr(run, "require_prepared", take_one)
    done = bench.run("collect")
    assert (done.code, "TMPDIR" in done.err) == (2, True), done
