"""Driving a service from another process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from batchgen.errors import SetupError
from batchgen.local.chat import OpenAICompatible
from batchgen.local.server import LocalService, run_service
from local.helpers import gemini_job, together_client

if TYPE_CHECKING:
    from google import genai


def test_faults_time_and_counts_over_http(service: LocalService, gemini: genai.Client) -> None:
    service.world.job_seconds = 100
    with httpx.Client(base_url=service.together_url, timeout=5) as control:
        fault = {"type": "call", "endpoint": "list", "action": {"type": "status", "code": 503}}
        assert control.post("/_control/faults", json=[fault, fault]).json() == {"added": 2}
        assert service.world.requests == service.world.requests.__class__()
        job = gemini_job(gemini, 3)
        before = control.get("/_control/world").json()
        after = control.post("/_control/advance", json={"seconds": 100}).json()
        assert after["now"] - before["now"] >= 100
        assert gemini.batches.get(name=job).done
        counts = control.get("/_control/world").json()
        assert (counts["posts"], counts["keys_bought"], counts["keys_bought_twice"]) == (1, 3, 0)
        assert counts["jobs"][0]["served"] == 3
        assert control.delete("/_control/faults").json() == {}
        assert list(gemini.batches.list())
        assert control.post("/_control/options", json={"gone_models": ["a"], "page_size": 3}).status_code == 200
    assert (service.world.gone_models, service.world.page_size) == ({"a"}, 3)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"type": "nothing"}),
        ("faults", {"type": "rows", "outcome": "nothing"}),
        ("faults", {"type": "call", "action": {"type": "status"}}),
        ("advance", {}),
        ("options", {"faults": 1}),
        ("nowhere", {}),
    ],
)
def test_control_says_what_is_wrong(service: LocalService, path: str, body: object) -> None:
    with httpx.Client(base_url=service.gemini_url, timeout=5) as control:
        answer = control.post(f"/_control/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_the_blocking_service_ends_when_told() -> None:
    stop = threading.Event()
    urls: list[str] = []
    lines: list[str] = []

    def ready(service: LocalService) -> None:
        urls.append(service.together_url)
        with together_client(service) as client:
            assert client.batches.list() == []
        stop.set()

    run_service(LocalService(log=lines.append), ready=ready, stop=stop)
    assert lines == ["GET /v1/batches 200"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(urls[0], timeout=5)


def test_ctrl_c_ends_it_too() -> None:
    def interrupted(service: LocalService) -> None:
        raise KeyboardInterrupt

    run_service(LocalService(), ready=interrupted)


def test_a_port_that_is_taken(service: LocalService) -> None:
    port = int(service.together_url.rpartition(":")[2])
    with pytest.raises(SetupError, match=f"Port {port}"):
        LocalService(together_port=port).start()
    slow = OpenAICompatible("http://127.0.0.1:9")
    with pytest.raises(SetupError):
        LocalService(slow, together_port=port).start()
