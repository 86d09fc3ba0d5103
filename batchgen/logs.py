"""Log lines on stderr, and the filter that keeps keys out of them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable

_KEY_SHAPES = re.compile(r"AIza[\w-]{20,}|tgp_\w{10,}|(?<=Bearer )\S+")
SECRET_LENGTH = 6  # shorter values are no keys, and masking them would garble ordinary words


class Redact(logging.Filter):
    """Replaces every known key, and whatever has the shape of one, by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if len(secret) >= SECRET_LENGTH]

    def text(self, message: str) -> str:
        for secret in self._secrets:
            message = message.replace(secret, "***")
        return _KEY_SHAPES.sub("***", message)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.text(record.getMessage()), ()
        return True


def configure(*, verbose: bool, quiet: bool, redact: Redact) -> None:
    """Send the program's own log to stderr. The SDKs' logs stay off: httpx writes presigned URLs into its own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s" if verbose else "%(message)s"))
    handler.addFilter(redact)
    logger = logging.getLogger("batchgen")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
