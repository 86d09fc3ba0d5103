"""Several model servers as one backend: each row goes to the one with the fewest rows in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from batchgen.emulator.backends.builtin import Answer, Backend, BackendBusy, Prompt
from batchgen.emulator.backends.throttle import Throttle


class PoolServer:
    """One server of a pool; its throttle counts the rows in flight and lets it rest after errors."""

    __slots__ = ("backend", "name", "throttle")

    def __init__(self, name: str, backend: Backend) -> None:
        self.name, self.backend, self.throttle = name, backend, Throttle(backend.parallel)


class Pool:
    """A backend of several servers, by name.

    A row that a server cannot answer now goes to the next one. A server that failed DOWN_AFTER times in a row rests
    for growing pauses (see `Throttle`), after each of which one row is tried. While all servers rest, `parallel` is 0.
    """

    instant = False

    def __init__(
        self,
        backends: Mapping[str, Backend],
        *,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.servers = tuple(PoolServer(name, backend) for name, backend in backends.items())
        self._clock, self._log = clock, log
        self._lock = threading.Lock()

    @property
    def parallel(self) -> int:
        """Return how many rows may be in flight now."""
        now = self._clock()
        with self._lock:
            return sum(server.throttle.limit(now) for server in self.servers)

    def answer(self, prompt: Prompt) -> Answer:
        """Return the answer of the first server that has one.

        Raises BackendBusy if none has: of the servers, not of the row, so that other rows are sent all the same.
        """
        tried: list[PoolServer] = []
        wishes: list[float] = []
        said = "all model servers rest after errors"
        while server := self._take(tried):
            tried.append(server)
            busy: BackendBusy | None = None
            try:
                return server.backend.answer(prompt)
            except BackendBusy as error:
                busy, said = error, f"{server.name}: {error}"
                wishes.append(error.after_seconds)
            finally:
                self._put_back(server, busy)
        raise BackendBusy(said, min(wishes, default=0.0), affects_all_rows=False)

    def _take(self, tried: list[PoolServer]) -> PoolServer | None:
        """Return the server for a row that `tried` could not answer. None if all others rest."""
        now = self._clock()
        with self._lock:
            others = [server for server in self.servers if server not in tried]
            # A row that comes from another server may exceed the limit of this one, but not that of a resting server.
            able = [one for one in others if one.throttle.may_ask(now)] or [
                one for one in others if not one.throttle.is_down
            ]
            chosen = min(able, key=lambda server: server.throttle.asked, default=None)
            if chosen is not None:
                chosen.throttle.asked += 1
        return chosen

    def _put_back(self, server: PoolServer, busy: BackendBusy | None) -> None:
        """Record the end of a call: `busy` is None if the server answered, even with an error of the row."""
        throttle = server.throttle
        with self._lock:
            was_down = throttle.is_down
            throttle.asked -= 1
            if busy is None:
                throttle.record_success()
            else:
                throttle.refused(self._clock())
            is_down = throttle.is_down
        if is_down and not was_down:
            self._log(f"{server.name} rests, its rows go to the other servers: {busy}")
        elif was_down and not is_down:
            self._log(f"{server.name} answers again")

    def close(self) -> None:
        for server in self.servers:
            server.backend.close()
