"""Write files durably, lock a root, and name the files of a run."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.errors import BatchgenError, Locked, NeedsPerson, SetupError, Temporary
from batchgen.runtime.failpoints import failpoint

LOCK = "batchgen.lock"  # beside the store
LOCAL_DISK = "Put it on a local disk: choose another --root."
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
_BAD_PATH = {
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.ENXIO, errno.ENODEV),
}
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class Layout(NamedTuple):
    """Paths of the files of a run under its root (see README, "What each file is")."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def store(self) -> Path:
        return self.data / "batchgen.sqlite"

    @property
    def lock(self) -> Path:
        return self.data / LOCK

    @property
    def rejected(self) -> Path:
        return self.data / "rejected.jsonl"

    @property
    def audit(self) -> Path:
        return self.data / "audit.jsonl"

    @property
    def receipt(self) -> Path:
        return self.data / "receipt.json"

    def requests(self, step: Step, batch: str) -> Path:
        return self.root / "requests" / f"round{step.round}" / step.stage / f"{batch}.jsonl"

    def results(self, step: Step, batch: str) -> Path:
        return self.root / "results" / f"round{step.round}" / step.stage / f"{batch}.jsonl"

    def errors(self, step: Step, batch: str) -> Path:
        return self.results(step, batch).with_name(f"{batch}.errors.jsonl")

    def ending(self, step: Step, batch: str) -> Path:
        return self.results(step, batch).with_name(f"{batch}.ending.json")

    def single_turn(self, number: int) -> Path:
        return self.data / f"round{number}" / f"round{number}_single_turn.jsonl"

    def history(self, number: int) -> Path:
        name = f"round{number}_history_seed.jsonl" if number == 1 else f"round{number}_history.jsonl"
        return self.data / f"round{number}" / name


class FileDigest(NamedTuple):
    """Size in bytes and SHA-256 in hex of a file that was written."""

    size: int
    sha256: str


def is_there(path: Path) -> bool:
    """Return whether `path` is a file. Raises OSError for a folder, and for a loop of links."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return True


def make_directory(path: Path) -> None:
    """Create `path` and its parents, each entry durable."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync_directory(path.parent)


def sync_directory(path: Path) -> bool:
    """Make the entries of a folder durable. Returns False if the file system cannot (shared folders, SMB, WSL)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` at the end, complete and durable, or leaves it unchanged.

    Temporary file in the same folder, write, fsync, rename, fsync of the folder: after a crash at any instruction
    `path` is either the old or the new file (Pillai et al., OSDI 2014).
    """
    make_directory(path.parent)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        failpoint("file_before_rename")
        part.replace(path)
        failpoint("file_renamed")
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_durably(path: Path, chunks: Iterable[bytes]) -> FileDigest:
    """Replace `path` by `chunks`. Returns the size and hash of the bytes written."""
    from hashlib import sha256  # here: loading OpenSSL takes longer than the rest of an idle tick

    digest, size = sha256(), 0
    try:
        with atomic_write(path) as stream:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                stream.write(chunk)
    finally:
        if isinstance(chunks, Generator):
            chunks.close()  # ends a read of the store that `chunks` may have open, also after a failed write
    return FileDigest(size, digest.hexdigest())


def hash_file(path: Path) -> FileDigest:
    """Return size and SHA-256 of a file, read in blocks."""
    from hashlib import sha256

    digest, size = sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return FileDigest(size, digest.hexdigest())


def can_be_changed(layout: Layout) -> bool:
    """Return whether this user can write to the store of a root and create files beside it, as SQLite and the lock
    need.
    """
    if not os.access(layout.data, os.W_OK | os.X_OK):
        return False
    return all(os.access(path, os.W_OK) for path in (layout.store, layout.lock) if path.exists())


