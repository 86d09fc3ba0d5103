"""Log how far long work is. Short work logs nothing, so that a tick of cron stays quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TypeVar

from batchgen.runtime.logging_setup import log

PROGRESS_SECONDS = 10.0  # between two log lines, and before the first

_Item = TypeVar("_Item")


def log_progress(items: Iterable[_Item], done: str, size: Callable[[_Item], int] = lambda _: 1) -> Iterator[_Item]:
    """Yield `items`, and log every PROGRESS_SECONDS how many were yielded: `120,000 of 1,000,000 conversations read`.

    `done` is what follows the number. `size` returns for how many an item counts.
    """
    count, following = 0, monotonic() + PROGRESS_SECONDS
    for item in items:
        yield item
        count += size(item)
        if monotonic() >= following:
            log.info("%s %s", f"{count:,}", done)
            following = monotonic() + PROGRESS_SECONDS
