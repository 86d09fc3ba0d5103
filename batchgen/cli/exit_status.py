"""Turn the end of a command into lines on stderr and an exit status, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from batchgen.core.errors import BatchgenError, SetupError, Temporary, note, worst
from batchgen.core.wording import as_invoked
from batchgen.runtime.files import describe_os_error, system_error
from batchgen.runtime.logging_setup import redact

INTERRUPTED = 130
INTERRUPTED_MESSAGE = "Interrupted. Nothing is lost. To go on, run the same command again."


def print_error(error: BatchgenError) -> None:
    """Print one trouble to stderr: what happened, and what to do next."""
    click.echo(f"batchgen: {redact(as_invoked(str(error)))}", err=True)
    if error.do:
        click.echo(f"  {redact(as_invoked(error.do))}", err=True)


@contextmanager
def print_troubles(troubles: list[BatchgenError]) -> Iterator[None]:
    """Print, at the end of the `with` block, every trouble but the worst one; raise that, for the exit status.

    An error that ends the block is one more trouble. Ctrl-C keeps its own status.
    """
    try:
        yield
    except BatchgenError as error:
        note(troubles, error)
    except OSError as error:
        note(troubles, system_error(error))
    except BaseException:
        _tell_all(troubles)
        raise
    last = worst(troubles)
    _tell_all(trouble for trouble in troubles if trouble is not last)
    if last is not None:
        raise last


def _tell_all(troubles: Iterable[BatchgenError]) -> None:
    for trouble in troubles:
        print_error(trouble)


def report_interrupt(error: BaseException) -> int:
    """Report Ctrl-C, or an error that click takes for it: Python before 3.12.8 leaves cut .pyc files on a full disk."""
    if isinstance(error.__cause__, EOFError):
        folder = Path(__file__).parents[1]
        trouble = SetupError(
            f"A compiled file of the program is damaged ({error.__cause__}): the disk was full when it was written.",
            do=f"Delete the __pycache__ folders under {folder} and of the installed packages.",
        )
        print_error(trouble)
        return trouble.exit_code
    click.echo(INTERRUPTED_MESSAGE, err=True)
    return INTERRUPTED


def report_os_error(error: OSError) -> int:
    """Report an uncaught OSError: status 2 for what the user can fix, otherwise temporary."""
    trouble = system_error(error)
    print_error(trouble)
    return trouble.exit_code


def report_lost_answer(error: OSError) -> int:
    """Report that a command did its work, but its answer could not be written to stdout."""
    trouble = Temporary(
        f"The answer could not be written to stdout: {describe_os_error(error)}.",
        do="The work of the command is done. Fix its output, then run: batchgen status",
    )
    print_error(trouble)
    return trouble.exit_code
