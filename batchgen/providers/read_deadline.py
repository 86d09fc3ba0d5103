"""A deadline for a complete answer.

The read time-out of an HTTP client starts again with every byte, so a body that arrives one byte at a time would hold
the lock of the root for ever. All HTTP clients that are used here (httpx, httpx2) accept the same hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

MAX_TIMEOUTS_PER_RESPONSE = 10  # the longest time from the first byte of an answer to its last, in time-outs


def response_deadline(http: Any, timeout_seconds: float) -> Callable[[Any], None]:
    """Return a response hook for a client of `http` (httpx or httpx2); raises ReadTimeout if a body takes too long."""

    class Limited(http.SyncByteStream):  # type: ignore[misc] # a class of either library
        def __init__(self, chunks: Any) -> None:
            self._chunks, self._end = chunks, monotonic() + MAX_TIMEOUTS_PER_RESPONSE * timeout_seconds

        def __iter__(self) -> Iterator[bytes]:
            return _chunks_until(self._end, self._chunks, http.ReadTimeout)

        def close(self) -> None:
            self._chunks.close()

    def limit(response: Any) -> None:
        response.stream = Limited(response.stream)

    return limit


def _chunks_until(end: float, chunks: Iterable[bytes], late: type[Exception]) -> Iterator[bytes]:
    for chunk in chunks:
        if monotonic() > end:
            raise late(f"the answer is not complete after {MAX_TIMEOUTS_PER_RESPONSE} time-outs")
        yield chunk