def need_place(output: Path, do: str) -> None:
    """Check before long work that a file can be written at `output`. Raises SetupError with the advice `do`."""
    folder = next(each for each in output.parents if each.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SetupError(f"{output}: {folder} cannot be written to.", do=do)


@contextmanager
def unchanging(layout: Layout) -> Iterator[None]:
    """Block commands that would change a root in which this user cannot write. Raises Locked while one runs.

    Does nothing without a lock file: no command has worked on this copy of the root.
    """
    try:
        stream = layout.lock.open("rb")
    except OSError:
        yield
        return
    with stream:
        _lock(layout, stream, fcntl.LOCK_SH)
        yield


@contextmanager
def exclusive_lock(layout: Layout) -> Iterator[None]:
    """Hold the lock of the root. The kernel releases it when the process ends.

    Raises Locked at once if another process has it; SetupError for a root that cannot be written to or has no locks.
    """
    try:
        make_directory(layout.data)
        stream = layout.lock.open("a")
    except PermissionError as error:
        raise SetupError(f"{layout.root}: {error.strerror}.", do="Use a folder that you can write to.") from None
    except NotADirectoryError:
        raise SetupError(f"{layout.root} is not a directory.", do="Use another folder.") from None
    with stream:
        need_sqlite_locks(layout.lock)
        _lock(layout, stream, fcntl.LOCK_EX)
        yield


def _lock(layout: Layout, stream: IO[Any], kind: int) -> None:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(f"Another command is at work on {layout.root}; nothing was done.") from None
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise _no_locks(layout.lock, error) from None
        raise


def need_sqlite_locks(lock: Path) -> None:
    """Try the kind of lock that SQLite uses, on the lock file of a root. Raises SetupError if it is refused.

    SQLite would take most refusals for a lock of another command and wait a minute. The store itself must not be tried:
    closing it here would release the locks that a connection of this process has.
    """
    try:
        stream = lock.open("rb")
    except OSError:  # there is none yet, or the code that opens it next reports the error
        return
    with stream, suppress(BlockingIOError):  # on NFS both kinds of lock are the same: another command has it
        try:
            fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED | {errno.EACCES, errno.EPERM}:
                raise _no_locks(lock, error) from None
            raise


def _no_locks(lock: Path, error: OSError) -> SetupError:
    return SetupError(f"{lock}: the file system has no file locks ({error.strerror}).", do=LOCAL_DISK)


def lost_store_error(layout: Layout) -> NeedsPerson | None:
    """Return the error for a root with sent requests and no store: `prepare` would buy them again."""
    if not any((layout.root / "requests").glob("round*/*/*.jsonl")):
        return None
    return NeedsPerson(
        f"The store of {layout.root} is missing; its requests and results are still in requests/ and results/.",
        do="Rebuild it without any cost: batchgen rebuild (for another run choose another --root)",
    )


def as_text(path: str | Path) -> str:
    """Return a path as text for people: bytes that are not UTF-8 are escaped (`\\xd6`)."""
    return os.fsencode(path).decode(errors="backslashreplace")


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a UTF-8 name of an existing file, for a library that accepts no other; the file is open meanwhile."""
    name = str(path)
    if as_text(name) == name:
        yield name
        return
    with path.open("rb") as stream:
        yield f"/dev/fd/{stream.fileno()}"


def last_batch_number(folder: Path, run: str) -> int:
    """Return the highest batch number of `run` that has a file below `folder` (requests/ or results/), 0 for none."""
    stems = (path.name.partition(".")[0].split("-") for path in folder.glob(f"round*/*/{run}-*"))
    return max((int(parts[-2]) for parts in stems if parts[-2].isdigit()), default=0)


def rebuild_command(store: Path) -> str:
    """Return the command that moves a store away and builds it again."""
    return f"mv {shlex.quote(str(store))} {shlex.quote(f'{store}.old')} && batchgen rebuild"


def describe_os_error(error: OSError) -> str:
    """Return an OSError in the system's words, with the file if it names one."""
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what


def disk_error(error: OSError) -> Temporary | None:
    """Return the error for a full or failing disk; None if `error` is something else."""
    if error.errno not in _DISK_FULL:
        return None
    where = f" ({error.filename})" if error.filename else ""
    return Temporary(
        f"A write to the disk failed: {error.strerror}{where}. Existing files are unchanged.",
        do="Free disk space. The next tick goes on; run any other command again.",
    )


def system_error(error: OSError) -> BatchgenError:
    """Return the error for any OSError: one that the user must fix (status 2), or a temporary one (75)."""
    if trouble := disk_error(error):
        return trouble
    if error.filename is None and "temporary directory" in describe_os_error(error):  # the words of `tempfile`
        return SetupError(
            "No folder for temporary files can be written to.", do="Set TMPDIR to a folder that you can write to."
        )
    if error.errno in _BAD_PATH:
        return SetupError(f"{describe_os_error(error)}.", do="Check the path and its permissions.")
    if error.errno in _UNSUPPORTED:
        return SetupError(f"{describe_os_error(error)}: the file system does not support this.", do=LOCAL_DISK)
    return Temporary(f"A system call failed: {describe_os_error(error)}.", do="The next tick tries again.")
