"""What a fault can do to one call: refuse it, or lose, delay, cut or change its response. Each has a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import orjson

from batchgen.emulator.errors import ApiError, error_body
from batchgen.emulator.http_values import Response, Transport, json_response

SIGN_IN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to the network.</body></html>\n"
)
HANG_SECONDS = 30.0


class _Action(msgspec.Struct, frozen=True, tag=str.lower):
    """What happens to a call. `after`: the call takes effect first, then the action."""

    @property
    def after(self) -> bool:
        return False

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        """Return the response that the client gets, unchanged by default; `where` is (provider, endpoint)."""
        return response


class _AfterAction(_Action, frozen=True):
    @property
    def after(self) -> bool:
        return True


class Status(_Action, frozen=True):
    """An error response of the provider. `headers`: e.g. {"Retry-After": "1"}; `body` replaces the usual body."""

    code: int
    message: str = "The service is currently unavailable."
    status: str = ""
    headers: dict[str, str] = {}
    body: Any = None

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        body = self.body
        if body is None:
            body = error_body(*where, ApiError(self.code, self.message, code=self.status))
        return json_response(body, self.code, self.headers)


class Body(_Action, frozen=True):
    """Any response: `json`, or `text` with a content type."""

    json: Any = None
    text: str = ""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = {}

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        if self.json is not None:
            return json_response(self.json, self.status, self.headers)
        return Response(self.status, {"Content-Type": self.content_type, **self.headers}, self.text.encode())


class Html(_Action, frozen=True):
    """An HTML page, as a captive portal or a proxy sends it, by default with status 200."""

    status: int = 200

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return Response(self.status, {"Content-Type": "text/html; charset=utf-8"}, SIGN_IN_PAGE)


class Empty(_Action, frozen=True):
    """Status 200 and `{}`."""

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return json_response({})


class Drop(_Action, frozen=True):
    """Close the connection without a response; `reset`: by a TCP reset."""

    reset: bool = False

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, transport=Transport(drop=True, reset=self.reset))


class Hang(_Action, frozen=True):
    """Close the connection without a response after `seconds` (real time), or at `faults.release()`."""

    seconds: float = HANG_SECONDS

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, transport=Transport(hold_seconds=self.seconds, drop=True))


class Delay(_AfterAction, frozen=True):
    """Send the real response `seconds` (real time) late, or at `faults.release()`."""

    seconds: float

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, transport=Transport(hold_seconds=self.seconds))


class Drip(_AfterAction, frozen=True):
    """Send the body slowly over `seconds` (real time), so that no single read times out."""

    seconds: float

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, transport=Transport(drip_seconds=self.seconds))


class Truncate(_AfterAction, frozen=True):
    """Send only the share `keep` of the body, up to the end of a line if `on_line`.

    Without `content_length` the client cannot tell that something is missing.
    """

    keep: float = 0.02
    content_length: bool = True
    on_line: bool = False

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        size = int(len(response.body) * self.keep)
        if self.on_line:
            size = response.body.rfind(b"\n", 0, size) + 1
        return replace(response, transport=Transport(keep_bytes=size, declare_length=self.content_length))


class Merge(_AfterAction, frozen=True):
    """Merge `patch` into the real JSON response (RFC 7396: null deletes a member)."""

    patch: dict[str, Any]

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, body=orjson.dumps(merge_patch(orjson.loads(response.body), self.patch)))


class Strip(_AfterAction, frozen=True):
    """Delete every member called `member` from the real JSON response, at any depth."""

    member: str

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, body=orjson.dumps(_stripped(orjson.loads(response.body), self.member)))


class Unwrap(_AfterAction, frozen=True):
    """Send only the `member` of the real JSON response, for example a job without its wrapper."""

    member: str

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return replace(response, body=orjson.dumps(orjson.loads(response.body)[self.member]))


class LateCommit(_AfterAction, frozen=True):
    """For create only: create the job `seconds` (virtual time) later; the client gets `then` at once."""

    seconds: float
    then: Status | Drop | Hang | Html | Empty = Drop()

    def apply(self, response: Response, where: tuple[str, str]) -> Response:
        return self.then.apply(response, where)


Action = Status | Body | Html | Empty | Drop | Hang | Delay | Drip | Truncate | Merge | Strip | Unwrap | LateCommit


def merge_patch(value: Any, patch: Any) -> Any:
    """Return `patch` merged into `value` according to RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(value) if isinstance(value, Mapping) else {}
    for name, part in patch.items():
        if part is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), part)
    return merged


def _stripped(value: Any, member: str) -> Any:
    if isinstance(value, list):
        return [_stripped(item, member) for item in value]
    if isinstance(value, Mapping):
        return {name: _stripped(part, member) for name, part in value.items() if name != member}
    return value
