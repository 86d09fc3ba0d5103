"""Open and migrate the SQLite file, run transactions, and turn SQLite's errors into errors for the user.

The journal mode is DELETE with synchronous=FULL. A commit is durable, because it may be the id of a paid job. Reading a
finished run changes nothing on disk, while WAL would create and remove files beside the store.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

from batchgen.core.errors import NeedsPerson, SetupError, Temporary
from batchgen.ledger.migrations import MIGRATIONS
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import LOCK, is_there, need_sqlite_locks, rebuild_command

SCHEMA = Path(__file__).with_name("schema.sql")
BUSY_TIMEOUT_SECONDS = 60.0
PAGE_BYTES = 16_384  # of a new store: new texts are inserted between older ones, which splits fewer pages than 4,096


class Database:
    """An open SQLite file."""

    is_read_only = False
    is_copy = False  #: a migrated copy of an older program's store; the file itself was not changed

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the store for writing. Raises NeedsPerson for a store of a newer program."""
        database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        # The transaction of a whole batch fits in this cache, so that readers only have to wait for its commit.
        database.execute("PRAGMA cache_size = -16384")
        store = cls(database)
        try:
            store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Open the store for reading while another process may write, or return None if there is no store.

        Raises SetupError if the file system has no locks, NeedsPerson for a store of a newer program.
        """
        if not is_there(path):
            return None
        need_sqlite_locks(path.with_name(LOCK))
        try:
            database, version = _connect_and_read_version(path, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            # A writer was killed during its commit. Opening for writing lets SQLite roll it back, under its own lock.
            _need_write_access(path)
            database, version = _connect_and_read_version(path, "rw")
        if version == 0:
            database.close()
            return None
        is_older = version < len(MIGRATIONS)
        store = cls(_copy_to_temporary(database) if is_older else database)
        store.is_read_only, store.is_copy = True, is_older
        try:
            store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._connection.close()

    def integrity_problems(self) -> list[str]:
        """List the first few errors that SQLite finds in the structure of the file."""
        found = [flaw for (flaw,) in self._connection.execute("PRAGMA quick_check(5)")]
        return [] if found == ["ok"] else found

    def _migrate(self) -> None:
        (done,) = self._connection.execute("PRAGMA user_version").fetchone()
        if done > len(MIGRATIONS):
            raise NeedsPerson(f"This store has version {done}.", do="Use the batchgen that wrote it, or a newer one.")
        if done == len(MIGRATIONS):
            return
        with self.transaction():
            for statement in MIGRATIONS[done:] if done else _schema():
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes in the block durably, or roll all back. A nested transaction is part of the outer one."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            failpoint("store_before_commit")
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo all changes in the block at its end. Reads in the block see the changes.

        They stay in memory: nothing is written to disk, and other readers do not wait.
        """
        self._connection.execute("PRAGMA journal_mode = MEMORY")
        self._connection.execute("PRAGMA cache_spill = OFF")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")


def _schema() -> Iterator[str]:
    """Yield the statements that make the tables of a new store: 1 ms, while all migrations take 28."""
    statement = ""
    for line in SCHEMA.read_text("utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _connect_and_read_version(path: Path, mode: str) -> tuple[sqlite3.Connection, int]:
    """Connect and read the version of the store. Raises sqlite3.Error if the file cannot be read."""
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    database = sqlite3.connect(address, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, uri=True)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    except BaseException:
        database.close()
        raise
    return database, int(version)


def _need_write_access(path: Path) -> None:
    """Raise SetupError if the store has an unfinished commit and this user cannot write, and so not roll it back."""
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        raise SetupError(
            f"{path}: a command was killed while it wrote this store, and you cannot write to it.",
            do="Run `batchgen status` as a user who can, or on a copy of the folder.",
        )


def _copy_to_temporary(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a temporary copy that no other process sees, and close `database`."""
    copy = sqlite3.connect("", isolation_level=None)
    with closing(database):
        database.backup(copy)
    return copy


@contextmanager
def translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours. Raises Temporary, SetupError or NeedsPerson."""
    try:
        yield
    except sqlite3.OperationalError as error:
        message = str(error)
        if "locked" in message or "full" in message or "I/O" in message:
            raise Temporary(
                f"{path}: {message}.",
                do="If the disk is full, free space. The next tick goes on; run any other command again.",
            ) from None
        raise SetupError(f"{path}: {message}.", do="Check that you can read and write it.") from None
    except sqlite3.DatabaseError as error:
        raise NeedsPerson(
            f"{path}: {error}.",
            do=f"Move it away and build it again, which costs nothing: {rebuild_command(path)}",
        ) from None
