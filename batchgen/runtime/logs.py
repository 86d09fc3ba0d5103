"""Log lines on stderr, and the one place that knows which words are secret.

The keys of all providers become known here at the start of a command, and those of ROOT/.env where it is read
(`settings`). Whatever a provider says is redacted where it enters (an answer may quote the key), and whatever the
program says is redacted where it leaves.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

_KEY_SHAPES = re.compile(r"AIza[\w-]{20,}|tgp_\w{10,}|\b(?:sk-|gsk_|hf_)[\w-]{20,}|(?<=Bearer )\S+")
SECRET_LENGTH = 6  # shorter values are no keys, and masking them would garble ordinary words

_secrets: set[str] = set()
_wanted: list[bool] = []  # (verbose, quiet) until the handlers are in place


def learn(secret: str) -> None:
    """From now on `secret` is masked wherever it would appear."""
    if len(secret) >= SECRET_LENGTH:
        _secrets.add(secret)


def redacted(message: str) -> str:
    """`message` with every known key, and whatever has the shape of one, replaced by `***`."""
    for secret in sorted(_secrets, key=len, reverse=True):
        message = message.replace(secret, "***")
    return _KEY_SHAPES.sub("***", message)


def configure(*, verbose: bool, quiet: bool, at_once: bool = True) -> None:
    """How much the program says. Not `at_once`: `logging` is loaded with the first line, or before a foreign library
    may write one (`set_up`); a tick that finds nothing to do says nothing.
    """
    _wanted[:] = [verbose, quiet]
    if at_once or "logging" in sys.modules:
        set_up()


def set_up() -> None:
    """Put the log's handlers in place, if `configure` has left that for later."""
    if _wanted:
        from batchgen.runtime.log_handlers import install

        verbose, quiet = _wanted
        _wanted.clear()
        install(verbose=verbose, quiet=quiet)


class _Log:
    """The program's own logger, which is loaded when it is used."""

    def __getattr__(self, name: str) -> Any:
        set_up()
        from logging import getLogger

        return getattr(getLogger("batchgen"), name)


if TYPE_CHECKING:
    log: logging.Logger
else:
    log = _Log()
