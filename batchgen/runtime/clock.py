"""The only module that reads the clock or sleeps; tests replace its functions."""

from __future__ import annotations

import time


def now() -> float:
    """Return seconds since 1970 UTC."""
    return time.time()


def sleep(seconds: float) -> None:
    time.sleep(seconds)
