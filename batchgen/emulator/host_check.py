"""Refuse requests that a web page may have sent.

A page of any site in the user's browser can send requests to this machine. With DNS rebinding (the host name of the
page is made to resolve to 127.0.0.1) it can also read the responses; the Host header still has the page's host name.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

from batchgen.emulator.http_values import Request, Response, json_response

LOCAL_NAME = "localhost"


def foreign_host(request: Request, allowed: Collection[str]) -> Response | None:
    """Return the error for a request whose Host header names neither this machine nor one of `allowed`; otherwise None.

    `allowed` are host names in lower case without a port. A request without the header does not come from a browser.
    """
    host = request.headers.get("host")
    if host is None:
        return None
    name = host_name(host)
    if name in allowed or is_this_machine(name):
        return None
    message = (
        f"This service does not answer under the host name {host!r}."
        f" Start it with `serve --allow-host {name or 'NAME'}`, or use http://127.0.0.1."
    )
    return json_response({"error": {"code": 421, "message": message, "status": "MISDIRECTED_REQUEST"}}, 421)


def foreign_page(request: Request) -> Response | None:
    """Return the error for a request that a page of another site can make a browser send; otherwise None."""
    origin = request.headers.get("origin")
    if origin is not None and origin != request.origin():
        return json_response({"error": f"A web page of {origin!r} may not control this service."}, 403)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and content_type != "application/json":
        # Before a browser sends JSON to another site it asks that site (CORS preflight); this service never permits it.
        return json_response({"error": f"Send application/json as the Content-Type, not {content_type!r}."}, 415)
    return None


def host_name(host: str) -> str:
    """Return a Host header in lower case, without the port, IPv6 brackets and a full stop at its end."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, colon, port = host.rpartition(":")
    bare = name if colon and ":" not in name and (port.isdecimal() or not port) else host
    return bare.lower().removesuffix(".")


def is_this_machine(name: str) -> bool:
    """Return whether a host name in lower case leads to this machine only."""
    return name == LOCAL_NAME or name.endswith(f".{LOCAL_NAME}") or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
