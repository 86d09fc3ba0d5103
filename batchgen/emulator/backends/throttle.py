"""Limit the rows sent to a model server at once: fewer while it is overloaded, one at a time while it is down."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 600.0  # a longer Retry-After is shortened to this
SHRINK = 0.9  # factor on the allowed requests after a refusal; each success allows one more
DOWN_AFTER = 8  # refusals in a row after which the server counts as down


def backoff_seconds(tries: int, wish_seconds: float, luck: float) -> float:
    """Return the seconds until a row refused `tries` times may be sent again; `luck` is in [0, 1)."""
    grown = min(FIRST_DELAY_SECONDS * 2.0 ** min(tries - 1, 10), MAX_DELAY_SECONDS)
    return max(min(wish_seconds, MAX_RETRY_AFTER_SECONDS), grown * (0.5 + luck / 2))


class Throttle:
    """The limit for all workers together. It has no lock of its own: the caller holds one."""

    def __init__(self, most: int, *, luck: Callable[[], float] | None = None) -> None:
        self._most = most
        self._jitter = luck or Random(0).random  # noqa: S311 - spreads retries, guards nothing
        self._allowed = float(most)
        self._refused = 0  # in a row
        self._pauses = 0
        self._paused_until = 0.0
        self.asked = 0  # requests in flight

    @property
    def allowed(self) -> int:
        """Return how many requests may be in flight now."""
        return max(1, int(self._allowed))

    @property
    def is_down(self) -> bool:
        """Return whether the server has refused so often that only one request at a time is tried."""
        return self._refused >= DOWN_AFTER

    def may_ask(self, now: float) -> bool:
        """Return whether one more request may be sent."""
        return self.asked < self.limit(now)

    def limit(self, now: float) -> int:
        """Return how many requests may be in flight; 0 during a pause."""
        clock_set_back = self._paused_until - now > MAX_DELAY_SECONDS
        return self.allowed if now >= self._paused_until or clock_set_back else 0

    def record_success(self) -> None:
        """Record that the server answered, even if it said that a row is wrong."""
        self._refused = self._pauses = 0
        self._paused_until = 0.0
        self._allowed = min(self._allowed + 1, self._most)

    def refused(self, now: float) -> None:
        """Record that the server was busy, broken or absent."""
        self._allowed = max(1.0, self._allowed * SHRINK)
        self._refused += 1
        # Refusals of requests sent before the pause began do not start another pause.
        if self.is_down and now >= self._paused_until:
            self._pauses += 1
            self._paused_until = now + backoff_seconds(self._pauses, 0.0, self._jitter())
            self._allowed = 1.0

    def retry_at(self, now: float, tries: int, wish_seconds: float) -> float:
        """Return when a row that was refused `tries` times may be sent again."""
        return now + backoff_seconds(tries, wish_seconds, self._jitter())
