"""The end of every command: an error becomes a line on stderr and an exit status; no traceback reaches a user."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from batchgen.cli.entry import FAREWELL, INTERRUPTED
from batchgen.core.errors import BatchgenError, SetupError, Temporary, heed_interrupt

AGAIN_SECONDS = 0.01  # from a Ctrl-C that was lost to the next


def tell(error: BatchgenError) -> None:
    """One trouble for people, on stderr: what happened, and what to do next."""
    from batchgen.core.wording import typed
    from batchgen.runtime.logs import redacted

    click.echo(f"batchgen: {redacted(str(error))}", err=True)
    if error.do:
        click.echo(f"  {redacted(typed(error.do))}", err=True)


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
        folder = Path(__file__).parents[1]
        trouble = SetupError(
            f"A compiled file of the program is damaged ({error.__cause__}): the disk was full when it was written.",
            do=f"Delete the __pycache__ folders under {folder} and of the installed packages.",
        )
        tell(trouble)
        return trouble.exit_code
    click.echo(FAREWELL, err=True)
    return INTERRUPTED


def os_error(error: OSError) -> int:
    """An error of the system that nobody caught: what the user can mend leaves 2, all else is temporary."""
    from batchgen.runtime.files import system_trouble

    trouble = system_trouble(error)
    tell(trouble)
    return trouble.exit_code


def answer_lost(error: OSError) -> int:
    """What the command did is done, but its answer could not be written to stdout."""
    from batchgen.runtime.files import said

    trouble = Temporary(
        f"The answer could not be written to stdout: {said(error)}.",
        do="What the command did is done. Mend where its output goes, and ask again: batchgen status",
    )
    tell(trouble)
    return trouble.exit_code
