"""Log lines on stderr, and the one place that knows which words are secret.

The keys of all providers become known here at the start of a command, and those of ROOT/.env where it is read
(`settings`). Whatever a provider says is redacted where it enters (an answer may quote the key), and whatever the
program says is redacted where it leaves.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress

_API_KEY_PATTERNS = re.compile(r"AIza[\w-]{20,}|tgp_\w{10,}|\b(?:sk-|gsk_|hf_)[\w-]{20,}|(?<=Bearer )\S+")
MIN_SECRET_LENGTH = 6  # shorter values are no keys, and masking them would garble ordinary words

log = logging.getLogger("batchgen")
_secrets: set[str] = set()


def add_secret(secret: str) -> None:
    """From now on `secret` is masked wherever it would appear."""
    if len(secret) >= MIN_SECRET_LENGTH:
        _secrets.add(secret)


def redact(message: str) -> str:
    """`message` with every known key, and whatever has the shape of one, replaced by `***`."""
    for secret in sorted(_secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
    return _API_KEY_PATTERNS.sub("***", message)


def configure(*, verbose: bool, quiet: bool) -> None:
    """Send the program's own log to stderr, and of the libraries' logs only warnings, redacted like ours.

    A handler at the root also keeps an SDK from making one of its own (TOGETHER_LOG=debug): httpx writes presigned
    URLs into its log.
    """
    form = "%(asctime)s %(levelname)s %(message)s" if verbose else "%(message)s"
    own = _StderrHandler(logging.NOTSET)
    own.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S %z"))  # local, and said so
    log.handlers[:] = [own]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    root = logging.getLogger()
    root.handlers[:] = [
        *(one for one in root.handlers if not isinstance(one, _StderrHandler)),
        _StderrHandler(logging.WARNING),
    ]
    logging.getLogger("stamina").setLevel(logging.ERROR)  # each retry of a read is its business, not cron's


class _Mask(logging.Filter):
    """Masks keys in a record. It also lets a record through whose arguments do not fit its text, as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg} {record.args}"
        record.msg, record.args = redact(message), ()
        return True


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at that moment: the live view puts itself in its place, to write above the table.
    A line that cannot be written (a full disk, a closed stream) is dropped.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.addFilter(_Mask())

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
