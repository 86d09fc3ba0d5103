"""Test a root that this user cannot write to: an archive, a disk of another user, a read-only mount (33).

Tests often run as the user root, who may write to every file. The commands then run without that right.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bench import Result
from tests.support.fork_server import Forks
from tests.unit.ledger.test_migrations import AWAITED, older

COMMANDS = ["status", "receipt", "verify", "estimate"]
READ_AND_ENTER, READ = 0o555, 0o444


class Archive(NamedTuple):
    """A read-only finished run, and a folder that can be written to."""

    root: Path
    elsewhere: Path
    forks: Forks

    def freeze(self) -> None:
        """Make every file and folder in the root read-only."""
        for path in [self.root, *self.root.rglob("*")]:
            path.chmod(READ_AND_ENTER if path.is_dir() else READ)

    def run(self, *arguments: str) -> Result:
        """Run one command as a user with only the rights that the file modes give."""
        here = {"HOME": str(self.elsewhere), "TMPDIR": str(self.elsewhere)}
        command = ["--root", str(self.root), *arguments]
        return self.forks.command(*command, folder=self.elsewhere, unprivileged=True, variables=here)

    def listing(self) -> dict[str, tuple[int, int]]:
        """Every file of the root, with its size and the time of its last change."""
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in self.root.rglob("*")}


@pytest.fixture
def archive(finished_root: Path, tmp_path: Path, forks: Forks) -> Iterator[Archive]:
    made = Archive(tmp_path / "run", tmp_path / "elsewhere", forks)
    made.elsewhere.mkdir()
    shutil.copytree(finished_root, made.root)
    yield made
    for path in [made.root, *made.root.rglob("*")]:  # so that pytest can delete it
        path.chmod(0o755)


def change(archive: Archive, *statements: str) -> None:
    """Change the store without the program."""
    connection = sqlite3.connect(archive.root / "data" / "batchgen.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.fault(
    33,
    "the root cannot be written to (an archive, a colleague's disk, a mount for reading)",
    injected="files and folders without the right to write; with and without a lock file",
    seen="what only reads works and leaves no trace; `report` and `export` say that --output must be elsewhere",
)
@pytest.mark.slow
def test_33_what_only_reads_works_where_nothing_can_be_written(archive: Archive) -> None:
    archive.freeze()
    before = archive.listing()
    for command in (*COMMANDS, "estimate --models", "report --output page.html"):
        done = archive.run(*command.split())
        assert (done.code, done.err) == (0, ""), done
    assert archive.listing() == before


def test_33_no_lock_file_is_made_where_nothing_can_be_written(archive: Archive) -> None:
    (archive.root / "data" / "batchgen.lock").unlink()
    archive.freeze()
    for command in COMMANDS:
        done = archive.run(command)
        assert (done.code, done.err) == (0, ""), done


def test_models_are_compared_on_an_archive_whose_keys_cannot_be_read(archive: Archive) -> None:
    (archive.root / ".env").write_text("GEMINI_API_KEY=secret\n", "utf-8")
    archive.freeze()
    (archive.root / ".env").chmod(0)
    done = archive.run("estimate", "--models")
    assert (done.code, done.err) == (0, "")


def test_33_the_default_place_of_a_report_cannot_be_written_to(archive: Archive) -> None:
    archive.freeze()
    for arguments in (["report"], ["export", "--format", "messages", "--output", str(archive.root / "out.jsonl")]):
        done = archive.run(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 2), done
        assert "cannot be written to" in done.err
        assert "--output" in done.err


def test_33_an_export_elsewhere_says_that_it_is_not_remembered(archive: Archive) -> None:
    archive.freeze()
    for output in ("set.jsonl", "set.parquet", "folder"):
        done = archive.run("export", "--format", "messages", "--output", output)
        assert (done.code, done.err.count("\n")) == (0, 1), done
        assert "will not check this export" in done.err
        assert (archive.elsewhere / output).exists()


def test_33_a_folder_in_which_nothing_can_be_made(archive: Archive) -> None:
    """The store and the lock can be written to, but SQLite cannot create a journal."""
    archive.freeze()
    for name in ("batchgen.sqlite", "batchgen.lock"):
        (archive.root / "data" / name).chmod(0o666)
    for command in COMMANDS:
        assert archive.run(command).code == 0


def test_33_a_lock_file_of_another_user(archive: Archive) -> None:
    for path in [archive.root, *archive.root.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    (archive.root / "data" / "batchgen.lock").chmod(READ)
    for command in COMMANDS:
        assert archive.run(command).code == 0


def test_33_a_command_at_work_is_waited_for(archive: Archive) -> None:
    archive.freeze()
    with (archive.root / "data" / "batchgen.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = archive.run("verify")
        assert (done.code, done.out, "Another command is at work" in done.err) == (0, "", True)
        assert archive.run("status").code == 0


def test_33_files_that_wait_to_be_written_are_not_held_against_the_store(archive: Archive) -> None:
    """The receipt (after a change of prices) and a round file are outdated. No command can write them here."""
    change(
        archive,
        "UPDATE run_facts SET value = 'older' WHERE key = 'receipt_prices'",
        "INSERT OR REPLACE INTO outdated_files (file) VALUES ('round3')",
    )
    (archive.root / "data" / "receipt.json").write_text("{}", "utf-8")
    (archive.root / "data" / "round3" / "round3_history.jsonl").write_text("", "utf-8")
    archive.freeze()
    done = archive.run("verify")
    assert (done.code, done.err.count("\n")) == (0, 1), done
    assert "Not checked" in done.err
    for name in ("receipt.json", "round3_history.jsonl", "round3_single_turn.jsonl"):
        assert name in done.err


def test_33_the_store_of_an_older_program(archive: Archive) -> None:
    """Each command migrates a copy of it."""
    older(archive.root / "data" / "batchgen.sqlite", AWAITED)
    archive.freeze()
    for command in COMMANDS:
        done = archive.run(command)
        assert (done.code, done.err) == (0, ""), done


def test_33_what_writes_says_that_it_cannot(archive: Archive) -> None:
    archive.freeze()
    for arguments in (["collect", "--advance"], ["retry"], ["prepare"], ["clean"]):
        done = archive.run(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 2), done
        assert "can write to" in done.err


def test_33_a_killed_commit_needs_someone_who_can_write(archive: Archive) -> None:
    store = archive.root / "data" / "batchgen.sqlite"
    writer = sqlite3.connect(store, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")  # so that SQLite writes pages to the file before the commit
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE batches SET error = ?", ("x" * 100_000,))
    writer.execute("UPDATE conversations SET detail = ?", ("y" * 100_000,))
    killed = archive.root.with_name("killed")
    shutil.copytree(archive.root, killed)
    writer.close()
    shutil.rmtree(archive.root)
    killed.rename(archive.root)
    archive.freeze()
    for command in COMMANDS:
        done = archive.run(command)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 2), done
        assert "was killed" in done.err
