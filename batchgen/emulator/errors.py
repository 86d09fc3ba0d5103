"""The error bodies of all providers."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from batchgen.emulator.services import SERVICES, Service

RPC_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
BATCH_ENDPOINTS = frozenset({"create", "get", "list", "cancel", "delete"})


class ApiError(Exception):
    """An error response of a handler; the router formats it as the provider does.

    `status` is the HTTP status; `code` the provider's word for it (Google's rpc status, Together's error code);
    `details` is appended to Google's error object unchanged, and is the whole of DeepInfra's detail; `headers` are
    sent too.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        details: list[Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.details = details
        self.headers = headers or {}


def error_body(provider: str, endpoint: str, error: ApiError) -> dict[str, Any]:
    """Return the JSON body of `provider` (Together uses different bodies for batches and files)."""
    if provider == "gemini":
        body: dict[str, Any] = {"code": error.status, "message": error.message}
        body["status"] = error.code or RPC_STATUS.get(error.status, "UNKNOWN")
        if error.details:
            body["details"] = error.details
        return {"error": body}
    if provider in SERVICES:
        return _service_body(SERVICES[provider], error)
    if endpoint in BATCH_ENDPOINTS:
        return {"error": error.message, "request_id": "local"}
    return _typed_body(error)


def _typed_body(error: ApiError) -> dict[str, Any]:
    kind = "not_found" if error.status == HTTPStatus.NOT_FOUND else "invalid_request_error"
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code or None}}


def _service_body(service: Service, error: ApiError) -> dict[str, Any]:
    if service.error_form == "error":
        return _typed_body(error)
    if error.status == HTTPStatus.NOT_FOUND:
        return {"detail": {"error": error.message}}
    return {"detail": error.details or error.message}
