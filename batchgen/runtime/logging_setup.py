"""Write log lines to stderr, and mask secrets in them.

The keys of all providers are added at the start of a command, and those of ROOT/.env when it is read (`environment`).
Texts from a provider are redacted when they arrive, because an answer may quote the key; log lines when they are
written.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress

from batchgen.core.wording import as_invoked

_API_KEY_PATTERNS = re.compile(r"AIza[\w-]{20,}|tgp_\w{10,}|\b(?:sk-|gsk_|hf_)[\w-]{20,}|(?<=Bearer )\S+")
MIN_SECRET_LENGTH = 6  # shorter values are not keys, and masking them would hide ordinary words

log = logging.getLogger("batchgen")
_secrets: set[str] = set()


def add_secret(secret: str) -> None:
    """Mask `secret` from now on wherever it would appear."""
    if len(secret) >= MIN_SECRET_LENGTH:
        _secrets.add(secret)


def redact(message: str) -> str:
    """Return `message` with every known key, and everything with the form of one, replaced by `***`."""
    for secret in sorted(_secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
    return _API_KEY_PATTERNS.sub("***", message)


def configure(*, verbose: bool, quiet: bool) -> None:
    """Send the program's log to stderr, and only warnings of libraries, all redacted.

    A handler at the root also stops an SDK from adding its own (TOGETHER_LOG=debug): httpx logs presigned URLs.
    """
    form = "%(asctime)s %(levelname)s %(message)s" if verbose else "%(message)s"
    own = _StderrHandler(logging.NOTSET)
    own.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S %z"))  # local time with its UTC offset
    log.handlers[:] = [own]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    root = logging.getLogger()
    root.handlers[:] = [
        *(one for one in root.handlers if not isinstance(one, _StderrHandler)),
        _StderrHandler(logging.WARNING),
    ]
    logging.getLogger("stamina").setLevel(logging.ERROR)  # no log line for each retry of a read: cron would mail it


class _Mask(logging.Filter):
    """Masks keys in a record, and writes commands as the program was called.

    A record whose arguments do not fit its text is passed on unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg} {record.args}"
        record.msg, record.args = redact(as_invoked(message)), ()
        return True


class _StderrHandler(logging.Handler):
    """Writes to the current sys.stderr, which the live view replaces to write above its table.

    A line that cannot be written (full disk, closed stream) is dropped.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.addFilter(_Mask())

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
