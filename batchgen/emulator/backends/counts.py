"""Count what the backend answered, for /metrics (`batchgen.emulator.metrics`)."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter

from batchgen.emulator.backends.builtin import Answer, Backend, BackendBusy, Prompt

BUCKET_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FAILED, INVALID = "failed", "invalid"


class Counts:
    """What happened since the start of the service. All threads share it.

    rows       rows of batches, and single calls, by outcome: the finish of the answer, `failed` or `invalid`
    retries    answers that the backend could not give at that moment; the row was sent again, or counts as failed too
    in_flight  calls that the backend has not answered yet
    seconds    how many answers took at most so long, by BUCKET_SECONDS; the last number is of all slower ones
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows: Counter[str] = Counter()
        self.retries = 0
        self.in_flight = 0
        self.seconds = [0] * (len(BUCKET_SECONDS) + 1)
        self.total_seconds = 0.0
        self.prompt_tokens = self.completion_tokens = 0

    def answer(self, backend: Backend, prompt: Prompt) -> Answer:
        """Return what `backend` answers, counted. Raises what it raises."""
        with self._lock:
            self.in_flight += 1
        start = time.perf_counter()
        try:
            answer = backend.answer(prompt)
        except BackendBusy:
            self._end("")
            raise
        except BaseException:
            self._end(FAILED)
            raise
        elapsed = time.perf_counter() - start
        with self._lock:
            self.in_flight -= 1
            self.rows[answer.finish] += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens
            self.seconds[bisect_left(BUCKET_SECONDS, elapsed)] += 1
            self.total_seconds += elapsed
        return answer

    def _end(self, outcome: str) -> None:
        with self._lock:
            self.in_flight -= 1
            if outcome:
                self.rows[outcome] += 1
            else:
                self.retries += 1

    def add(self, outcome: str) -> None:
        """Count a row that ended without an answer."""
        with self._lock:
            self.rows[outcome] += 1
