"""Test /healthz and /metrics of the local service, read by Prometheus' own parser."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchgen.emulator import metrics
from batchgen.emulator.backends.openai_chat import OpenAICompatible
from batchgen.emulator.backends.pool import Pool
from batchgen.emulator.backends.throttle import DOWN_AFTER
from batchgen.emulator.backends.workers import MAX_TRIES
from batchgen.emulator.server import LocalService
from benchmarks.upstream import Reply, Upstream
from tests.emulator.test_upstream import HELLO, number_of, over
from tests.support.bench import REPOSITORY
from tests.support.during_call import waited_for
from tests.support.sdk_calls import (
    NO_TLS,
    gemini_client,
    gemini_job,
    jsonl,
    together_client,
    together_create,
    together_job,
    together_rows,
    together_upload,
)

Numbers = dict[tuple[str, str], float]
IN_FLIGHT = ("rows_in_flight", "")


@pytest.fixture
def plain() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5, verify=NO_TLS) as client:
        yield client


def scrape(plain: httpx.Client, url: str) -> Numbers:
    """The samples of a page, by their name without `batchgen_serve_` and the value of their label."""
    page = plain.get(f"{url}/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]
    own = [sample for sample in samples if sample.name.startswith("batchgen_serve_")]
    assert {"process_resident_memory_bytes", "process_open_fds"} <= {sample.name for sample in samples}
    return {(one.name.removeprefix("batchgen_serve_"), "".join(one.labels.values())): one.value for one in own}


def mixed(message: str, _before: int) -> Reply:
    """Row 0 is refused for ever, row 1 is wrong, row 2 is cut; the others are answered."""
    number = number_of(message)
    cut = b'{"choices": [{"message": {"content": "Half"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 7}}'
    return {0: Reply(500), 1: Reply(400), 2: Reply(body=cut)}.get(number, Reply())


def test_rows_by_outcome_latency_and_tokens(plain: httpx.Client) -> None:
    with (
        Upstream(behaviour=mixed) as upstream,
        LocalService(OpenAICompatible(upstream.url, parallel=4)) as service,
        together_client(service) as client,
    ):
        before = scrape(plain, service.openai_url)
        assert set(before.values()) == {0}
        rows = together_rows(8)
        rows[7]["body"]["stop"] = ["a", "b", "c", "d", "e"]  # Together takes four at most
        together_create(client, together_upload(client, jsonl(rows)))
        over(service, seconds=20.0)
        found = scrape(plain, service.gemini_url)
        assert found == scrape(plain, service.together_url)
    outcomes = {label: value for (name, label), value in found.items() if name == "rows_total"}
    assert outcomes == {"stop": 4, "length": 1, "failed": 2, "invalid": 1}
    assert found["retries_total", ""] == MAX_TRIES
    assert (found["tokens_total", "prompt"], found["tokens_total", "completion"]) == (4 * 10 + 7, 4 * 5)
    assert found["row_duration_seconds_count", ""] == found["row_duration_seconds_bucket", "+Inf"] == 5
    assert 0 < found["row_duration_seconds_sum", ""] < 50
    assert found[IN_FLIGHT] == found["rows_waiting", ""] == found["jobs", "running"] == 0


def test_what_is_in_flight_and_which_servers_are_up(plain: httpx.Client) -> None:
    with Upstream(behaviour=lambda message, _: Reply(hang="boat" in message)) as first, Upstream() as second:
        servers = {one.url: OpenAICompatible(one.url, model="m", parallel=2) for one in (first, second)}
        second.shut()
        pool = Pool(servers, clock=lambda: 0.0)  # a rest does not end
        for _ in range(DOWN_AFTER):
            pool.servers[0].throttle.asked = 1  # the other server is asked first
            assert pool.answer(HELLO).text
            pool.servers[0].throttle.asked = 0
        with LocalService(pool) as service, together_client(service) as client:
            together_job(client, 20)
            assert waited_for(lambda: service.world.counts.in_flight == 2)
            found = scrape(plain, service.gemini_url)
            assert (found["backend_up", first.url], found["backend_up", second.url]) == (1, 0)
            assert (found["backend_in_flight", first.url], found["backend_in_flight", second.url]) == (2, 0)
            assert found[IN_FLIGHT] == 2
            assert (found["rows_waiting", ""], found["jobs", "running"]) == (20, 1)
            first.shut()
        assert service.world.counts.in_flight == 0


def test_a_page_shows_no_text_and_no_key(plain: httpx.Client) -> None:
    with LocalService() as service, gemini_client(service, key="sk-PLANTED-metrics-key") as client:
        gemini_job(client, 3, plain=True)
        service.step()
        page = plain.get(f"{service.gemini_url}/metrics").text
    assert 'batchgen_serve_rows_total{outcome="stop"} 3.0' in page
    assert "PLANTED" not in page
    assert "arbour" not in page


def test_the_two_addresses_are_read_only(plain: httpx.Client) -> None:
    lines: list[str] = []
    with LocalService(log=lines.append) as service:
        for path in ("/healthz", "/metrics"):
            assert plain.post(service.together_url + path, json={}).status_code == 405
            assert plain.get(service.together_url + path, headers={"Host": "rebound.example"}).status_code == 421
        assert plain.get(f"{service.together_url}/healthz").json() == {"status": "ok"}
        assert not service.world.requests  # no provider was asked
        assert not lines
        plain.get(f"{service.gemini_url}/v1beta/models/a:b%0AGET%20/forged")
        assert lines == ["GET /v1beta/models/a:b%0AGET%20/forged 404"]


def test_without_the_library_the_page_says_how_to_install_it(
    plain: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalService() as service:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        page = plain.get(f"{service.gemini_url}/metrics")
    assert (page.status_code, page.json()["error"].count(metrics.INSTALL)) == (501, 1)
    pinned = (REPOSITORY / "requirements-serve.txt").read_text("utf-8").splitlines()
    assert f"pip install {pinned[-1]}" == metrics.INSTALL
