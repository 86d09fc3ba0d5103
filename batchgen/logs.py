"""Log lines on stderr, and the one place that knows which words are secret.

A key becomes known here where it is read (`settings.api_key`) or at the start of a command. Whatever a provider says is
redacted where it enters (an answer may quote the key), and whatever the program says is redacted where it leaves.
"""

from __future__ import annotations

import logging
import re
import sys

_KEY_SHAPES = re.compile(r"AIza[\w-]{20,}|tgp_\w{10,}|(?<=Bearer )\S+")
SECRET_LENGTH = 6  # shorter values are no keys, and masking them would garble ordinary words

_secrets: set[str] = set()


def learn(secret: str) -> None:
    """From now on `secret` is masked wherever it would appear."""
    if len(secret) >= SECRET_LENGTH:
        _secrets.add(secret)


def redacted(message: str) -> str:
    """`message` with every known key, and whatever has the shape of one, replaced by `***`."""
    for secret in sorted(_secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
    return _KEY_SHAPES.sub("***", message)


class _Redact(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


def configure(*, verbose: bool, quiet: bool) -> None:
    """Send the program's own log to stderr, and of the libraries' logs only warnings, redacted like ours.

    A handler at the root also keeps an SDK from making one of its own (TOGETHER_LOG=debug): httpx writes presigned
    URLs into its log.
    """
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s" if verbose else "%(message)s"))
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
