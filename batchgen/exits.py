"""The end of every command: an error becomes a line on stderr and an exit status; no traceback reaches a user."""

from __future__ import annotations

import _thread
import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

import click

from batchgen.door import FAREWELL, INTERRUPTED
from batchgen.errors import BatchgenError, SetupError, heed_interrupt

AGAIN_SECONDS = 0.01  # from a Ctrl-C that was lost to the next
BAD_PATH = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG}


def tell(error: BatchgenError) -> None:
    """One trouble for people, on stderr: what happened, and what to do next."""
    from batchgen.logs import redacted
    from batchgen.words import typed

    click.echo(f"batchgen: {redacted(str(error))}", err=True)
    if error.do:
        click.echo(f"  {redacted(typed(error.do))}", err=True)


def speak_utf8() -> None:
    """Texts and paths may be anything; a locale that knows ASCII only (LC_ALL=C) must not end a command. Nor must a
    stream that the caller closed (`>&-`): its number would go to the next file that is opened.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() not in {"utf-8", "utf8"}:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def hearing_interrupts() -> Iterator[None]:
    """Within, no Ctrl-C is lost, or taken for something else. Python prints and drops what is raised in a finalizer or
    in the callback of a weak reference (its library reference, `sys.unraisablehook`), and every import runs some.
    """
    before = sys.unraisablehook

    def dropped(lost: sys.UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            interrupt_again()
        else:
            before(lost)

    sys.unraisablehook = dropped
    try:
        yield
    except RuntimeError as error:
        heed_interrupt(error)
        raise
    finally:
        sys.unraisablehook = before


def interrupt_again() -> None:
    """A moment later, when the main thread is elsewhere: it may hold a lock of `threading`, so none is asked for."""
    with suppress(RuntimeError):  # the machine has no thread left: the user presses again
        _thread.start_new_thread(_interrupt, ())


def _interrupt() -> None:
    import signal  # here: no tick pays for it

    threading.Event().wait(AGAIN_SECONDS)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it, wherever it waits


def interrupted(error: BaseException) -> int:
    """Ctrl-C, or what click takes for it: Python before 3.12.8 leaves half a .pyc file on a full disk."""
    if isinstance(error.__cause__, EOFError):
        folder = Path(__file__).parent
        trouble = SetupError(
            f"A compiled file of the program is damaged ({error.__cause__}): the disk was full when it was written.",
            do=f"Delete the __pycache__ folders under {folder} and of the installed packages.",
        )
        tell(trouble)
        return trouble.exit_code
    click.echo(FAREWELL, err=True)
    return INTERRUPTED


def os_error(error: OSError) -> int:
    """A full disk is temporary; a missing permission is the user's to mend; anything else is a bug and is shown."""
    from batchgen.files import disk_trouble

    if isinstance(error, BrokenPipeError):
        return 0
    trouble: BatchgenError | None = disk_trouble(error)
    if trouble is None and error.errno in BAD_PATH:
        trouble = SetupError(f"{error.filename}: {error.strerror}.", do="Check the path and its permissions.")
    if trouble is None:
        raise error
    tell(trouble)
    return trouble.exit_code
