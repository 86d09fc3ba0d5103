"""Control a service from another process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from batchgen.core.errors import SetupError
from batchgen.emulator.backends.openai_chat import OpenAICompatible
from batchgen.emulator.server import LocalService, run_service
from benchmarks.serving import serving
from tests.support.bench import Bench, seeds
from tests.support.sdk_calls import gemini_job, together_client

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


@pytest.fixture
def usual() -> Iterator[LocalService]:
    """A service as `serve` starts it without options."""
    with LocalService() as running:
        yield running


CONTROL = [("GET", "world"), ("POST", "advance"), ("POST", "faults"), ("POST", "options"), ("DELETE", "faults")]


@pytest.mark.parametrize(("method", "action"), CONTROL)
def test_control_is_off_unless_it_was_asked_for(usual: LocalService, method: str, action: str) -> None:
    before = usual.world.now()
    with httpx.Client(base_url=usual.gemini_url, timeout=5) as control:
        answer = control.request(method, f"/_control/{action}", json={"seconds": 1e6, "valid_keys": []})
    assert answer.status_code == 404
    assert "serve --control" in answer.json()["error"]
    assert usual.world.now() - before < 1000
    assert usual.world.valid_keys is None


PAGES = [
    ({"Content-Type": "text/plain"}, 415, "application/json"),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    ({}, 415, "application/json"),
    ({"Content-Type": "application/json", "Origin": "https://news.example"}, 403, "https://news.example"),
    ({"Content-Type": "application/json", "Origin": "null"}, 403, "null"),
    ({"Content-Type": "application/json", "Origin": "http://127.0.0.1:1"}, 403, "http://127.0.0.1:1"),
    ({"Content-Type": "application/json", "Host": "rebound.example"}, 421, "--allow-host rebound.example"),
]


@pytest.mark.parametrize(("headers", "status", "said"), PAGES)
def test_control_obeys_no_web_page(service: LocalService, headers: dict[str, str], status: int, said: str) -> None:
    with httpx.Client(base_url=service.gemini_url, timeout=5) as page:
        answer = page.post("/_control/options", content=b'{"valid_keys": []}', headers=headers)
    assert answer.status_code == status
    assert said in str(answer.json()["error"])
    assert service.world.valid_keys is None


def test_control_obeys_a_page_of_its_own(service: LocalService) -> None:
    with httpx.Client(base_url=service.gemini_url, headers={"Origin": service.gemini_url}, timeout=5) as own:
        assert own.post("/_control/options", json={"page_size": 3}).status_code == 200


FOREIGN = [
    "rebound.example",
    "rebound.example:8801",
    "localhost.example",
    "127.0.0.1.example",
    "10.0.0.7",
    "[::2]:80",
    "[",
    "",
]
OWN = ["localhost", "LOCALHOST:8801", "gemini.localhost", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]:8801", "::1"]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_reaches_neither_provider(usual: LocalService, host: str) -> None:
    for url, path in ((usual.gemini_url, "/v1beta/batches"), (usual.together_url, "/v1/batches")):
        headers = {"Host": host, "x-goog-api-key": "k", "Authorization": "Bearer k"}
        answer = httpx.get(url + path, headers=headers, timeout=5)
        assert answer.status_code == 421
        said = answer.json()["error"]["message"]
        assert repr(host) in said
        assert "--allow-host" in said
    assert not usual.world.requests


@pytest.mark.parametrize("host", OWN)
def test_every_name_of_this_machine_is_its_own(usual: LocalService, host: str) -> None:
    answer = httpx.get(
        f"{usual.together_url}/v1/batches", headers={"Host": host, "Authorization": "Bearer k"}, timeout=5
    )
    assert answer.status_code == 200


def test_a_name_that_is_allowed() -> None:
    with LocalService(allow_hosts=["serve.cluster", "10.0.0.7"]) as service:
        for host, status in {"Serve.Cluster:8802": 200, "10.0.0.7": 200, "other.cluster": 421}.items():
            headers = {"Host": host, "Authorization": "Bearer k"}
            assert httpx.get(f"{service.together_url}/v1/batches", headers=headers, timeout=5).status_code == status


def test_a_client_without_a_host_is_no_browser(usual: LocalService) -> None:
    port = int(usual.together_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.sendall(b"GET /v1/batches HTTP/1.0\r\nAuthorization: Bearer k\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 200")


def test_a_run_says_which_name_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    port = bench.service.gemini_url.rpartition(":")[2]
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f"http://0.0.0.0:{port}")
    bench.prepare(seeds(2))
    done = bench.run("collect", "--advance")
    assert "--allow-host 0.0.0.0" in done.err
    assert not bench.service.world.jobs_created()


def test_the_options_of_serve(tmp_path: Path) -> None:
    with serving(tmp_path, "scripted", "--control", "--allow-host", "serve.cluster") as service:
        assert httpx.get(f"{service.gemini_url}/_control/world", timeout=5).json()["posts"] == 0
        for host, status in {"serve.cluster": 200, "other.cluster": 421}.items():
            headers = {"Host": host, "Authorization": "Bearer k"}
            assert httpx.get(f"{service.together_url}/v1/batches", headers=headers, timeout=5).status_code == status
