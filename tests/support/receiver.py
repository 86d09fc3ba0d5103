"""An HTTP server on loopback that takes the calls of `[notify] url`, and answers as it is told."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self


class Taken(NamedTuple):
    """One request: method, path, header names in lower case, body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """A context manager. `taken` has every request; each gets `status`, or no answer at all if `silent` is set."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.status = 200
        self.silent = False
        self._ended = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.taken.append(Taken(self.command, self.path, headers, body))
                if receiver.silent:
                    receiver._ended.wait(30)
                    return
                self.send_response(receiver.status)
                self.end_headers()

            do_GET = do_POST = _take  # noqa: N815 - the base class's convention

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
