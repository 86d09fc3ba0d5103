"""The one place that reads the clock or waits; tests put their own time here."""

from __future__ import annotations

import time


def now() -> float:
    """Seconds since 1970 UTC."""
    return time.time()


def sleep(seconds: float) -> None:
    time.sleep(seconds)
