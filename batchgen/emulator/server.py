"""The HTTP servers of the local service: three ports, because the paths of the providers collide."""

from __future__ import annotations

import re
import secrets
import select
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from batchgen.core.errors import SetupError
from batchgen.emulator import control_api, host_check, metrics
from batchgen.emulator.backends.builtin import Backend, Scripted
from batchgen.emulator.backends.workers import Workers
from batchgen.emulator.engine import advance_jobs
from batchgen.emulator.faults import Faults
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.protocols import gemini, openai, together
from batchgen.emulator.state import World
from batchgen.emulator.storage import DirectoryStore, MemoryStore
from batchgen.runtime.concurrency import run_parallel

HOST = "127.0.0.1"
POLL_SECONDS = 0.02
GRACE_SECONDS = 30.0
DRIP_PIECES = 20
LENGTH = re.compile("[0-9]{1,15}")
PATH_SIGNS = "/:@!$&'()*+,;=~"  # signs that a log line shows as they are
REFUSED_BYTES = 1 << 20  # so much is read of a body that is not wanted
PIECE_BYTES = 1 << 20  # of one piece of a file that is sent from disk
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # makes close() send a TCP reset
RequestHandler = Callable[[Request, World], Response]


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, handle: RequestHandler, service: LocalService) -> None:
        self.handle = handle
        self.service = service
        self.open_connections: set[socket.socket] = set()
        self.busy_connections: set[socket.socket] = set()  # with a request that is not answered completely
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without the base class's look-up of the host's full name, which may ask a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        host = self.service.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    def close_connections(self) -> None:
        """Close every connection, also idle keep-alive ones, so that every handler thread ends with the service."""
        for connection in list(self.open_connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error of a client that closed its connection; record any other."""
        _ = request, client_address
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.service.world.crashes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body are sent together
    server: _HttpServer

    def setup(self) -> None:
        super().setup()
        self.server.open_connections.add(self.connection)

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.server.open_connections.discard(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        pass

    def _serve(self) -> None:
        self.server.busy_connections.add(self.connection)
        try:
            self._serve_request()
        finally:
            self.server.busy_connections.discard(self.connection)

    def _serve_request(self) -> None:
        service = self.server.service
        request = self._request(b"")
        length = self.headers.get("Content-Length") or "0"
        size = int(length) if LENGTH.fullmatch(length) else -1
        if size < 0 or not service.may_send_body(request):
            self.rfile.read(min(max(size, 0), REFUSED_BYTES))  # a client reads no answer before its body is taken
            self.close_connection = True
        elif size:
            request = replace(request, body=self.rfile.read(size))
            if len(request.body) < size:  # the client disconnected in the middle of the body: this is no request
                self.close_connection = True
                return
        try:
            response = self._response(request)
        except Exception as error:  # noqa: BLE001 - a bug here must reach the test, not only the client
            service.world.crashes.append(error)
            response = json_response({"error": {"code": 500, "message": repr(error), "status": "INTERNAL"}}, 500)
        if request.path not in metrics.PATHS:  # these are asked for every few seconds, for ever
            service.log(f"{request.method} {quote(request.path, safe=PATH_SIGNS)} {response.status}")
        self._answer(response)

    def _response(self, request: Request) -> Response:
        service = self.server.service
        # A web page cannot know the token, so that with one the host name need not be checked.
        if not service.world.token and (refusal := host_check.foreign_host(request, service.hosts)):
            return refusal
        if response := metrics.handle(request, service.world):
            return response
        if not request.path.startswith(control_api.PREFIX):
            return self.server.handle(request, service.world)
        if not service.control:
            return json_response({"error": "Control is off. Start the service with `serve --control`."}, 404)
        if service.world.token and not service.world.accepts_key(request.api_key()):
            return json_response({"error": "Send the token: Authorization: Bearer TOKEN"}, 401)
        return host_check.foreign_page(request) or control_api.handle(request, service.world)

    # http.server calls methods of these names.
    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the base class's convention

    def _request(self, body: bytes) -> Request:
        target = urlsplit(self.path)
        return Request(
            method=self.command,
            path=unquote(target.path),
            query=dict(parse_qsl(target.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )

    def _answer(self, response: Response) -> None:
        how = response.transport
        if how.hold_seconds:
            self._delay(how.hold_seconds)
        if how.drop:
            if how.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if how.declare_length:
            size = response.file.stat().st_size if response.file else len(response.body)
            self.send_header("Content-Length", str(size))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        for piece in self._pieces(response):
            self.wfile.write(piece)
            self.wfile.flush()
        if how.keep_bytes is not None or not how.declare_length:
            self.close_connection = True

    def _pieces(self, response: Response) -> Iterator[bytes]:
        if response.file:
            with response.file.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
            return
        how = response.transport
        body = response.body if how.keep_bytes is None else response.body[: how.keep_bytes]
        if not how.drip_seconds:
            yield body
            return
        size = max(1, len(body) // DRIP_PIECES)
        released = self.server.service.faults.released
        for start in range(0, len(body), size):
            yield body[start : start + size]
            released.wait(how.drip_seconds / DRIP_PIECES)

    def _delay(self, seconds: float) -> None:
        """Wait, but stop when the client disconnects."""
        released = self.server.service.faults.released
        end = time.monotonic() + seconds
        while time.monotonic() < end and not released.wait(POLL_SECONDS):
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return


class LocalService:
    """All providers on three ports, as a context manager: Gemini, Together, the services of OpenAI's shape.

    job_seconds   how long a job takes at least; 0: the first poll finds it finished
    data_dir      files, jobs and finished rows are stored there and survive a restart; None: only in memory
    host          the address to listen on
    token         the only API key that is accepted, if it is not ""; then any host name is accepted
    ports         0: any free port
    log           called with one line per request
    control       whether /_control/ (see `control_api`) is served
    allow_hosts   host names that requests may use, besides those of this machine

    Leaving the context raises the first error inside the service, unless its body has raised.
    """

    def __init__(  # noqa: PLR0913 - one parameter an option
        self,
        backend: Backend | None = None,
        *,
        job_seconds: float = 0.0,
        data_dir: Path | None = None,
        host: str = HOST,
        token: str = "",
        gemini_port: int = 0,
        together_port: int = 0,
        openai_port: int = 0,
        log: Callable[[str], None] = lambda _: None,
        control: bool = False,
        allow_hosts: Sequence[str] = (),
    ) -> None:
        store = DirectoryStore(data_dir) if data_dir else MemoryStore()
        # With a token the ids of uploads must not be guessed: some uploads need no other key.
        seed = secrets.token_hex() if token else ""
        self.world = World(backend or Scripted(), store=store, job_seconds=job_seconds, seed=seed)
        self.world.token = token
        self.world.load()
        self.host = host
        self.log = self.world.log = log
        self.control = control
        self.hosts = frozenset({HOST, host, *map(host_check.host_name, allow_hosts)})
        self._ports = (gemini_port, together_port, openai_port)
        self._servers: list[_HttpServer] = []
        self._threads: list[threading.Thread] = []
        self._workers = Workers(self.world)
        self._patience_seconds = GRACE_SECONDS

    @property
    def faults(self) -> Faults:
        return self.world.faults

    @property
    def gemini_url(self) -> str:
        """Return the address for GOOGLE_GEMINI_BASE_URL."""
        return self._servers[0].url

    @property
    def together_url(self) -> str:
        """Return the address for TOGETHER_BASE_URL."""
        return self._servers[1].url

    @property
    def openai_url(self) -> str:
        """Return the address of the third port, under which every service has a path of its own."""
        return self._servers[2].url

    def service_url(self, name: str) -> str:
        """Return the address for the base URL of a service of OpenAI's shape, e.g. DEEPINFRA_BASE_URL."""
        return f"{self.openai_url}/{name}"

    def may_send_body(self, request: Request) -> bool:
        """Return whether the body of a request is read: with a token, only bodies of those who have it.

        The secret address of an upload counts as well.
        """
        world, upload = self.world, request.path.rpartition("/")[2]
        known = request.query.get("upload_id") in world.uploads or upload in world.uploads
        return not world.token or known or world.accepts_key(request.api_key())

    def step(self) -> None:
        """Update every job to the present time, as the next request would."""
        with self.world.lock:
            advance_jobs(self.world)

    def start(self) -> Self:
        """Start all servers. Raises SetupError if a port is taken."""
        for port, handle in zip(self._ports, (gemini.handle, together.handle, openai.handle), strict=True):
            try:
                server = _HttpServer(self.host, port, handle, self)
            except OSError as error:
                self.stop()
                raise SetupError(
                    f"Port {port} of {self.host} cannot be used: {error.strerror}.",
                    do="Choose another: --gemini-port, --together-port or --openai-port; 0 takes any free one.",
                ) from error
            self._servers.append(server)
            thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
            thread.start()
            self._threads.append(thread)
        self._workers.start()
        return self

    def drain(self, seconds: float) -> int:
        """Take no new jobs and no new rows, and wait for the rows and requests in flight.

        Returns the number of rows that were not finished in `seconds`.
        """
        end = time.monotonic() + seconds
        with self.world.lock:
            self.world.stopping = True
        self._workers.stop(seconds)
        while time.monotonic() < end and any(server.busy_connections for server in self._servers):
            time.sleep(POLL_SECONDS)
        self._patience_seconds = 0.0
        return self.world.counts.in_flight

    def stop(self) -> None:
        self.faults.release()
        for done in run_parallel([server.shutdown for server in self._servers], "stop"):
            done.result()
        for server in self._servers:
            server.close_connections()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._workers.stop(self._patience_seconds)
        self.world.backend.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self.world.crashes:
            raise self.world.crashes[0]


def run_service(
    service: LocalService,
    *,
    ready: Callable[[LocalService], None],
    stop: threading.Event | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Serve until SIGTERM, Ctrl-C, or until `stop` is set. Calls `ready` once with the running service.

    Before it returns, it finishes the rows that are being answered, for `grace_seconds` at most. Jobs in `data_dir`
    continue at the next start. A second signal ends it at once, with a KeyboardInterrupt.
    """
    with _sigterm_as_ctrl_c(), service:
        with suppress(KeyboardInterrupt):
            ready(service)
            (stop or threading.Event()).wait()
        if left := service.drain(grace_seconds):
            service.log(f"{left} rows in flight were not finished in {grace_seconds:g} s")


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt. Only the main thread gets signals; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
