"""One HTTP request and one response as values, so that handlers need no socket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from batchgen.emulator.errors import ApiError

JSON_TYPE = "application/json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a handler: header names are in lower case, the body is complete."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """Return the body as JSON. Raises ApiError 400 if it is not JSON."""
        try:
            return orjson.loads(self.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise ApiError(400, f"Invalid JSON payload received. {error}") from error

    def form(self) -> dict[str, bytes]:
        """Return the fields of a multipart/form-data body; the bytes of a file are a field like any other.

        The name of a file is in the field NAME.filename. Raises ApiError 400 if the body is no form.
        """
        _, _, boundary = self.headers.get("content-type", "").partition("boundary=")
        if not boundary:
            raise ApiError(400, "multipart/form-data expected")
        fields: dict[str, bytes] = {}
        for part in self.body.split(b"--" + boundary.strip('"').encode())[1:-1]:
            head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
            named = re.search(rb'\bname="([^"]*)"', head)
            name = named[1].decode() if named else ""
            fields[name] = value.removesuffix(b"\r\n")
            if file := re.search(rb'filename="([^"]*)"', head):
                fields[f"{name}.filename"] = file[1]
        return fields

    def origin(self) -> str:
        """Return `http://host:port` as the client wrote it, for addresses in responses that lead to this service.

        A proxy in front that ends TLS says https in X-Forwarded-Proto.
        """
        scheme = "https" if self.headers.get("x-forwarded-proto", "").lower() == "https" else "http"
        return f"{scheme}://{self.headers.get('host', '127.0.0.1')}"

    def api_key(self) -> str:
        """Return the key of the request, wherever a provider takes one; "" if there is none."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return bearer or self.headers.get("x-goog-api-key", "") or self.query.get("key", "")


@dataclass(frozen=True, slots=True)
class Transport:
    """What the server does to a response while sending it; nothing by default."""

    hold_seconds: float = 0.0  # wait this long, or until the client disconnects, or until faults.release()
    drip_seconds: float = 0.0  # spread the body over this time
    drop: bool = False  # close the connection instead of answering
    reset: bool = False  # with drop: send a TCP reset, which clients report differently
    keep_bytes: int | None = None  # send only this many bytes of the body, then close
    declare_length: bool = True  # without Content-Length the client reads until the connection closes


NO_TRANSPORT_FAULT = Transport()


@dataclass(frozen=True, slots=True)
class Response:
    """A response and its transport. With a `file` the body is the content of the file, sent piece by piece."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    transport: Transport = NO_TRANSPORT_FAULT
    file: Path | None = None

    def with_body_in_memory(self) -> Response:
        """Return the response with its body in memory, where a fault can change it."""
        return self if self.file is None else replace(self, body=self.file.read_bytes(), file=None)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON, with the content type that the SDKs require."""
    return Response(status, {"Content-Type": JSON_TYPE, **(headers or {})}, orjson.dumps(value))
