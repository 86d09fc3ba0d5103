"""The way in and out of every command. Ctrl-C is heard here while nothing else can: modules load, Python goes."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # no stub; `signal` makes enumerations, and every tick would pay
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130
IMPORTING = "<frozen importlib._bootstrap>"
FAREWELL = "Interrupted. Nothing is lost: the next tick goes on from here."


def main() -> None:
    """Load the command line and run it. Where Ctrl-C is ignored (`nohup`), it stays so."""
    hearing = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    _hear(_leave, wanted=hearing)
    from batchgen.cli.main import main as command

    try:
        _hear(_interrupt, wanted=hearing)
        command()
    except KeyboardInterrupt:
        _leave()
    finally:
        _hear(_leave, wanted=hearing)


def _hear(handler: object, *, wanted: bool) -> None:
    if wanted:
        _signal.signal(_signal.SIGINT, handler)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """KeyboardInterrupt, but not into an import: compiled modules crash when theirs is broken off. A moment later."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            from batchgen.cli.exit_status import interrupt_again

            interrupt_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave(*_: object) -> None:
    """At once, with nothing open. An exception would be lost, or shown, in whatever is being loaded or taken down."""
    try:
        os.write(2, f"{FAREWELL}\n".encode())
    finally:
        os._exit(INTERRUPTED)
