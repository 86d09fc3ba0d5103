"""Back-off after a quota answer, kept in the store so that it holds across ticks."""

from __future__ import annotations

import random

from batchgen.records import Wait
from batchgen.store import Store

FIRST_SECONDS, MOST_SECONDS = 60.0, 2 * 3600.0


def pause(store: Store, scope: str, reason: str, now: float, wish_seconds: float | None = None) -> float:
    """Hold `scope` ("provider/model") back, longer at each repetition, or as long as the provider wishes.

    Returns the pause in seconds. Attempts are not touched: nothing was bought.
    """
    before = store.waits().get(scope)
    hits = (before.hits if before else 0) + 1
    jittered = FIRST_SECONDS * 2 ** min(hits - 1, 16) * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
    seconds = min(jittered if wish_seconds is None else wish_seconds, MOST_SECONDS)
    store.wait(Wait(scope, now + seconds, hits, reason))
    return seconds


def in_force(wait: Wait, now: float) -> bool:
    """Whether `wait` forbids a create now. A clock that jumped back cannot stretch a pause beyond the longest."""
    return wait.until is None or now < wait.until <= now + MOST_SECONDS
