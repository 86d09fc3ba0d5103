"""Route a request to its handler; check keys, apply faults, write the log."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from batchgen.emulator.backends.builtin import BackendBusy, BackendError
from batchgen.emulator.engine import advance_jobs
from batchgen.emulator.errors import ApiError, error_body
from batchgen.emulator.faults import CallFault, LateCommit
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.state import CreateCall, LoggedRequest, World, key_fingerprint

# Endpoints that a service which is stopping refuses. Uploads too: a refused create call is an unclear answer to a
# client, which then looks for its job, while a refused upload is tried again at once.
NEW_WORK = frozenset({"create", "probe", "upload_start", "upload_whole"})


class Call(NamedTuple):
    """One request for a handler; `owner` is the fingerprint of its key, `ids` are the names in the path."""

    request: Request
    world: World
    owner: str
    ids: dict[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """`pattern` matches the whole path; `query` must be a parameter of the request, if given.

    `keyless` routes need no API key: their address is secret. `unlocked` routes do not hold the lock of the world,
    because they are slow and change nothing.
    """

    method: str
    pattern: str
    endpoint: str
    function: Callable[[Call], Response]
    query: str = ""
    keyless: bool = False
    unlocked: bool = False


@dataclass(frozen=True, slots=True)
class Router:
    """The routes of one provider; `key_of` returns the API key and `refused` the error for a wrong one."""

    provider: str
    routes: tuple[Route, ...]
    key_of: Callable[[Request], str]
    refused: Callable[[str], ApiError]

    def handle(self, request: Request, world: World) -> Response:
        """Answer one request; only `world` changes."""
        route, ids = self._match(request)
        key = self.key_of(request)
        call = Call(request, world, key_fingerprint(key) if key else "", ids)
        with world.lock:
            advance_jobs(world)
            fault = world.faults.take_call_fault(self.provider, route.endpoint, request)
        with nullcontext() if route.unlocked else world.lock:
            jobs = len(world.jobs)
            response = Response()
            if fault is None or fault.after:
                response = self._effect(route, call, key, fault)
            if fault is not None:
                response = fault.action.apply(response.with_body_in_memory(), (self.provider, route.endpoint))
            self._log(route, call, response, created=len(world.jobs) > jobs)
        return response

    def _match(self, request: Request) -> tuple[Route, dict[str, str]]:
        for route in self.routes:
            if route.method == request.method and (not route.query or route.query in request.query):
                found = re.fullmatch(route.pattern, request.path)
                if found:
                    return route, found.groupdict()
        return Route(request.method, "", "unknown", _not_found, keyless=True), {}

    def _effect(self, route: Route, call: Call, key: str, fault: CallFault | None) -> Response:
        world = call.world
        try:
            self._check(route, key, world)
            if fault is not None and isinstance(fault.action, LateCommit):
                world.late_seconds = fault.action.seconds
            return route.function(call)
        except (ApiError, BackendError) as found:
            error = found if isinstance(found, ApiError) else _backend_error(found)
            return json_response(error_body(self.provider, route.endpoint, error), error.status, error.headers)
        finally:
            world.late_seconds = 0.0

    def _check(self, route: Route, key: str, world: World) -> None:
        """Raise ApiError for a wrong key, and for new work once the service is stopping."""
        if not route.keyless and not world.accepts_key(key):
            raise self.refused(key)
        if world.stopping and route.endpoint in NEW_WORK:
            raise ApiError(503, "This service is stopping. It goes on when it is started again.")

    def _log(self, route: Route, call: Call, response: Response, *, created: bool) -> None:
        world, request = call.world, call.request
        status = 0 if response.transport.drop else response.status
        now = world.now()
        world.requests.append(
            LoggedRequest(self.provider, route.endpoint, request.method, request.path, status, call.owner, now)
        )
        if route.endpoint == "create":
            job = next(reversed(world.jobs)) if created else ""
            retry = request.headers.get("x-stainless-retry-count", "")
            world.posts.append(CreateCall(self.provider, call.owner, status, job, now, retry, request.body))


def _backend_error(error: BackendError) -> ApiError:
    """Return the error for a call that cannot wait: every provider answers busy."""
    return ApiError(503 if isinstance(error, BackendBusy) else 500, str(error))


def _not_found(call: Call) -> Response:
    raise ApiError(404, f"No such address: {call.request.method} {call.request.path}")
