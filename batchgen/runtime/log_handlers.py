"""Where log lines go: ours and the libraries' to stderr, redacted."""

from __future__ import annotations

import logging
import sys

from batchgen.runtime.logs import redacted


class _Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


def install(*, verbose: bool, quiet: bool) -> None:
    """Send the program's own log to stderr, and of the libraries' logs only warnings, redacted like ours.

    A handler at the root also keeps an SDK from making one of its own (TOGETHER_LOG=debug): httpx writes presigned
    URLs into its log.
    """
    handler = _Stderr()
    form = "%(asctime)s %(levelname)s %(message)s" if verbose else "%(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S %z"))  # local, and said so
    own = logging.getLogger("batchgen")
    own.handlers[:] = [handler]
    own.propagate = False
    own.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    foreign = _Foreign(logging.WARNING)
    root = logging.getLogger()
    root.handlers[:] = [*(before for before in root.handlers if not isinstance(before, _Foreign)), foreign]
    logging.getLogger("stamina").setLevel(logging.ERROR)  # each retry of a read is its business, not cron's


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at that moment: the live view puts itself in its place, to write above the table."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.addFilter(_Redact())

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


class _Foreign(_Stderr):
    """Where the libraries' warnings go."""
