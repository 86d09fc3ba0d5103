"""Make stdout and stderr accept any text, and survive write errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, cast

TABLE_COLUMNS = range(72, 1001)  # with fewer a table would cut numbers; no screen has more


def table_width(stream: TextIO) -> int:
    """Return the width of the terminal `stream` in columns; 0 if it is not a terminal, or too narrow for a table."""
    if not stream.isatty():
        return 0
    told = os.environ.get("COLUMNS", "")
    try:
        columns = int(told) if told.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0
    return columns if columns in TABLE_COLUMNS else 0


def force_utf8_output() -> None:
    """Write UTF-8 to stdout and stderr in any locale. Bytes of a path that are not UTF-8 are escaped (`\\udcd6`).

    A stream that the caller closed (`>&-`) is opened again, or the next opened file would get its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class UnfailingStream:
    """A text stream that drops what cannot be written. `lost` is the first error, apart from a closed pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def give_up(self) -> None:
        """Write the rest or drop it. Python flushes again at exit, and exits with status 120 if that fails."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)
            with suppress(OSError, ValueError), Path(os.devnull).open("w", encoding="utf-8") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())

    def _lose(self, error: OSError) -> None:
        if error.errno != errno.EPIPE and self.lost is None:
            self.lost = error


@contextmanager
def unfailing_streams() -> Iterator[UnfailingStream]:
    """Let no write to stdout or stderr fail in the `with` block. Yields stdout, which has `lost`."""
    before = sys.stdout, sys.stderr
    streams = UnfailingStream(sys.stdout), UnfailingStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", streams[0]), cast("TextIO", streams[1])
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.give_up()
        sys.stdout, sys.stderr = before


@contextmanager
def native_stderr_dropped() -> Iterator[None]:
    """Drop what native libraries write to file descriptor 2, such as the message of a panic in Rust."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the caller closed it: there is nothing to drop
        yield
        return
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
