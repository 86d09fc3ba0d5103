"""Fixtures: a running local service, clients of both official SDKs that call it, and plain calls to other services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from batchgen.emulator.server import LocalService
from tests.support.openai_calls import Wire
from tests.support.sdk_calls import KEY, gemini_client, together_client

if TYPE_CHECKING:
    from google import genai
    from together import Together

ENVIRONMENT = (
    *("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_API_VERSION", "TOGETHER_API_KEY"),
    *("GOOGLE_GENAI_USE_VERTEXAI", "TOGETHER_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"),
    *("https_proxy", "all_proxy"),
)


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def service() -> Iterator[LocalService]:
    with LocalService(control=True) as running:
        yield running


@pytest.fixture
def gemini(service: LocalService) -> Iterator[genai.Client]:
    with gemini_client(service) as client:
        yield client


@pytest.fixture
def together(service: LocalService) -> Iterator[Together]:
    with together_client(service) as client:
        yield client


@pytest.fixture
def wire(service: LocalService) -> Iterator[Callable[..., Wire]]:
    opened: list[Wire] = []

    def open_wire(name: str = "deepinfra", path: str = "", key: str = KEY) -> Wire:
        opened.append(Wire(service, name, path, key))
        return opened[-1]

    yield open_wire
    for one in opened:
        one.client.close()


@pytest.fixture
def deepinfra(wire: Callable[..., Wire]) -> Wire:
    return wire()
